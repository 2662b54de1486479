"""A whole checkpoint of Frido or LDM as a workdir, and a workdir as one.

What is sampled with is what the reference samples with: the averaged U-Net
beside the raw condition encoder.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import orbax.checkpoint as ocp

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop.families import latent_checkpoint
from pyramid_jax.interop.families import unet
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import frido
from pyramid_jax.systems import ldm


FIRST_STAGE = 'first_stage'
CLIP_FILE = 'condition.safetensors'

# --family of a whole checkpoint -> the system that it belongs to
System = frido.Frido | ldm.LDM
SYSTEMS: Mapping[str, type[frido.Frido] | type[ldm.LDM]] = {
  'frido': frido.Frido,
  'ldm': ldm.LDM,
}


def refuse_used(workdir: pathlib.Path, names: Sequence[str] = ()) -> None:
  """Raises UserError if a run or a conversion is in the folder already."""
  for name in (workdir_lib.CONFIG, checkpoints.DIRECTORY, FIRST_STAGE, *names):
    if (workdir / name).exists():
      raise errors.UserError(
        f'{workdir} holds a run already ({name}); take another workdir.',
        errors.OUTPUT,
      )


def layout_of(system: System) -> latent_checkpoint.Layout:
  """Returns how the official checkpoints of a system name its parts.

  Raises:
    ValueError: a config that no official checkpoint can have.
  """
  encoder = system.encoder
  if encoder.unpublished:
    raise ValueError(
      f'{encoder.unpublished}, which no official checkpoint has; needed'
      " config.condition.encoder 'tokens' or 'clip' and"
      " config.condition.also ''"
    )
  fields: dict[str, Any] = {}
  if encoder.family:
    part = parts.part(encoder.family)
    (fields['condition_prefix'],) = (
      prefix
      for prefix in part.prefixes
      if prefix.startswith(latent_checkpoint.CONDITION)
    )
    fields['condition'] = part.rename
  if isinstance(system, frido.Frido):
    if system.native_scales:
      raise ValueError(
        'config.diffusion.native_scales is True; the official weights were'
        ' trained with all scales on the fine grid, needed False'
      )
    return latent_checkpoint.Layout(unet=unet.rename, **fields)
  return latent_checkpoint.Layout(
    unet=unet.rename,
    repeats_first_stage=encoder.borrowed == FIRST_STAGE,
    stores_scale=system.scale_by_std,
    scalar_scale=True,
    **fields,
  )


def from_official(
  state: dict[str, np.ndarray], system: System, keep_initial: bool
) -> tuple[latent_checkpoint.Trees, mapping.Report]:
  """Takes an official checkpoint apart.

  Args:
    state: the official state dict.
    system: of the config.
    keep_initial: fill what is missing with initial values; else those leaves
      stay shapes.

  Raises:
    ValueError: a config that no official checkpoint can have, or another
      noise schedule.
  """
  layout = layout_of(system)
  template = _template(system, initial.evaluate if keep_initial else None)
  return latent_checkpoint.to_flax(state, template, system.chain, layout)


def _template(system: System, evaluate: Any = None) -> latent_checkpoint.Trees:
  """Returns the shapes of all parts, or what `evaluate` makes of `init`."""
  evaluate = evaluate or jax.eval_shape
  key = jax.random.key(0)
  params, extra = evaluate(lambda key: system.init(key, {}), key)
  frozen = {
    name: evaluate(part.init, key)
    for name, part in system.frozen_parts().items()
    # weights that the config names stay where they are
    if name == FIRST_STAGE or not part.path
  }
  generator = params['generator']
  scale = extra['latent_scale']
  if isinstance(system, ldm.LDM) and not system.scale_by_std:
    scale = np.full(scale.shape, system.scale_factor, np.float32)
  return latent_checkpoint.Trees(
    unet=generator['unet'],
    ema=generator['unet'],
    first_stage=frozen[FIRST_STAGE],
    condition=generator.get('condition'),
    clip=frozen.get('condition'),
    latent_scale=scale,
    logvar=generator.get('logvar'),
  )


def write(
  workdir: pathlib.Path, config: ConfigDict, trees: latent_checkpoint.Trees
) -> None:
  """Writes a workdir; `config.json` comes last and makes it one.

  Raises:
    UserError: the folder cannot be written.
  """
  config = config_lib.from_json(config_lib.to_json(config))
  with errors.user_errors(missing=errors.OUTPUT):
    workdir.mkdir(parents=True, exist_ok=True)
    if trees.clip is not None:
      file = workdir.absolute() / CLIP_FILE
      parts.write('clip_text', file, trees.clip)
      with config.unlocked():
        config.condition.weights = str(file)
  write_run(
    workdir,
    config,
    generator=_generator(trees),
    ema={} if trees.ema is None else {'unet': trees.ema},
    first_stage=trees.first_stage,
    latent_scale=trees.latent_scale,
    step=trees.updates,
  )


def write_run(
  workdir: pathlib.Path,
  config: ConfigDict,
  *,
  generator: Any,
  first_stage: Any,
  latent_scale: Any,
  ema: Any = None,
  step: int = 0,
) -> None:
  """Writes the files of a run; `config.json` comes last and makes it one.

  Args:
    workdir: of the run.
    config: of the run; its first stage will be the one beside it.
    generator: the trained weights.
    first_stage: the weights of the autoencoder.
    latent_scale: (S,) of the latents.
    ema: the averaged part of `generator`.
    step: of the checkpoint, if above 0.

  Raises:
    UserError: the folder cannot be written.
  """
  config = config_lib.from_json(config_lib.to_json(config))
  with errors.user_errors(missing=errors.OUTPUT):
    (workdir / FIRST_STAGE).mkdir(parents=True)
    with config.unlocked():
      config.first_stage.checkpoint = ''
  first = _first_stage_config(config)
  _save(workdir / FIRST_STAGE, first, {'generator': first_stage})
  _save(
    workdir,
    config,
    {'generator': generator},
    ema={'generator': ema} if ema else {},
    extra={'latent_scale': latent_scale},
    # a first step would measure the scale of the latents anew
    step=max(1, step),
  )
  with errors.user_errors(missing=errors.OUTPUT):
    for folder, text in ((workdir / FIRST_STAGE, first), (workdir, config)):
      (folder / workdir_lib.CONFIG).write_text(config_lib.to_json(text))


def _generator(trees: latent_checkpoint.Trees) -> dict[str, Any]:
  """Returns the parameters of the generator, as the system has them."""
  parts = {
    'unet': trees.unet,
    'condition': trees.condition,
    'logvar': trees.logvar,
  }
  return {name: tree for name, tree in parts.items() if tree is not None}


def _first_stage_config(config: ConfigDict) -> ConfigDict:
  """The nested config without the game, whose weights are not released."""
  first = config_lib.first_stage(config)
  with first.unlocked():
    first.loss.disc_weight = 0.0
    first.loss.perceptual = 'none'
  return first


def _save(
  workdir: pathlib.Path,
  config: ConfigDict,
  params: Any,
  ema: Any = None,
  extra: Any = None,
  step: int = 1,
) -> None:
  state = state_lib.TrainState(
    step=jnp.asarray(step, jnp.int32),
    params=params,
    ema=ema or {},
    opt_state={},
    extra=extra or {},
  )
  saver = checkpoints.Checkpoints(workdir, keep=1)
  saver.save(state, config, mesh_lib.create(config.mesh), position=0)
  saver.close()


def to_official(family: str, workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the newest checkpoint of a workdir as an official state dict.

  Args:
    family: a key of `SYSTEMS`.
    workdir: of the run.

  Raises:
    UserError: no such workdir, or a system that the official code lacks.
  """
  with errors.user_errors(value=errors.DATA):
    config = workdir_lib.read_config(workdir)
    system = workdir_lib.create_system(config)
    if not isinstance(system, SYSTEMS[family]):
      raise ValueError(f'{workdir} is not of the system {family}')
    layout = layout_of(system)
  shapes = _template(system)
  mesh = mesh_lib.create(config.mesh)
  place = lambda tree: sharding.abstract(tree, mesh, config.mesh.fsdp_min_size)
  abstract = {
    'params': {'generator': place(_generator(shapes))},
    'extra': {'latent_scale': place(shapes.latent_scale)},
    'step': place(jax.ShapeDtypeStruct((), jnp.int32)),
  }
  averaged = checkpoints.load(workdir, abstract)
  step = int(averaged['step'])
  raw = _raw(workdir, step, abstract)['params']['generator']
  clip = None
  if shapes.clip is not None or system.encoder.pretrained is not None:
    part = system.frozen_parts()['condition']
    tree = jax.eval_shape(part.init, jax.random.key(0))
    with errors.user_errors(value=errors.DATA):
      clip = parts.load_part('clip_text', part.path, tree)
  first = system.first_stage_path or workdir / FIRST_STAGE
  trees = latent_checkpoint.Trees(
    unet=raw['unet'],
    ema=averaged['params']['generator']['unet'],
    first_stage=checkpoints.load_part(
      first, 'generator', place(shapes.first_stage)
    ),
    condition=raw.get('condition'),
    clip=clip,
    latent_scale=averaged['extra']['latent_scale'],
    logvar=raw.get('logvar'),
    updates=step,
  )
  return latent_checkpoint.to_official(
    trees, system.chain, config.ema.decay, layout
  )


def _raw(workdir: pathlib.Path, step: int, abstract: Any) -> Any:
  """Reads the weights beside their averages."""
  item = {'params': abstract['params']}
  path = checkpoints.directory(workdir) / str(step) / 'state'
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
    path,
    args=ocp.args.PyTreeRestore(
      item=item,
      partial_restore=True,
      restore_args=ocp.checkpoint_utils.construct_restore_args(item),
    ),
  )
