"""Weights of a workdir, for everything that does not train."""

import dataclasses
import os

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
from pyramid_jax.runs import predictors
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import shape_fields
from pyramid_jax.runs import sources
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run with its weights."""

  system: system_lib.Trainable
  mesh: Mesh
  weights: system_lib.Weights  # on the mesh, with the averages in place
  step: int  # The step of the checkpoint.


def abstract(
  system: system_lib.Trainable, config: ConfigDict, mesh: Mesh
) -> system_lib.Weights:
  """Returns the shapes of all weights to sample with, and their shardings."""
  min_size = config.mesh.fsdp_min_size
  params, extra = parameters.shapes_of(system.init, jax.random.key(0))
  shapes = {'params': params, 'extra': extra}
  trees = sharding.abstract(shapes, mesh, min_size)
  frozen = pretrained.abstract(system, mesh, min_size)
  return system_lib.Weights(frozen=frozen, **trees)


def _mesh(system: system_lib.Trainable, config: ConfigDict) -> Mesh:
  """Returns all devices, each with all of the weights where these fit.

  Else the devices split them, and every step of a sampler gathers them.
  """
  mesh = mesh_lib.pure_data()
  weights = jax.tree.leaves(abstract(system, config, mesh))
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
    config: the config of the run; a `sketch.predictor` guides it.
    workdir: the folder of the run.
    step: the step of the checkpoint, that of the predictor if there is one;
      None for the newest valid one.
    mesh: to sample on; None for all devices, each with all of the weights
      where these fit.

  Raises:
    UserError: no usable checkpoint, weights of another network, or pretrained
      weights that the run was not trained with.
  """
  config, folder = predictors.resolve(config, workdir)
  system = workdir_lib.create_system(config)
  mesh = _mesh(system, config) if mesh is None else mesh
  shapes = abstract(system, config, mesh)
  whole = mesh_lib.replicated(mesh)
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  wanted = {'params': shapes.params, 'extra': shapes.extra, 'step': number}
  with shape_fields.named(config):
    trees = sources.load(folder, wanted, step)
  frozen = pretrained.load(system, config, mesh, folder)
  with errors.user_errors():
    system.check_extra(trees['extra'])
  step = int(trees['step'])
  pretrained.check(frozen, sources.frozen(folder, step), folder)
  weights = system_lib.Weights(
    params=trees['params'],
    frozen=pretrained.in_use(system, frozen),
    extra=trees['extra'],
  )
  return Run(system=system, mesh=mesh, weights=weights, step=step)
