"""Networks: Flax Linen modules over (B, H, W, C) maps and (B, N, C) tokens.

Modules raise ValueError for attributes and arguments that do not fit together.
What the fields and arguments of the same name mean everywhere:
  dtype: element type of the activations; parameters, norms, softmax and
    results are float32.
  remat: what blocks keep for the backward pass, a key of `remat.POLICIES`.
  scan_blocks: see `repeated.run`, which takes it as `least`.
  attention: the kernel that attends, one of `attention.IMPLEMENTATIONS`.
  heads, head_dim: number and width of the heads of each attention.
  depth: number of blocks.
  eps: what a norm adds to the variance.
  num_groups: groups of a group norm, which must divide the channels.
  train: whether dropout is active, which needs a 'dropout' key.
  t: (B,), or (1,) if the whole batch shares it, the index of the noise level,
    which may be fractional.
  stage: the scale or resolution, 0 = coarsest.
  features: names of activations to return; the result is then a pair of the
    prediction and {name: activation}.
  concat_noise: (B,), logarithm of the standard deviation of the noise on an
    image among the channels of x, or None.
"""
