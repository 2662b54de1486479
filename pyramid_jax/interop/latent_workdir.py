"""Official checkpoints of systems on latents as workdirs, and workdirs as them.

LDM and Frido are released as one file each. What is sampled with is what the
reference samples with: the averaged U-Net with the raw condition encoder.
Latent DiffiT is released as two files, whose keys do not meet: the network,
which is sampled with, and Stable Diffusion's autoencoder.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.files import releases
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.interop import latent_checkpoint
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop.families import dit
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import step_folders
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib


FIRST_STAGE = 'first_stage'
CLIP_FILE = 'condition.safetensors'
TWO_FILES = 'latent_diffit'
IMAGENET_CLASSES = 1000

# Name of a system with official checkpoints -> family of its denoiser (unless
# the network has another), and what the system calls it.
DENOISERS = {
  'frido': ('frido.pyunet', 'unet'),
  'ldm': ('ldm.unet', 'unet'),
  TWO_FILES: ('diffit.latent', 'network'),
}


def refuse_used(workdir: stores.Path, names: Sequence[str] = ()) -> None:
  """Raises UserError if a run or a conversion is in the folder already."""
  for name in (workdir_lib.CONFIG, checkpoints.DIRECTORY, FIRST_STAGE, *names):
    if (workdir / name).exists():
      raise errors.UserError(
        f'{workdir} holds a run already ({name}); take another workdir.',
        errors.OUTPUT,
      )


def layout_of(name: str, system: Any) -> latent_checkpoint.Layout | None:
  """Returns what official checkpoints of a system hold, None for `TWO_FILES`.

  Raises:
    ValueError: a config that no official checkpoint can have.
  """
  if name == TWO_FILES:
    network = system.network
    if network.time_token != 'tmsa' or not network.num_classes:
      raise ValueError(
        f'config.network.time_token is {network.time_token!r} with'
        f' {network.num_classes} classes; the official network has'
        " 'tmsa' and classes"
      )
    return None
  encoder = system.encoder
  if encoder.unpublished:
    raise ValueError(
      f'{encoder.unpublished}, which no official checkpoint has; needed'
      " config.condition.encoder 'tokens' or 'clip' and"
      " config.condition.also ''"
    )
  fields: dict[str, Any] = {'openai_clip': getattr(encoder, 'is_openai', False)}
  if encoder.family:
    part = parts.part(encoder.family)
    (fields['condition_prefix'],) = (
      prefix
      for prefix in part.prefixes
      if prefix.startswith(latent_checkpoint.CONDITION)
    )
    fields['condition'], fields['unread'] = part.rename, part.unread
  if name == 'ldm':
    return latent_checkpoint.Layout(
      repeats_first_stage=encoder.pretrained_name == FIRST_STAGE,
      stores_scale=system.space.scale_by_std,
      scalar_scale=True,
      **fields,
    )
  if system.native_scales:
    raise ValueError(
      'config.diffusion.native_scales is True; the official weights were'
      ' trained with all scales on the fine grid, needed False'
    )
  return latent_checkpoint.Layout(**fields)


def fitted(config: ConfigDict, state: Mapping[str, np.ndarray]) -> ConfigDict:
  """Returns the config of an official state dict, locked.

  Its keys say whether CLIP gives the states of all tokens or one: releases name
  two libraries, each of which was used one way. OpenCLIP, whose keys are those
  of OpenAI, gives states.
  """
  c = config.condition
  if c.task not in tokenizers.TEXT_TASKS or c.encoder != 'clip':
    return config
  names = (latent_checkpoint.OPENAI_TOKENS, latent_checkpoint.TRANSFORMER)
  is_openai, is_hf = (any(n in key for key in state) for n in names)
  is_openai = is_openai and c.get('hidden_act') != 'gelu'
  if is_openai == is_hf or c.pooled == is_openai:
    return config
  config = config_lib.from_json(config_lib.to_json(config))
  with config.unlocked():
    config.condition.pooled = is_openai
  return config


def from_official(
  name: str,
  state: Mapping[str, np.ndarray],
  system: Any,
  keep_initial: bool,
  weights: str = '',
) -> tuple[latent_checkpoint.Weights, mapping.Report]:
  """Returns the weights of an official state dict, and the account of its keys.

  Args:
    name: the name of the system, a key of `DENOISERS`.
    state: official key -> array, of all files of a release.
    system: the system of the config.
    keep_initial: whether what is missing gets initial values, or stays shapes.
    weights: which of several sets of the denoiser is taken, see
      `weight_sets.choose`.

  Raises:
    ValueError: a config that no official checkpoint can have, another noise
      schedule or other constants in the state dict, or no such weights.
  """
  layout = layout_of(name, system)
  template = _template(system, initial.evaluate if keep_initial else None)
  if layout is not None:
    return latent_checkpoint.to_flax(
      state, template, system.chain, layout, weights
    )
  _, network = DENOISERS[name]
  family = system.network.family
  if family == 'dit':
    dit.check_grid(state, system.network.grid)
  tree, report = parts.to_flax(
    family, state, template.generator[network], weights=weights
  )
  first_stage, more = parts.to_flax(
    system.pretrained_parts()[FIRST_STAGE].family, state, template.first_stage
  )
  unused = report.unused.keys() & more.unused.keys()
  report.add(more)
  for key in report.unused.keys() - unused:
    del report.unused[key]
  weights_ = latent_checkpoint.Weights(
    generator={network: tree},
    first_stage=first_stage,
    latent_scale=template.latent_scale,
  )
  return weights_, report


def _template(system: Any, evaluate: Any = None) -> latent_checkpoint.Weights:
  """Returns the shapes of all parts, or what `evaluate` makes of `init`."""
  evaluate = evaluate or jax.eval_shape
  key = jax.random.key(0)
  params, extra = evaluate(system.init, key)
  frozen = {
    name: evaluate(part.init, key)
    for name, part in system.pretrained_parts().items()
    # weights that the config names stay where they are
    if name == FIRST_STAGE or (not part.path and system.encoder.is_released)
  }
  # A scale that the checkpoint stores replaces it.
  shape = extra['latent_scale'].shape
  scale = np.full(shape, system.space.scale_factor, np.float32)
  return latent_checkpoint.Weights(
    generator=params['generator'],
    first_stage=frozen[FIRST_STAGE],
    clip=frozen.get('condition'),
    latent_scale=scale,
  )


def write(
  workdir: stores.Path, config: ConfigDict, weights: latent_checkpoint.Weights
) -> None:
  """Writes a workdir; `config.json` comes last and makes it one.

  The first stage of its config will be the one in the workdir, and what the
  release has no files of gets a name: its vocabulary, its categories.

  Raises:
    UserError: the folder cannot be written.
  """
  fields = [getattr(weights, x.name) for x in dataclasses.fields(weights)]
  config = config_lib.make_absolute(config)
  whole(workdir, fields, lambda: _write(workdir, config, weights))


def whole(
  workdir: stores.Path, trees: Any, function: Callable[[], None]
) -> None:
  """Calls what writes trees of arrays to a workdir, all of it or nothing.

  Raises:
    UserError: there is no room for them.
  """
  arrays = [x for x in jax.tree.leaves(trees) if hasattr(x, 'nbytes')]
  errors.check_room(workdir, sum(x.nbytes for x in arrays))
  remove = functools.partial(_remove, workdir)
  try:
    with releases.released(remove):
      function()
  except BaseException:  # so that the same command can be repeated
    remove()
    raise


def _remove(workdir: stores.Path) -> None:
  """Removes what was written, before `config.json` made it a workdir."""
  if (workdir / workdir_lib.CONFIG).exists():
    return
  for name in (FIRST_STAGE, checkpoints.DIRECTORY):
    step_folders.remove_written(workdir / name)
  with contextlib.suppress(OSError):
    stores.remove(workdir / CLIP_FILE)
  whole_files.remove_empty(workdir)


def _write(
  workdir: stores.Path, config: ConfigDict, weights: latent_checkpoint.Weights
) -> None:
  with errors.user_errors(), config.unlocked():
    name_files(config)
    labels = data.published_labels(config)
    whole_files.make_folder(workdir / FIRST_STAGE)
    config.first_stage.checkpoint = ''
    if weights.clip is not None:
      file = workdir.absolute() / CLIP_FILE
      parts.write('clip_text', file, weights.clip)
      config.condition.weights = str(file)
  # without the adversarial loss, whose weights are not released
  first = config_lib.first_stage(config)
  with first.unlocked():
    first.loss.disc_weight, first.loss.perceptual = 0.0, 'none'
  params = {'generator': weights.first_stage}
  save(workdir / FIRST_STAGE, first, params=params)
  stopping.check()
  save(
    workdir,
    config,
    params={'generator': weights.generator},
    ema={} if weights.ema is None else {'generator': {'unet': weights.ema}},
    extra={'latent_scale': weights.latent_scale},
    # a first step would measure the scale of the latents again
    step=max(1, weights.updates),
  )
  workdir_lib.write_record(workdir / FIRST_STAGE, first, ())
  workdir_lib.write_record(workdir, config, labels)


def name_files(config: ConfigDict) -> None:
  """Sets the names of files that releases of a config have in common.

  Texts are those of BERT and of CLIP ViT-L/14, a thousand classes are those of
  ImageNet.
  """
  c = config.condition
  if c.task in tokenizers.PROMPTED:
    vocabulary = {'tokens': 'bert', 'clip': 'clip_l'}.get(c.encoder, '')
    c.vocab_file = c.vocab_file or vocabulary
    if c.encoder == 'clip':
      c.merges_file = c.merges_file or vocabulary
  is_imagenet = c.task == 'class' and c.num_classes == IMAGENET_CLASSES
  if is_imagenet and not config.data.category_file:
    config.data.category_file = 'imagenet'


def save(
  workdir: stores.Path, config: ConfigDict, step: int = 1, **fields: Any
) -> None:
  fields = {'ema': {}, 'opt_state': {}, 'extra': {}, **fields}
  state = state_lib.TrainState(step=jnp.asarray(step, jnp.int32), **fields)
  saver = checkpoints.Checkpoints(workdir, keep=1)
  saver.save(state, config, mesh_lib.create(config.mesh), position=0)
  saver.close()


def to_official(name: str, workdir: stores.Path) -> dict[str, np.ndarray]:
  """Returns the newest checkpoint of a workdir as an official state dict.

  Of a release in two files it is that of the averaged network.

  Raises:
    UserError: no such workdir, or a system without an official form.
  """
  with errors.user_errors(value=errors.DATA):
    config = workdir_lib.read_config(workdir)
    if config.system.name != name:
      raise ValueError(f'{workdir} is not of the system {name}')
    system: Any = workdir_lib.create_system(config)
    layout = layout_of(name, system)
  shapes = _template(system)
  mesh = mesh_lib.create(config.mesh)
  place = lambda tree: sharding.abstract(tree, mesh, config.mesh.fsdp_min_size)
  abstract = {
    'params': {'generator': place(shapes.generator)},
    'extra': {'latent_scale': place(shapes.latent_scale)},
    'step': place(jax.ShapeDtypeStruct((), jnp.int32)),
  }
  averaged = checkpoints.load(workdir, abstract)
  generator = averaged['params']['generator']
  if layout is None:
    _, name = DENOISERS[name]
    network = system.network
    official = parts.to_official(network.family, generator[name])
    if network.family == 'dit':
      official |= dit.positions(network.hidden_size, network.grid)
    return official
  step = int(averaged['step'])
  clip = None
  encoder = system.encoder
  if encoder.pretrained is not None and encoder.is_released:
    part = system.pretrained_parts()['condition']
    tree = jax.eval_shape(part.init, jax.random.key(0))
    with errors.user_errors(value=errors.DATA):
      clip = parts.load_part('clip_text', part.path, tree)
  raw = checkpoints.load(workdir, abstract, step, averaged=False)
  frozen = pretrained.load(system, config, mesh, workdir, only=FIRST_STAGE)
  pretrained.check(frozen, checkpoints.frozen(workdir, step), workdir)
  weights = latent_checkpoint.Weights(
    generator=raw['params']['generator'],
    ema=generator['unet'],
    first_stage=frozen[FIRST_STAGE],
    clip=clip,
    latent_scale=averaged['extra']['latent_scale'],
    updates=step,
  )
  state = latent_checkpoint.to_official(
    weights, system.chain, config.ema.decay, layout
  )
  if 'condition' in weights.generator:
    unread = (layout.condition_prefix + name for name in layout.unread)
    parts.name_unwritten(unread, state)
  return state
