"""The programs of a config on a mesh, with shapes in place of arrays.

They are those that `training` and `pipeline` compile. A mesh of devices that
are not here serves (`planning.topologies`); no data, weights or hosts do.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any
from typing import cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.data import images
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import flops
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks.layers import parameters
from pyramid_jax.pipeline import sampler as sampler_lib
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import loading
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import model_flops
from pyramid_jax.training import step as step_lib


Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """A program that is not compiled yet.

  Attributes:
    mesh: the devices.
    images: the rows of a batch, over all devices.
    state: what it changes, abstract, with shardings; {} of a sampler.
    frozen: the weights that it only reads, abstract, with shardings.
    model_flops: that the mathematics needs for the batch, over all devices.
    lower: traces it.
    options: of the compiler.
  """

  mesh: Mesh
  images: int
  state: Any
  frozen: Any
  model_flops: int
  lower: Callable[[], jax.stages.Lowered]
  options: flags.Options


def training(config: ConfigDict, mesh: Mesh) -> Program:
  """Returns a training step of a config.

  Raises:
    UserError: a config that fits no system, or a batch that does not divide
      among the devices.
  """
  count = config.train.batch_size
  with errors.user_errors():
    mesh_lib.check_batch(mesh, count, config.train.accumulate)
  system = workdir_lib.create_system(config)
  min_size = config.mesh.fsdp_min_size
  create = functools.partial(step_lib.create, system, config)
  state = sharding.abstract(jax.eval_shape(create), mesh, min_size)
  frozen = pretrained.abstract(system, mesh, min_size)
  batch: Any
  batch, finish = training_batch(config, system)
  split = mesh_lib.batch_sharding(mesh)
  batch = {
    name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=split)
    for name, x in batch.items()
  }
  step = step_lib.make_step(system, config, finish, mesh)
  return Program(
    mesh=mesh,
    images=count,
    state=state,
    frozen=frozen,
    model_flops=model_flops.of_step(
      system, config, finish, state, frozen, batch
    ),
    lower=lambda: step_lib.lower_step(step, mesh, state, frozen, batch),
    options=flags.of_config(config, mesh),
  )


def sampling(config: ConfigDict, devices: Mesh) -> Program:
  """Returns the program that samples a batch of a config.

  Its mesh is that of `runs.loading`: all of the weights on every device.

  Args:
    config: `sample.batch_size` images are made at a time.
    devices: of a mesh of any sizes.
  """
  system = cast(system_lib.Generative, workdir_lib.create_system(config))
  count = config.sample.batch_size
  mesh = mesh_lib.pure_data(list(devices.devices.flat))
  weights = loading.abstract(system, config, mesh)
  one = condition_rows(system)
  rows = {
    name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
    for name, x in one.items()
  }
  with errors.user_errors():
    system.check_rows(rows.keys())
  with placement.on(mesh):  # whose platform the settings are checked for
    settings = settings_lib.of_config(system, config)

  def of_one(weights, keys, rows):
    keys = jax.random.wrap_key_data(keys)
    batch = images.finish(rows)
    return system_lib.generate(system, weights, keys, batch, settings.spec)

  key = jax.ShapeDtypeStruct((1, 2), jnp.uint32)
  arguments = system, mesh, config, weights, rows, count, settings
  return Program(
    mesh=mesh,
    images=count,
    state={},
    frozen=weights,
    model_flops=count * flops.count(of_one, weights, key, one),
    lower=lambda: sampler_lib.lower(*arguments),
    options={},  # the lowered program has them
  )


def training_batch(
  config: ConfigDict, system: system_lib.Trainable
) -> tuple[Shapes, step_lib.Finish]:
  """Returns one row of a training batch, and what `Reader.finish` does with it.

  Images are uint8, or what `data.readers.latent_cache` has of them where
  `config.data.name` is 'latents'. That of `shapes` is an image, too: what it
  takes to render one is left out.
  """
  side = config.data.image_size
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
  batch = {'image': image, **condition_rows(system)}
  if config.data.name != data.LATENTS:
    return batch, images.finish
  name = pretrained.FIRST_STAGE
  part = system.pretrained_parts().get(name)
  if part is None:
    raise errors.UserError(
      f'config.data.name is {data.LATENTS!r}: the system'
      f' {config.system.name!r} has no latents.'
    )
  network = autoencoder.network(config.first_stage)

  def encoded(params, batch):
    arrays = images.finish(batch)
    return arrays | latent_cache.encoded(network, params, arrays.pop('image'))

  params = parameters.shapes_of(part.init, jax.random.key(0))
  return jax.eval_shape(encoded, params, batch), dict


def condition_rows(system: system_lib.Trainable) -> Shapes:
  """Returns one row of what a system reads beside the image.

  Images are uint8, as readers and requests give them.
  """

  def stored(name: str, x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
      x.shape, jnp.uint8 if name in images.SIGNED else x.dtype
    )

  return {name: stored(name, x) for name, x in system.example_rows().items()}
