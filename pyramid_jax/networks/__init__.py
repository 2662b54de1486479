"""Networks: Flax Linen modules over (B, H, W, C) maps and (B, N, C) tokens.

What the fields and arguments of the same name mean everywhere:
  dtype: element type of the activations; parameters, norms, softmax and
    results are float32.
  remat: whether blocks recompute their activations in the backward pass.
  attention: the kernel that attends, one of `attention.IMPLEMENTATIONS`.
  heads, head_dim: number and width of the heads of each attention.
  depth: number of blocks.
  eps: what a norm adds to the variance.
  num_groups: groups of a group norm, which must divide the channels.
  train: whether dropout is active, which needs a 'dropout' key.
"""
