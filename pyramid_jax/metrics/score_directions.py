"""Of which scores less is better."""

# All others, such as accuracies, recalls and decibels, rise.
LOWER_IS_BETTER = frozenset(
  (
    'fid',
    'sfid',
    'kid',
    'cmmd',
    'fd_dinov2',
    'copied',
    'lpips',
    'scene_fid',
    'shape_fd',
    'edge_chamfer',
    'edge_missed',
  )
)


def lower_is_better(name: str) -> bool:
  """Whether a lower value of a score is the better one.

  Its name may have a variant and a number of images: fid_tf1_50k.
  """
  return any(f'{name}_'.startswith(f'{x}_') for x in LOWER_IS_BETTER)
