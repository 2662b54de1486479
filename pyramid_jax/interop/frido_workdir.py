"""A whole Frido checkpoint as a workdir, and a workdir as a checkpoint.

What is sampled with is what the reference samples with: the averaged U-Net
beside the raw condition encoder.
"""

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
from pyramid_jax import systems
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop.families import frido as frido_family
from pyramid_jax.scaling import checkpoints
from pyramid_jax.scaling import initial
from pyramid_jax.scaling import mesh as mesh_lib
from pyramid_jax.scaling import sharding
from pyramid_jax.scaling import state as state_lib
from pyramid_jax.systems import encoders
from pyramid_jax.systems import frido


CONFIG = 'config.json'
FIRST_STAGE = 'first_stage'
CLIP_FILE = 'condition.safetensors'


def refuse_used(workdir: pathlib.Path, names: Sequence[str] = ()) -> None:
  """Raises UserError if a run or a conversion is in the folder already."""
  for name in (CONFIG, checkpoints.DIRECTORY, FIRST_STAGE, *names):
    if (workdir / name).exists():
      raise errors.UserError(
        f'{workdir} holds a run already ({name}); take another workdir.',
        errors.OUTPUT,
      )


def from_official(
  state: dict[str, np.ndarray], system: frido.Frido, keep_initial: bool
) -> tuple[frido_family.Trees, mapping.Report]:
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
  if isinstance(system.encoder, encoders.BoxesEncoder):
    raise ValueError(
      "config.condition.encoder is 'boxes', which no official checkpoint has;"
      " needed 'tokens' or 'clip'"
    )
  if system.native_scales:
    raise ValueError(
      'config.diffusion.native_scales is True; the official weights were'
      ' trained with all scales on the fine grid, needed False'
    )
  template = _template(system, initial.evaluate if keep_initial else None)
  return frido_family.to_flax(state, template, system.chain)


def _template(system: frido.Frido, evaluate: Any = None) -> frido_family.Trees:
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
  return frido_family.Trees(
    unet=params['generator']['unet'],
    ema=params['generator']['unet'],
    first_stage=frozen[FIRST_STAGE],
    condition=params['generator'].get('condition'),
    clip=frozen.get('condition'),
    latent_scale=extra['latent_scale'],
  )


def write(
  workdir: pathlib.Path, config: ConfigDict, trees: frido_family.Trees
) -> None:
  """Writes a workdir; `config.json` comes last and makes it one.

  Raises:
    UserError: the folder cannot be written.
  """
  config = config_lib.from_json(config_lib.to_json(config))
  with errors.user_errors(missing=errors.OUTPUT):
    (workdir / FIRST_STAGE).mkdir(parents=True)
    with config.unlocked():
      config.first_stage.checkpoint = ''
      if trees.clip is not None:
        file = workdir.absolute() / CLIP_FILE
        parts.write('clip_text', file, trees.clip)
        config.condition.weights = str(file)
  first = _first_stage_config(config)
  _save(workdir / FIRST_STAGE, first, {'generator': trees.first_stage})
  generator = {'unet': trees.unet}
  if trees.condition is not None:
    generator['condition'] = trees.condition
  _save(
    workdir,
    config,
    {'generator': generator},
    ema={} if trees.ema is None else {'generator': {'unet': trees.ema}},
    extra={'latent_scale': trees.latent_scale},
    # a first step would measure the scale of the latents anew
    step=max(1, trees.updates),
  )
  with errors.user_errors(missing=errors.OUTPUT):
    for folder, text in ((workdir / FIRST_STAGE, first), (workdir, config)):
      (folder / CONFIG).write_text(config_lib.to_json(text))


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


def to_official(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the newest checkpoint of a workdir as an official state dict.

  Raises:
    UserError: no such workdir, or a system that the official code lacks.
  """
  with errors.user_errors(value=errors.DATA):
    config = config_lib.from_json((workdir / CONFIG).read_text())
    system = systems.create(config)
    if not isinstance(system, frido.Frido) or isinstance(
      system.encoder, encoders.BoxesEncoder
    ):
      raise ValueError(f'{workdir} is not of a system that Frido has')
  shapes = _template(system)
  mesh = mesh_lib.create(config.mesh)
  place = lambda tree: sharding.abstract(tree, mesh, config.mesh.fsdp_min_size)
  generator = {'unet': shapes.unet}
  if shapes.condition is not None:
    generator['condition'] = shapes.condition
  abstract = {
    'params': {'generator': place(generator)},
    'extra': {'latent_scale': place(shapes.latent_scale)},
    'step': place(jax.ShapeDtypeStruct((), jnp.int32)),
  }
  averaged = checkpoints.load(workdir, abstract)
  step = int(averaged['step'])
  raw = _raw(workdir, step, abstract)['params']['generator']
  clip = None
  if shapes.clip is not None or system.condition_part is not None:
    part = system.frozen_parts()['condition']
    tree = jax.eval_shape(part.init, jax.random.key(0))
    with errors.user_errors(value=errors.DATA):
      clip = parts.load_part('clip_text', part.path, tree)
  first = system.first_stage_path or workdir / FIRST_STAGE
  trees = frido_family.Trees(
    unet=raw['unet'],
    ema=averaged['params']['generator']['unet'],
    first_stage=checkpoints.load_part(
      first, 'generator', place(shapes.first_stage)
    ),
    condition=raw.get('condition'),
    clip=clip,
    latent_scale=averaged['extra']['latent_scale'],
    updates=step,
  )
  return frido_family.to_official(trees, system.chain, config.ema.decay)


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
