"""The released latent DiffiT as a workdir, and a workdir as such a file.

A release is two files: the network, which is sampled with, and Stable
Diffusion's autoencoder. Their keys do not meet.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems.diffit import latent as latent_diffit


NETWORK = 'diffit.latent'
# What the keys of an autoencoder begin with, in either layout.
FIRST_STAGE = (
  'encoder.',
  'decoder.',
  'quant_conv.',
  'post_quant_conv.',
  'first_stage_model.',
)

System = latent_diffit.LatentDiffiT
SYSTEMS: Mapping[str, type[System]] = {'latent_diffit': System}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trees:
  """The parts of a system: shapes to be filled, or weights.

  Attributes:
    network: the denoiser.
    first_stage: the autoencoder.
    latent_scale: (1,), a constant of the config.
  """

  network: Any
  first_stage: Any
  latent_scale: np.ndarray


def _check(system: System) -> None:
  """Raises ValueError for a network that no release can have."""
  network = system.network
  if network.time_token != 'tmsa' or not network.num_classes:
    raise ValueError(
      f'config.network.time_token is {network.time_token!r} with'
      f' {network.num_classes} classes; the official network has'
      " 'tmsa' and classes"
    )


def from_official(
  state: Mapping[str, np.ndarray], system: System, keep_initial: bool
) -> tuple[Trees, mapping.Report]:
  """Takes the keys of both files apart.

  Args:
    state: of the network and of the autoencoder.
    system: of the config.
    keep_initial: fill what is missing with initial values; else those leaves
      stay shapes.

  Raises:
    ValueError: a config that no release has, or other constants in it.
  """
  _check(system)
  evaluate = initial.evaluate if keep_initial else jax.eval_shape
  key = jax.random.key(0)
  params, _ = evaluate(lambda key: system.init(key, {}), key)
  part = system.frozen_parts()['first_stage']
  theirs = {k: v for k, v in state.items() if k.startswith(FIRST_STAGE)}
  ours = {k: v for k, v in state.items() if k not in theirs}
  network, report = parts.to_flax(NETWORK, ours, params['generator']['network'])
  first_stage, more = parts.to_flax(
    part.family, theirs, evaluate(part.init, key)
  )
  for name in ('matched', 'missing', 'mismatched', 'unused'):
    getattr(report, name).update(getattr(more, name))
  scale = np.full(1, system.scale_factor, np.float32)
  return (
    Trees(network=network, first_stage=first_stage, latent_scale=scale),
    report,
  )


def write(workdir: pathlib.Path, config: ConfigDict, trees: Trees) -> None:
  """Writes a workdir; the weights of a release are not told from averages.

  Raises:
    UserError: the folder cannot be written.
  """
  latent_workdir.write_run(
    workdir,
    config,
    generator={'network': trees.network},
    first_stage=trees.first_stage,
    latent_scale=trees.latent_scale,
  )


def to_official(family: str, workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the network of a workdir's newest checkpoint, averaged.

  Args:
    family: a key of `SYSTEMS`.
    workdir: of the run.

  Raises:
    UserError: no such workdir, or a network that the official code lacks.
  """
  with errors.user_errors(value=errors.DATA):
    config = workdir_lib.read_config(workdir)
    system = workdir_lib.create_system(config)
    if not isinstance(system, SYSTEMS[family]):
      raise ValueError(f'{workdir} is not of the system {family}')
    _check(system)
  params, _ = jax.eval_shape(lambda k: system.init(k, {}), jax.random.key(0))
  mesh = mesh_lib.create(config.mesh)
  abstract = sharding.abstract(params, mesh, config.mesh.fsdp_min_size)
  loaded = checkpoints.load(workdir, {'params': abstract})
  return parts.to_official(NETWORK, loaded['params']['generator']['network'])
