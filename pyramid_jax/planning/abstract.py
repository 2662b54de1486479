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
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import flops
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks.layers import parameters
from pyramid_jax.pipeline import sampler as sampler_lib
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.planning import least_traffic
from pyramid_jax.runs import loading
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import sampled
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import model_flops
from pyramid_jax.training import step as step_lib


Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
  """A program that is not compiled yet; its arrays are shapes with shardings.

  Attributes:
    mesh: the devices.
    images: the rows of a batch, over all devices.
    params: the trained weights.
    updated: the same, as an update splits them; None of a sampler.
    state: all that the program changes, None of a sampler.
    frozen: the weights that it only reads.
    model_flops: () -> what the mathematics needs for the batch, over all
      devices.
    least_bytes: () -> between a device and its memory, `least_traffic`.
    trace: () -> the traced program; `traced` does it once.
    options: of the compiler, but for those that the traced program has.
  """

  mesh: Mesh
  images: int
  params: Any
  updated: Any
  state: Any
  frozen: Any
  model_flops: Callable[[], int]
  least_bytes: Callable[[], int]
  trace: Callable[[], jax.stages.Traced]
  options: flags.Options

  @functools.cached_property
  def traced(self) -> jax.stages.Traced:
    """The traced program."""
    return self.trace()


def training(config: ConfigDict, mesh: Mesh) -> Draft:
  """Returns the training step of a config.

  Raises:
    UserError: a config that fits no system, or a batch that does not divide
      among the devices.
  """
  count = config.train.batch_size
  system = workdir_lib.create_system(config)
  with errors.user_errors():
    if config.condition.cache:
      system = sampled.with_stored_tokens(system)
    step_lib.check_batch(system, config, mesh)
  min_size = config.mesh.fsdp_min_size
  create = functools.partial(step_lib.create, system, config)
  state = step_lib.abstract(create, mesh, config)
  frozen = pretrained.abstract(system, mesh, min_size)
  row, finish = training_row(config, system)
  batch: Any = _rows(row, count, mesh_lib.batch_sharding(mesh))
  step = step_lib.make_step(system, config, finish, mesh)
  of_step = functools.partial(
    model_flops.of_step, system, config, finish, state, frozen, batch
  )
  parts = mesh_lib.batch_parts(mesh)
  measure = least_traffic.measure((state.params, frozen), parts)
  return Draft(
    mesh=mesh,
    images=count,
    params=state.params,
    updated=step_lib.updated(state.params, mesh, config),
    state=state,
    frozen=frozen,
    model_flops=of_step,
    least_bytes=lambda: (
      of_step(measure=measure) + 2 * sharding.device_bytes(state)
    ),
    trace=lambda: step_lib.trace_step(step, mesh, state, frozen, batch),
    options=flags.of_config(config, mesh),
  )


def sampling(config: ConfigDict, mesh: Mesh) -> Draft:
  """Returns the program that makes `config.sample.batch_size` images.

  Every device has all of the weights, as `runs.loading` places them and in the
  types of its `to_sample`; the sizes of the given mesh do not matter.

  Raises:
    UserError: a system that does not sample, or settings that it does not
      serve.
  """
  system = cast(system_lib.Generative, workdir_lib.create_system(config))
  count = config.sample.batch_size
  mesh = mesh_lib.pure_data(list(mesh.devices.flat))
  weights = loading.abstract(system, config, mesh, to_sample=True)
  row = condition_row(system)
  with errors.user_errors(), placement.on(mesh):
    system.check_rows(row.keys())
    settings = settings_lib.of_config(system, config)

  def made(weights, keys, rows):
    keys, batch = jax.random.wrap_key_data(keys), images.finish(rows)
    return system_lib.generate(system, weights, keys, batch, settings.spec)

  key = lambda count: jax.ShapeDtypeStruct((count, 2), jnp.uint32)
  filled = mesh_lib.filled(mesh, count)
  rows = _rows(row, filled, mesh_lib.batch_sharding(mesh))
  measure = least_traffic.measure(weights, mesh.size)
  arguments = system, mesh, config, weights, rows, filled, settings
  return Draft(
    mesh=mesh,
    images=count,
    params=weights.params,
    updated=None,
    state=None,
    frozen=weights,
    model_flops=lambda: count * flops.count(made, weights, key(1), row),
    least_bytes=lambda: flops.count(
      made, weights, key(filled), rows, measure=measure
    ),
    trace=lambda: sampler_lib.trace(*arguments),
    options={},
  )


def _rows(row: Shapes, count: int, split: jax.sharding.Sharding) -> Shapes:
  return {
    name: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=split)
    for name, x in row.items()
  }


def training_row(
  config: ConfigDict, system: system_lib.Trainable
) -> tuple[Shapes, step_lib.Finish]:
  """Returns one row of a training batch, and what `Reader.finish` does with it.

  Images are uint8, or latents as `data.readers.latent_cache` has them where
  `config.data.name` is 'latents'. Readers that render images on the devices
  (`shapes`) are taken for ones that read them.
  """
  side = config.data.image_size
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
  row = {**condition_row(system), 'image': image}
  if config.data.name != data.LATENTS:
    return row, images.finish
  part = system.pretrained_parts().get(pretrained.FIRST_STAGE)
  if part is None:
    raise errors.UserError(
      f'config.data.name is {data.LATENTS!r}: the system'
      f' {config.system.name!r} has no latents.'
    )
  network = autoencoder.network(config.first_stage)

  def encoded(params, row):
    arrays = images.finish(row)
    return arrays | latent_cache.encoded(network, params, arrays.pop('image'))

  params = parameters.shapes_of(part.init, jax.random.key(0))
  return jax.eval_shape(encoded, params, row), dict


def condition_row(system: system_lib.Trainable) -> Shapes:
  """Returns one row of what a system reads beside the image.

  Images are uint8, as readers and requests give them.
  """

  def stored(name: str, x: Any) -> jax.ShapeDtypeStruct:
    kind = jnp.uint8 if name in images.SIGNED else x.dtype
    return jax.ShapeDtypeStruct(x.shape, kind)

  return {name: stored(name, x) for name, x in system.example_rows().items()}
