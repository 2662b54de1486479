"""The patch discriminator of taming-transformers: official keys.

CompVis/taming-transformers: taming/modules/discriminator/model.py,
NLayerDiscriminator.
"""

from collections.abc import Sequence


# last part of our path -> last part of the official key, kind
_LEAVES = {
  'kernel': ('weight', 'conv'),
  'bias': ('bias', 'bias'),
  'scale': ('weight', 'norm'),
  'mean': ('running_mean', 'raw'),
  'var': ('running_var', 'raw'),
  'loc': ('loc', 'conv1x1'),
  'gain': ('scale', 'conv1x1'),
}


def rename(path: Sequence[str]) -> tuple[str, str]:
  """Returns the official key of a parameter or statistic, and its kind.

  Paths are (layer, leaf), with or without the collection in front.
  """
  layer, leaf = path[-2:]
  name, kind = _LEAVES[leaf]
  return f'{layer.replace("_", ".")}.{name}', kind
