"""Weights of a workdir, for everything that does not train."""

import dataclasses
import os
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.networks.layers import parameters
from pyramid_jax.runs import controls
from pyramid_jax.runs import predictors
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import shape_fields
from pyramid_jax.runs import sources
from pyramid_jax.systems import system as system_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run with its weights."""

  system: system_lib.Trainable
  mesh: Mesh
  weights: system_lib.Weights  # on the mesh, with the averages in place
  step: int  # The step of the checkpoint.


def abstract(
  system: system_lib.Trainable,
  config: ConfigDict,
  mesh: Mesh,
  to_sample: bool = False,
) -> system_lib.Weights:
  """Returns the shapes of all weights of `load`, and their shardings.

  Args:
    system: whose weights they are.
    config: of the run.
    mesh: of the shardings.
    to_sample: whether the element types are those of `to_sample`.
  """
  min_size = config.mesh.fsdp_min_size
  trees = sharding.abstract(_traced(system, to_sample), mesh, min_size)
  frozen = pretrained.abstract(system, mesh, min_size, to_sample=to_sample)
  return system_lib.Weights(frozen=frozen, **trees)


def _traced(system: system_lib.Trainable, to_sample: bool) -> dict[str, Any]:
  """Returns the shapes of what a system trains, and of its untrained state."""
  in_use = to_sample and _is_converted(system)
  trees = parameters.shapes_of(system.init, jax.random.key(0), in_use=in_use)
  return dict(zip(('params', 'extra'), trees, strict=True))


def _is_converted(system: system_lib.Trainable) -> bool:
  return not any(p.is_summed for p in system.pretrained_parts().values())


def to_sample(run: Run) -> Run:
  """Returns a run with its weights in the types in which a sampler uses them.

  With bfloat16 activations that is half of the bytes; images are the same, bit
  for bit. Trained weights that are added to pretrained ones stay as they are.
  The arrays of the given run that are converted are deleted.
  """
  system, weights = run.system, run.weights
  parts = system.pretrained_parts().items()
  names = {name for name, part in parts if part.is_denoiser}
  trees = {name: weights.frozen[name] for name in names}
  denoisers = pretrained.in_use(system, trees, to_sample=True)
  params = weights.params
  if _is_converted(system):
    shapes = _traced(system, to_sample=True)['params']
    params = pretrained.converted(params, shapes)
  frozen = {**weights.frozen, **denoisers}
  short = dataclasses.replace(weights, params=params, frozen=frozen)
  return dataclasses.replace(run, weights=short)


def _mesh(
  system: system_lib.Trainable, config: ConfigDict, traced: dict[str, Any]
) -> Mesh:
  """Returns all devices, each with all of the weights where these fit.

  Else the devices split them, and every step of a sampler gathers them.
  """
  mesh = mesh_lib.pure_data()
  frozen = pretrained.abstract(system, mesh, config.mesh.fsdp_min_size)
  weights = jax.tree.leaves((traced, frozen))
  size = sum(x.size * x.dtype.itemsize for x in weights)
  there = memory.available(mesh)
  is_room = there is None or size <= there
  if processes.decided(lambda: is_room):
    return mesh
  logging.warning(
    'the weights, %.1f GB, are split over the devices: one of them has no room'
    ' for all, and sampling is slower so',
    size / 1e9,
  )
  return mesh_lib.create(ConfigDict({'data': 1, 'fsdp': -1, 'tensor': 1}))


def load(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  step: int | None = None,
  mesh: Mesh | None = None,
) -> Run:
  """Restores the weights of a workdir straight into their shardings.

  The mesh of the training, `config.mesh`, does not matter.

  Args:
    config: the config of the run, with the name of what guides it.
    workdir: the folder of the run.
    step: the step of the checkpoint, that of the guide if there is one;
      None for the newest valid one.
    mesh: to sample on; None for all devices, each with all of the weights
      where these fit.

  Raises:
    UserError: no usable checkpoint, weights of another network, or pretrained
      weights that the run was not trained with.
  """
  system = predictors.create_system(config, workdir)
  config, folder = predictors.resolve(config, workdir)
  traced = _traced(system, to_sample=False)
  mesh = _mesh(system, config, traced) if mesh is None else mesh
  shapes = sharding.abstract(traced, mesh, config.mesh.fsdp_min_size)
  whole = mesh_lib.replicated(mesh)
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  wanted = {**shapes, 'step': number}
  with shape_fields.named(config):
    trees = sources.load(folder, wanted, step)
  frozen = pretrained.load(system, config, mesh, folder)
  with errors.user_errors():
    system.check_extra(trees['extra'])
  step = int(trees['step'])
  pretrained.check(frozen, sources.frozen(folder, step), folder)
  controls.check_bases(config, folder, step)
  weights = system_lib.Weights(
    params=trees['params'],
    frozen=pretrained.in_use(system, frozen),
    extra=trees['extra'],
  )
  return Run(system=system, mesh=mesh, weights=weights, step=step)
