"""The patch discriminator of taming-transformers: official keys.

CompVis/taming-transformers: taming/modules/discriminator/model.py,
NLayerDiscriminator.
"""

from pyramid_jax.interop import mapping


# Our leaf of ActNorm -> last part of the official key.
_ACTNORM = {'loc': 'loc', 'gain': 'scale'}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key of a parameter or statistic, and its kind.

  Paths are (layer, leaf), with or without the collection in front.
  """
  layer, leaf = path[-2:]
  module = layer.replace('_', '.')
  if leaf in _ACTNORM:
    return f'{module}.{_ACTNORM[leaf]}', 'conv1x1'
  return mapping.official(module, leaf, 'conv')
