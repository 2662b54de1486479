"""Single networks of a system: how they are initialised, and out of a run."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores
from pyramid_jax.interop import edm_workdir
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import network_workdir
from pyramid_jax.interop import parts
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import workdir as workdir_lib


# (parameters, untrained state) of a system -> the variables of a network
Select = Callable[[Any, Any], Any]


def selections(config: ConfigDict, system: Any) -> dict[str, Select]:
  """Returns where the trained networks of a system are, by family."""
  name = config.system.name
  if name in network_workdir.NETWORKS:
    family, network = network_workdir.NETWORKS[name]
    return {family: lambda params, _: params['generator'][network]}
  if name in latent_workdir.DENOISERS:
    family, network = latent_workdir.DENOISERS[name]
    if network == 'network':
      family = system.network.family
    found = {family: lambda params, _: params['generator'][network]}
    if network == 'unet' and system.encoder.family:
      found[system.encoder.family] = lambda p, _: p['generator']['condition']
    return found
  if name == edm_workdir.SYSTEM and system.network.family:
    return {system.network.family: edm_workdir.variables}
  if name == 'sketch' and len(system.predictors) == 1:
    return {
      'lgp.mlp': lambda params, extra: {
        'params': params['generator']['0'],
        'batch_stats': extra['batch_stats']['0'],
      }
    }
  if name != 'autoencoder':
    return {}
  found = {system.model.family: lambda params, _: params['generator']}
  if system.discriminator is not None:
    found['discriminator'] = lambda params, extra: {
      'params': params['discriminator'],
      **extra,
    }
  return found


def inits(
  config: ConfigDict, system: Any
) -> Mapping[str, Callable[[jax.Array], Any]]:
  """Returns how each network of a system is initialised, by family."""

  def of(select: Select) -> Callable[[jax.Array], Any]:
    return lambda key: select(*system.init(key))

  # A part without a family is a run, not a network.
  frozen = system.pretrained_parts().values()
  found = {part.family: part.init for part in frozen if part.family}
  trained = selections(config, system)
  return found | {family: of(select) for family, select in trained.items()}


def read(family: str, workdir: stores.Path) -> tuple[Any, parts.Heads | None]:
  """Returns a network of a run, with its averages, and its heads.

  A first stage is found in the workdir of its second stage, too.

  Raises:
    UserError: no such run, or one without such a network.
  """
  config = workdir_lib.read_config(workdir)
  system: Any = workdir_lib.create_system(config)
  found = selections(config, system)
  if family not in found:
    first = workdir / latent_workdir.FIRST_STAGE
    if (first / workdir_lib.CONFIG).is_file():
      return read(family, first)
    names = ', '.join(sorted(found)) or 'other systems'
    raise errors.UserError(
      f'{workdir} has no {family!r}, only {names}.', errors.DATA
    )
  mesh = mesh_lib.create(config.mesh)
  params, extra = jax.eval_shape(system.init, jax.random.key(0))
  shapes = {'params': params, 'extra': extra}
  trees = checkpoints.load(
    workdir, sharding.abstract(shapes, mesh, config.mesh.fsdp_min_size)
  )
  heads = parts.Heads.of(system.unet) if family == 'ldm.unet' else None
  return found[family](trees['params'], trees['extra']), heads
