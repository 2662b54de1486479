"""Class embedder and spatial rescaler of LDM: official keys.

CompVis/latent-diffusion: ldm/modules/encoders/modules.py.
"""

from pyramid_jax.interop import mapping


_LEAVES = {
  'kernel': ('weight', 'conv1x1'),
  'bias': ('bias', 'bias'),
  'embedding': ('weight', 'embedding'),
}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns key and kind of a `ClassEmbedder` or `SpatialRescaler` leaf."""
  *modules, leaf = path
  name, kind = _LEAVES[leaf]
  return '.'.join([*modules, name]), kind
