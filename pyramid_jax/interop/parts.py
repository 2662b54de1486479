"""Single networks from foreign files, and back.

A part is read from a file of its own or from a bigger checkpoint that holds it
under a prefix; it is written as a safetensors file under our own paths.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from absl import logging
from flax import traverse_util
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.interop.families import autoencoder
from pyramid_jax.interop.families import conditioners
from pyramid_jax.interop.families import diffusers
from pyramid_jax.interop.families import diffusers_unet
from pyramid_jax.interop.families import discriminator
from pyramid_jax.interop.families import lpips
from pyramid_jax.interop.families import msvqgan
from pyramid_jax.interop.families import pyunet
from pyramid_jax.interop.families import text_encoders
from pyramid_jax.interop.families import unet
from pyramid_jax.networks import lpips as lpips_network


State = Mapping[str, np.ndarray]
Heads = diffusers_unet.Heads

# What our own files say of themselves.
FORMAT = 'pyramid_jax'

# Where the heads of a U-Net stand in them.
HEADS = 'heads'

# How the tensors of an exported file are named.
LAYOUTS = ('official', 'diffusers')


def _same(state: State, heads: Heads | None) -> State:
  del heads
  return state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """How the official code names a network.

  Attributes:
    rename: our path -> (official key, kind).
    prefixes: what may stand before the keys, in order of preference.
    adapt: brings other layouts of the same weights to the official one;
      told the heads of the network where its family needs them.
    constants: official buffers that are no weights of ours: checked when
      read, written when exported.
    to_diffusers: turns an official state dict into one of that library, told
      the same; None where there is no such layout.
  """

  rename: mapping.Rename
  prefixes: tuple[str, ...] = ('',)
  adapt: Callable[[State, Heads | None], State] = _same
  constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  to_diffusers: Callable[[State, Heads | None], State] | None = None


def _adapt_clip(state: State, heads: Heads | None) -> State:
  """Takes openai/CLIP files too, alone or inside a checkpoint."""
  del heads
  for prefix in ('', 'cond_stage_model.model.'):
    if f'{prefix}token_embedding.weight' in state:
      inner = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix)
      }
      return text_encoders.from_openai(inner)
  return state


_UNET_PREFIXES = ('', 'model.diffusion_model.', 'diffusion_model.')

_FIRST_STAGE = Part(
  rename=autoencoder.rename,
  prefixes=('', 'first_stage_model.'),
  adapt=lambda state, _: diffusers.to_official(state),
  to_diffusers=lambda state, _: diffusers.from_official(state),
)

# The keys of a checkpoint say where they come from: a training checkpoint of a
# first stage has `loss.`, one of Frido has `first_stage_model.` and so on.
FAMILIES = {
  'frido.msvqgan': Part(
    rename=msvqgan.rename, prefixes=('', 'first_stage_model.')
  ),
  'ldm.autoencoder_kl': _FIRST_STAGE,
  'ldm.vq': _FIRST_STAGE,
  'frido.pyunet': Part(rename=pyunet.rename, prefixes=_UNET_PREFIXES),
  'ldm.unet': Part(
    rename=unet.rename,
    prefixes=_UNET_PREFIXES,
    adapt=diffusers_unet.to_official,
    to_diffusers=diffusers_unet.from_official,
  ),
  'bert': Part(
    rename=text_encoders.rename,
    prefixes=('', 'cond_stage_model.transformer.', 'transformer.'),
  ),
  'clip_text': Part(
    rename=text_encoders.rename_clip,
    prefixes=('', 'cond_stage_model.transformer.'),
    adapt=_adapt_clip,
  ),
  'class_embedder': Part(
    rename=conditioners.rename, prefixes=('', 'cond_stage_model.')
  ),
  'spatial_rescaler': Part(
    rename=conditioners.rename, prefixes=('', 'cond_stage_model.')
  ),
  'discriminator': Part(
    rename=discriminator.rename,
    prefixes=('', 'loss.discriminator.', 'discriminator.'),
  ),
  'lpips': Part(
    rename=lpips.rename,
    prefixes=('', 'loss.perceptual_loss.', 'perceptual_loss.'),
    adapt=lambda state, _: lpips.from_torchvision(state),
    constants={
      'scaling_layer.shift': lpips_network.SHIFT.reshape(1, 3, 1, 1),
      'scaling_layer.scale': lpips_network.SCALE.reshape(1, 3, 1, 1),
    },
  ),
}


def part(family: str) -> Part:
  """Returns a family.

  Raises:
    ValueError: there is no such family.
  """
  if family not in FAMILIES:
    raise ValueError(
      f'converter family {family!r}; allowed: {", ".join(FAMILIES)}'
    )
  return FAMILIES[family]


def to_flax(
  family: str, state: State, template: Any, heads: Heads | None = None
) -> tuple[dict[str, Any], mapping.Report]:
  """Finds a network in a state dict, see `mapping.to_flax`.

  Args:
    family: a key of `FAMILIES`.
    state: of any layout that is known.
    template: tree of shapes; a leaf that is missing is kept from here.
    heads: of the network, for a U-Net in the layout of diffusers.

  Raises:
    ValueError: an unknown family, a network that it does not have, or
      constants that are not the published ones.
  """
  how = part(family)
  state = how.adapt(state, heads)
  found = [
    (mapping.to_flax(state, template, how.rename, prefix), prefix)
    for prefix in how.prefixes
  ]
  # max keeps the first of equals, so the order of the prefixes decides
  (params, report), prefix = max(found, key=lambda f: len(f[0][1].matched))
  for name, want in how.constants.items():
    key = prefix + name
    if key not in state:
      continue
    if not np.allclose(np.ravel(state[key]), np.ravel(want)):
      raise ValueError(f'{key} is {np.ravel(state[key])}, needed {want}')
    report.matched[key] = report.unused.pop(key)
  for key, value in state.items():
    if not key.startswith(prefix):
      report.unused[key] = tuple(np.shape(value))
  return params, report


def to_official(
  family: str,
  params: Any,
  layout: str = 'official',
  heads: Heads | None = None,
) -> dict[str, np.ndarray]:
  """Returns the state dict of a network, without prefix.

  Args:
    family: a key of `FAMILIES`.
    params: the tree.
    layout: one of `LAYOUTS`.
    heads: of the network, for a U-Net in the layout of diffusers.

  Raises:
    ValueError: a family or a network that has not this layout.
  """
  how = part(family)
  state = mapping.to_official(params, how.rename) | dict(how.constants)
  if layout == 'official':
    return state
  if how.to_diffusers is None:
    having = [name for name, p in FAMILIES.items() if p.to_diffusers]
    raise ValueError(
      f'{family!r} has no layout {layout!r}; only {", ".join(having)} have it'
    )
  return dict(how.to_diffusers(state, heads))


def read(
  family: str, path: str | os.PathLike[str], template: Any
) -> tuple[dict[str, Any], mapping.Report]:
  """Reads a network from a foreign file, or from one that `write` made.

  Args:
    family: a key of `FAMILIES`.
    path: PyTorch, safetensors or npz.
    template: tree of shapes; a leaf that is missing is kept from here.

  Raises:
    ValueError: an unreadable file, or our own file of another family.
    OSError: the file cannot be opened.
  """
  part(family)  # a wrong name is told before a big file is read
  state = weight_file.read(path)
  metadata = weight_file.metadata(path)
  if metadata.get('format') != FORMAT:
    return to_flax(family, state, template)
  if metadata.get('family') != family:
    raise ValueError(
      f'{path} holds {metadata.get("family")!r}, needed {family!r}'
    )
  return mapping.to_flax(state, template, lambda path: ('/'.join(path), 'raw'))


def load_part(
  family: str, path: str | os.PathLike[str], template: Any
) -> dict[str, Any]:
  """Reads a network whole; keys that it does not need are logged.

  Raises:
    ValueError: see `read`, or one line that names what is missing.
    OSError: the file cannot be opened.
  """
  params, report = read(family, path, template)
  try:
    report.require_complete()
  except ValueError as error:
    raise ValueError(f'{path} as {family}: {error}') from error
  if report.unused:
    logging.info('%s: %d keys are not used', path, len(report.unused))
  return params


def write(
  family: str,
  path: str | os.PathLike[str],
  params: Any,
  heads: Heads | None = None,
) -> None:
  """Writes a network under our own paths, and the heads of a U-Net."""
  arrays = {
    '/'.join(names): np.asarray(leaf)
    for names, leaf in traverse_util.flatten_dict(params).items()
  }
  metadata = {'format': FORMAT, 'family': family}
  if heads is not None:
    metadata[HEADS] = heads.to_json()
  safetensors_file.write(path, arrays, metadata)


def read_own(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
  """Returns the family and the tree of a file that `write` made.

  Raises:
    ValueError: some other file.
    OSError: the file cannot be opened.
  """
  metadata = weight_file.metadata(path)
  if metadata.get('format') != FORMAT:
    raise ValueError(f'{path} was not written by this package')
  arrays = weight_file.read(path)
  tree = {tuple(name.split('/')): array for name, array in arrays.items()}
  return metadata['family'], traverse_util.unflatten_dict(tree)


def read_heads(path: str | os.PathLike[str]) -> Heads | None:
  """Returns the heads that `write` was given."""
  text = weight_file.metadata(path).get(HEADS)
  return None if text is None else Heads.from_json(text)
