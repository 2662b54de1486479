"""First stages of Frido and of LDM: official keys, by the same rule.

davidhalladay/Frido: taming/models/msvqgan.py, MSFPNVQModel;
CompVis/latent-diffusion: ldm/models/autoencoder.py, AutoencoderKL and VQModel.
"""

from pyramid_jax.interop import mapping


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key of a parameter and the kind of its layout."""
  parts: list[str] = []
  for parent, name in zip(('', *path), path[:-1], strict=False):
    stem, _, index = name.rpartition('_')
    # the middle's block_1, attn_1 and block_2 are names, not list entries
    in_list = index.isdigit() and not parent.startswith('mid')
    parts.append(f'{stem}.{index}' if in_list else name)
  transposed = len(path) == 2 and path[0].startswith('upsample_')
  kernel = 'conv_transpose' if transposed else 'conv'
  module = '.'.join(parts)
  if path[-1] == 'embedding':
    module += '.embedding'
  return mapping.official(module, path[-1], kernel)
