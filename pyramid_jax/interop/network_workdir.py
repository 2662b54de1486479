"""Official checkpoints of systems that are one network, as workdirs and back.

ADM is released as one file for each U-Net and for each classifier; the noisy
classifier of LDM is one of the modules of its training checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import workdir as workdir_lib


# Name of a system -> family of its network, and what the system calls it.
NETWORKS = {
  'adm': ('ldm.unet', 'unet'),
  'classifier': ('adm.classifier', 'network'),
}


def from_official(
  name: str,
  state: Mapping[str, np.ndarray],
  system: Any,
  keep_initial: bool,
  weights: str = '',
) -> tuple[dict[str, Any], mapping.Report]:
  """Returns {network: tree} of a state dict, and the account of its keys.

  Args:
    name: the name of the system, a key of `NETWORKS`.
    state: official key -> array.
    system: the system of the config.
    keep_initial: whether what is missing gets initial values, or stays shapes.
    weights: which of several sets is taken, see `weight_sets.choose`.

  Raises:
    ValueError: no such weights.
  """
  family, network = NETWORKS[name]
  evaluate = initial.evaluate if keep_initial else jax.eval_shape
  params, _ = evaluate(system.init, jax.random.key(0))
  template = params['generator'][network]
  tree, report = parts.to_flax(
    family, state, template, heads_of(system), weights
  )
  return {network: tree}, report


def heads_of(system: Any) -> parts.Heads | None:
  """Returns the heads of a system's U-Net, None of another network."""
  unet = getattr(system, 'unet', None)
  return None if unet is None else parts.Heads.of(unet)


def write(
  workdir: stores.Path,
  config: ConfigDict,
  generator: Mapping[str, Any],
  extra: Mapping[str, Any] | None = None,
) -> None:
  """Writes a workdir; `config.json` comes last and makes it one.

  Args:
    workdir: the folder.
    config: the config of the run.
    generator: the weights by the names of the networks.
    extra: what no step trains, None for nothing.

  Raises:
    UserError: the folder cannot be written.
  """
  config = config_lib.make_absolute(config)

  def body() -> None:
    with errors.user_errors(), config.unlocked():
      latent_workdir.name_files(config)
      labels = data.published_labels(config)
    whole_files.make_folder(workdir)
    params = {'generator': generator}
    latent_workdir.save(workdir, config, params=params, extra=extra or {})
    workdir_lib.write_record(workdir, config, labels)

  latent_workdir.whole(workdir, (generator, extra), body)


def to_official(name: str, workdir: stores.Path) -> dict[str, np.ndarray]:
  """Returns the newest checkpoint as an official state dict, with averages.

  Raises:
    UserError: no such workdir, or one of another system.
  """
  with errors.user_errors(value=errors.DATA):
    config = workdir_lib.read_config(workdir)
    if config.system.name != name:
      raise ValueError(f'{workdir} is not of the system {name}')
  system: Any = workdir_lib.create_system(config)
  family, network = NETWORKS[name]
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  mesh = mesh_lib.create(config.mesh)
  shapes = sharding.abstract(
    {'params': params}, mesh, config.mesh.fsdp_min_size
  )
  found = checkpoints.load(workdir, shapes)
  return parts.to_official(family, found['params']['generator'][network])
