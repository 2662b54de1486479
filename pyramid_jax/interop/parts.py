"""Single networks from files of other code, and back.

A network is read from a file of its own or from a bigger checkpoint that holds
it under a prefix; it is written as a safetensors file under our own paths.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from absl import logging
from flax import traverse_util
import numpy as np

from pyramid_jax import files
from pyramid_jax.interop import mapping
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.interop import weight_sets
from pyramid_jax.interop.families import clip_vision
from pyramid_jax.interop.families import diffusers
from pyramid_jax.interop.families import diffusers_unet
from pyramid_jax.interop.families import dinov2
from pyramid_jax.interop.families import discriminator
from pyramid_jax.interop.families import dit
from pyramid_jax.interop.families import inception
from pyramid_jax.interop.families import latent_diffit
from pyramid_jax.interop.families import lgp
from pyramid_jax.interop.families import lpips
from pyramid_jax.interop.families import msvqgan
from pyramid_jax.interop.families import pidinet
from pyramid_jax.interop.families import song_unet
from pyramid_jax.interop.families import t5
from pyramid_jax.interop.families import text_encoders
from pyramid_jax.interop.families import unet
from pyramid_jax.interop.families import vgg16


State = Mapping[str, np.ndarray]
Heads = diffusers_unet.Heads

FORMAT = 'pyramid_jax'  # The format of our own files.
HEADS = 'heads'  # Their entry for the heads of a U-Net.
LAYOUTS = ('official', 'diffusers')  # names of the tensors of exported files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """How the official code names a network."""

  rename: mapping.Rename  # our path -> (official key, kind)
  # Possible prefixes of the keys, in order of preference.
  prefixes: tuple[str, ...] = ('',)
  # Turns other layouts of the same weights into the official one.
  adapt: Callable[[State], State] = lambda state: state
  # Constants of the official state dict of an (unstacked) tree, which are
  # checked when read and written when exported.
  buffers: Callable[[Any], State] = lambda tree: {}
  # Those whose size only the state dict (without prefix) gives; not exported.
  sized_buffers: Callable[[Any, State], State] = lambda tree, state: {}
  # A module whose blocks are stacked; files have each by itself.
  scanned: str = ''
  # Cuts official tensors to the parameters of an (unstacked) tree, where
  # several of ours are one official tensor.
  cut: Callable[[State, Any], State] = lambda state, tree: state
  join: Callable[[State], State] = lambda state: state  # undoes `cut`
  # Those of released networks that no step reads: they are neither taken nor
  # exported.
  unread: tuple[str, ...] = ()
  # Whether a file must hold the network alone, buffers included.
  strict: bool = False
  # A module whose `to_official` and `from_official` convert the layout of that
  # library, given the heads of the network; None without one.
  diffusers: Any = None


_CONDITION = 'cond_stage_model.'
_FIRST_STAGE = Part(
  rename=msvqgan.rename,
  prefixes=('', 'first_stage_model.'),
  diffusers=diffusers,
)
_UNET = Part(
  rename=unet.rename,
  prefixes=('', 'model.diffusion_model.', 'diffusion_model.'),
)
# CompVis/latent-diffusion: ldm/modules/encoders/modules.py, ClassEmbedder and
# SpatialRescaler.
_EMBEDDER = Part(
  rename=lambda path: mapping.official(
    '.'.join(path[:-1]), path[-1], 'conv1x1'
  ),
  prefixes=('', _CONDITION),
)

# The keys of a checkpoint say where they come from: a training checkpoint of a
# first stage has `loss.`, one of Frido has `first_stage_model.` and so on.
FAMILIES = {
  'frido.msvqgan': Part(
    rename=msvqgan.rename, prefixes=('', 'first_stage_model.')
  ),
  'ldm.autoencoder_kl': _FIRST_STAGE,
  'ldm.vq': _FIRST_STAGE,
  'frido.pyunet': _UNET,
  'ldm.unet': dataclasses.replace(_UNET, diffusers=diffusers_unet),
  # A training checkpoint of LDM's has its diffusion model besides.
  'adm.classifier': Part(
    rename=unet.rename_classifier, prefixes=('', 'model.')
  ),
  'bert': Part(
    rename=text_encoders.rename,
    unread=text_encoders.UNREAD,
    prefixes=('', f'{_CONDITION}transformer.', 'transformer.'),
  ),
  'clip_text': Part(
    rename=text_encoders.rename_clip,
    prefixes=('', f'{_CONDITION}transformer.'),
    adapt=text_encoders.adapt_clip,
  ),
  'clip_vision': Part(rename=clip_vision.rename, adapt=clip_vision.adapt),
  'dinov2': Part(
    rename=dinov2.rename,
    cut=dinov2.cut,
    join=dinov2.join,
    unread=dinov2.UNREAD,
    strict=True,
  ),
  'vgg16': Part(rename=vgg16.rename, unread=vgg16.UNREAD, strict=True),
  't5': Part(rename=t5.rename, adapt=t5.adapt, strict=True),
  'class_embedder': _EMBEDDER,
  'spatial_rescaler': _EMBEDDER,
  'discriminator': Part(
    rename=discriminator.rename,
    prefixes=('', 'loss.discriminator.', 'discriminator.'),
  ),
  'lpips': Part(
    rename=lpips.rename,
    prefixes=('', 'loss.perceptual_loss.', 'perceptual_loss.'),
    adapt=lpips.from_torchvision,
    buffers=lpips.buffers,
  ),
  'diffit.latent': Part(
    rename=latent_diffit.rename,
    prefixes=latent_diffit.PREFIXES,
    buffers=latent_diffit.buffers,
    scanned=latent_diffit.SCANNED,
    strict=True,
  ),
  'dit': Part(
    rename=dit.rename,
    prefixes=latent_diffit.PREFIXES,
    sized_buffers=dit.sized_buffers,
    scanned=latent_diffit.SCANNED,
    strict=True,
  ),
  'edm.song_unet': Part(rename=song_unet.rename, prefixes=song_unet.PREFIXES),
  'lgp.mlp': Part(rename=lgp.rename, cut=lgp.cut, join=lgp.join),
  'inception': Part(
    rename=inception.rename, adapt=inception.adapt, strict=True
  ),
  'pidinet': Part(
    rename=pidinet.rename,
    prefixes=pidinet.PREFIXES,
    adapt=pidinet.adapt,
    strict=True,
  ),
}


def part(family: str) -> Part:
  """Returns a family; raises ValueError for an unknown one."""
  if family not in FAMILIES:
    raise ValueError(
      f'converter family {family!r}; allowed: {", ".join(FAMILIES)}'
    )
  return FAMILIES[family]


def to_flax(
  family: str,
  state: State,
  template: Any,
  heads: Heads | None = None,
  weights: str = '',
) -> tuple[dict[str, Any], mapping.Report]:
  """Finds a network in a state dict, see `mapping.to_flax`.

  A U-Net in the layout of diffusers needs the heads of the network; `weights`
  says which of several sets is taken, see `weight_sets.choose`.

  Raises:
    ValueError: an unknown family, a network that it does not have, constants
      that are not the published ones, or no such set of weights.
  """
  how = part(family)
  state, names = weight_sets.unwrapped(state)
  unstacked = mapping.unstack(template, how.scanned)
  choice = weight_sets.choose(_sets(how, state, unstacked, heads), weights)
  taken = _nothing(how, state) if choice is None else choice.taken
  params, report = mapping.to_flax(
    taken.state, unstacked, how.rename, taken.prefix
  )
  prefix = taken.prefix
  named = [key for key in taken.state if key.startswith(prefix)]
  bare = mapping.Renamed(
    taken.state, {key.removeprefix(prefix): key for key in named}
  )
  constants = {**how.buffers(unstacked), **how.sized_buffers(unstacked, bare)}
  for name, want in constants.items():
    key = taken.prefix + name
    if key in taken.state:
      _check_constant(key, taken.state[key], want)
      report.matched[key] = report.unused.pop(key)
    elif how.strict:
      report.missing[key] = want.shape
  for key in taken.state:
    if not key.startswith(taken.prefix):
      report.unused[key] = tuple(np.shape(taken.state[key]))
  report.leave_out(taken.prefix + name for name in how.unread)
  report = report.renamed(taken.own)
  if choice is not None:
    _add_rest(report, state, choice)
  report = report.renamed(lambda key: names.get(key, key))
  return _stacked(how, params, template), report


def _sets(
  how: Part, state: State, template: Any, heads: Heads | None
) -> list[weight_sets.Found]:
  """Returns the sets of weights of a network, in the official layout."""
  keys = [how.rename(path)[0] for path in mapping.flatten(template)]
  found: list[weight_sets.Found] = []
  problem: ValueError | None = None
  # Other layouts have other keys, so that what is before them is tried.
  has_layouts = how.adapt is not Part.adapt or how.diffusers is not None
  least = len(keys) // 2 if has_layouts else len(state) + 1
  for root in weight_sets.roots(state, least):
    try:
      official = how.adapt(weight_sets.stripped(state, root))
      if how.diffusers is not None:
        official = how.diffusers.to_official(official, heads)
      official = how.cut(official, template)
    except ValueError as error:
      problem = problem or error
      continue
    sets = weight_sets.find(official, keys, how.prefixes)
    found += weight_sets.behind(root, sets)
  if not found and problem is not None:
    raise problem
  return found


def _nothing(how: Part, state: State) -> weight_sets.Found:
  """Returns the empty set of a state dict that does not have the network."""
  return weight_sets.Found(
    prefix=how.prefixes[0], start='', state=how.adapt(state), count=0
  )


def _add_rest(
  report: mapping.Report, state: State, choice: weight_sets.Choice
) -> None:
  """Says what of a file is not taken; other sets are not unused keys."""
  report.notes.extend(choice.notes())
  for key in list(report.unused):
    if choice.is_other(key):
      del report.unused[key]
  root = choice.taken.root
  for key in state:
    if not key.startswith(root) and not choice.is_other(key):
      report.unused[key] = tuple(np.shape(state[key]))


def _stacked(how: Part, params: Any, template: Any) -> dict[str, Any]:
  """Stacks the blocks of parameters if they are so in the template."""
  is_stacked = how.scanned in template
  return mapping.stack(params, how.scanned) if is_stacked else params


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
  """Returns the state dict of a network, without prefix, in one of `LAYOUTS`.

  A U-Net in the layout of diffusers needs the heads of the network.

  Raises:
    ValueError: a family or a network that has not this layout.
  """
  how = part(family)
  params = mapping.unstack(params, how.scanned)
  state = dict(how.join(mapping.to_official(params, how.rename)))
  state |= how.buffers(params)
  name_unwritten(how.unread, state)
  if layout == 'official':
    return state
  if how.diffusers is None:
    having = [name for name, p in FAMILIES.items() if p.diffusers]
    raise ValueError(
      f'{family!r} has no layout {layout!r}; only {", ".join(having)} have it'
    )
  return dict(how.diffusers.from_official(state, heads))


def name_unwritten(unread: Iterable[str], state: State) -> None:
  """Says which keys of a release a state dict lacks; no step reads them."""
  lacks = [key for key in unread if key not in state]
  if lacks:
    logging.warning(
      '%s of the release: not written, since no step reads it and no run has'
      ' it',
      ', '.join(lacks),
    )


def load_part(
  family: str,
  path: str | os.PathLike[str],
  template: Any,
  field: str = 'weights',
) -> dict[str, Any]:
  """Reads a network from a PyTorch, safetensors or npz file, or one of `write`.

  Args:
    family: a key of `FAMILIES`.
    path: of the file, or what stands for it, see `files.local_all`.
    template: the parameters, or their shapes.
    field: what names the file, for messages.

  Raises:
    ValueError: an unreadable file, our own file of another family, or keys
      that are missing or, in a strict family, not needed.
    OSError: the file cannot be opened.
  """
  how = part(family)  # a wrong name is refused before a big file is read
  state = weight_file.read_all(files.local_all(path, field))
  metadata = weight_file.metadata(state)
  if metadata.get('format') != FORMAT:
    params, report = to_flax(family, state, template)
  elif metadata.get('family') != family:
    raise ValueError(
      f'{path} holds {metadata.get("family")!r}, needed {family!r}'
    )
  else:
    unstacked = mapping.unstack(template, how.scanned)
    raw = lambda path: ('/'.join(path), 'raw')
    params, report = mapping.to_flax(state, unstacked, raw)
    params = _stacked(how, params, template)
  try:
    report.require_complete()
    if report.unused and how.strict:
      first = ', '.join(sorted(report.unused)[:4])
      raise ValueError(f'{len(report.unused)} unknown keys: {first}')
  except ValueError as error:
    raise ValueError(f'{path} as {family}: {error}') from error
  for note in report.notes:
    logging.info('%s: %s', path, note)
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
  params = mapping.unstack(params, part(family).scanned)
  arrays = {
    '/'.join(path): np.asarray(leaf)
    for path, leaf in mapping.flatten(params).items()
  }
  metadata = {'format': FORMAT, 'family': family}
  if heads is not None:
    metadata[HEADS] = heads.to_json()
  safetensors_file.write(path, arrays, metadata)


def read_own(
  path: str | os.PathLike[str],
) -> tuple[str, dict[str, Any], Heads | None]:
  """Returns family, (unstacked) tree and heads of a file that `write` made.

  Raises:
    ValueError: some other file.
    OSError: the file cannot be opened.
  """
  arrays = weight_file.read(path)
  metadata = weight_file.metadata(arrays)
  if metadata.get('format') != FORMAT:
    raise ValueError(f'{path} was not written by this package')
  tree = {tuple(name.split('/')): arrays[name] for name in arrays}
  heads = metadata.get(HEADS)
  return (
    metadata['family'],
    traverse_util.unflatten_dict(tree),
    None if heads is None else Heads.from_json(heads),
  )
