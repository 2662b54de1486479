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
from pyramid_jax.interop.families import conditioners
from pyramid_jax.interop.families import diffusers
from pyramid_jax.interop.families import diffusers_unet
from pyramid_jax.interop.families import discriminator
from pyramid_jax.interop.families import inception
from pyramid_jax.interop.families import latent_diffit
from pyramid_jax.interop.families import lgp
from pyramid_jax.interop.families import lpips
from pyramid_jax.interop.families import msvqgan
from pyramid_jax.interop.families import pidinet
from pyramid_jax.interop.families import t5
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


def _unchanged(tree: Any) -> Any:
  return tree


def _uncut(state: State, tree: Any) -> State:
  del tree
  return state


def _no_buffers(params: Any) -> State:
  del params
  return {}


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
    buffers: further ones, of an (unstacked) tree.
    unstack: gives scanned blocks their own parameters, as they have them in
      files; other trees come back as they are.
    stack: undoes `unstack`.
    cut: cuts official tensors to the parameters of an (unstacked) tree, where
      several of ours are one of theirs.
    join: undoes `cut`.
    strict: whether a file must hold the network alone, buffers included.
    to_diffusers: turns an official state dict into one of that library, told
      the same; None where there is no such layout.
  """

  rename: mapping.Rename
  prefixes: tuple[str, ...] = ('',)
  adapt: Callable[[State, Heads | None], State] = _same
  constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  buffers: Callable[[Any], State] = _no_buffers
  unstack: Callable[[Any], Any] = _unchanged
  stack: Callable[[Any], Any] = _unchanged
  cut: Callable[[State, Any], State] = _uncut
  join: Callable[[State], State] = _unchanged
  strict: bool = False
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
  rename=msvqgan.rename,
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
  'frido.pyunet': Part(rename=unet.rename, prefixes=_UNET_PREFIXES),
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
  't5': Part(
    rename=t5.rename, adapt=lambda state, _: t5.adapt(state), strict=True
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
  'diffit.latent': Part(
    rename=latent_diffit.rename,
    prefixes=latent_diffit.PREFIXES,
    buffers=latent_diffit.buffers,
    unstack=latent_diffit.unstack,
    stack=latent_diffit.stack,
    strict=True,
  ),
  'lgp.mlp': Part(rename=lgp.rename, cut=lgp.cut, join=lgp.join),
  'inception': Part(
    rename=inception.rename,
    adapt=lambda state, _: inception.adapt(state),
    strict=True,
  ),
  'pidinet': Part(
    rename=pidinet.rename,
    prefixes=pidinet.PREFIXES,
    adapt=lambda state, _: pidinet.adapt(state),
    strict=True,
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
  unstacked = how.unstack(template)
  state = how.cut(how.adapt(state, heads), unstacked)
  found = [
    (mapping.to_flax(state, unstacked, how.rename, prefix), prefix)
    for prefix in how.prefixes
  ]
  # max keeps the first of equals, so the order of the prefixes decides
  (params, report), prefix = max(found, key=lambda f: len(f[0][1].matched))
  constants = {**how.constants, **how.buffers(unstacked)}
  for name, want in constants.items():
    key = prefix + name
    if key in state:
      _check_constant(key, state[key], want)
      report.matched[key] = report.unused.pop(key)
    elif how.strict:
      report.missing[key] = want.shape
  for key, value in state.items():
    if not key.startswith(prefix):
      report.unused[key] = tuple(np.shape(value))
  return params if unstacked is template else how.stack(params), report


def _check_constant(key: str, found: np.ndarray, want: np.ndarray) -> None:
  """Raises ValueError if a constant is not the published one."""
  if np.size(found) != np.size(want):
    raise ValueError(f'{key} is {np.shape(found)}, needed {want.shape}')
  if not np.allclose(np.ravel(found), np.ravel(want)):
    got, needed = (
      np.array2string(np.ravel(x), threshold=6, max_line_width=200)
      for x in (found, want)
    )
    raise ValueError(f'{key} is {got}, needed {needed}')


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
  params = how.unstack(params)
  state = dict(how.join(mapping.to_official(params, how.rename)))
  state |= {**how.constants, **how.buffers(params)}
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
  how = part(family)  # a wrong name is told before a big file is read
  state = weight_file.read(path)
  metadata = weight_file.metadata(path)
  if metadata.get('format') != FORMAT:
    return to_flax(family, state, template)
  if metadata.get('family') != family:
    raise ValueError(
      f'{path} holds {metadata.get("family")!r}, needed {family!r}'
    )
  unstacked = how.unstack(template)
  params, report = mapping.to_flax(
    state, unstacked, lambda path: ('/'.join(path), 'raw')
  )
  return params if unstacked is template else how.stack(params), report


def load_part(
  family: str, path: str | os.PathLike[str], template: Any
) -> dict[str, Any]:
  """Reads a network whole; keys that it does not need are logged.

  Raises:
    ValueError: see `read`, or one line that names what is missing or, in a
      strict family, not needed.
    OSError: the file cannot be opened.
  """
  params, report = read(family, path, template)
  try:
    report.require_complete()
    if report.unused and part(family).strict:
      first = ', '.join(sorted(report.unused)[:4])
      raise ValueError(f'{len(report.unused)} unknown keys: {first}')
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
    for names, leaf in traverse_util.flatten_dict(
      part(family).unstack(params)
    ).items()
  }
  metadata = {'format': FORMAT, 'family': family}
  if heads is not None:
    metadata[HEADS] = heads.to_json()
  safetensors_file.write(path, arrays, metadata)


def read_own(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
  """Returns the family and the (unstacked) tree of a file that `write` made.

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
