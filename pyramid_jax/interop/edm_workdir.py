"""Networks that EDM released as workdirs, and such workdirs as state dicts.

NVlabs/edm pickles the averaged network within its preconditioning (see
`persistent_file`); a state dict of it in any other format is read as well.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.diffusion import edm
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores
from pyramid_jax.interop import mapping
from pyramid_jax.interop import network_workdir
from pyramid_jax.interop import parts
from pyramid_jax.interop import persistent_file
from pyramid_jax.interop.families import song_unet
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import workdir as workdir_lib


FAMILY = 'edm'  # what --family calls it
SYSTEM = 'diffit'  # the system of these networks
_MODEL = 'model.'  # before the keys of the network in its preconditioning

_CLASSES: Mapping[type[edm.Preconditioning], str] = {
  edm.VP: 'VPPrecond',
  edm.VE: 'VEPrecond',
  edm.IDDPM: 'iDDPMPrecond',
  edm.EDM: 'EDMPrecond',
}
# Fields of a preconditioning that are named otherwise there.
_OFFICIAL = {'length': 'M', 'c1': 'C_1', 'c2': 'C_2'}


def variables(params: Any, extra: Any) -> dict[str, Any]:
  """Returns the variables of the network of a run, by collection."""
  return {'params': params['generator']['network'], **extra}


def check(config: ConfigDict, system: Any) -> None:
  """Raises ValueError for a config whose network EDM did not release."""
  if config.system.name != SYSTEM or not system.network.family:
    raise ValueError(
      f'--family={FAMILY} needs config.system.name {SYSTEM!r}, '
      "config.system.denoiser 'song_unet' and config.network.tmsa False"
    )


def from_official(
  state: parts.State, system: Any, keep_initial: bool, weights: str = ''
) -> tuple[dict[str, Any], mapping.Report]:
  """Returns the variables of the network, and the account of the keys.

  Args:
    state: official key -> array.
    system: the system of the config.
    keep_initial: whether what is missing gets initial values, or stays shapes.
    weights: which of several sets is taken, see `weight_sets.choose`.

  Raises:
    ValueError: another preconditioning or other sizes than those of the config.
  """
  if isinstance(state, persistent_file.Snapshot):
    _check_snapshot(state, system)
  evaluate = initial.evaluate if keep_initial else jax.eval_shape
  template = variables(*evaluate(system.init, jax.random.key(0)))
  network = system.network
  tree, report = parts.to_flax(network.family, state, template, weights=weights)
  want = song_unet.filter_of(network.resample_filter)
  for key in [key for key in report.unused if key.endswith(song_unet.FILTER)]:
    got = np.asarray(state[key])
    if got.shape != want.shape or not np.allclose(got, want):
      side = np.round(np.ravel(got)[: got.shape[-1]] / np.ravel(got)[0])
      raise ValueError(
        f'{key} has the weights {side.astype(int).tolist()}, those of'
        f' config.network.resample_filter are {network.resample_filter}'
      )
    report.matched[key] = report.unused.pop(key)
  return tree, report


def _check_snapshot(state: persistent_file.Snapshot, system: Any) -> None:
  """Raises ValueError if a snapshot was constructed otherwise."""
  precond, settings = system.precond, state.settings
  wanted = {
    'class_name': (state.class_name, _CLASSES[type(precond)]),
    'model_type': (settings.get('model_type', 'SongUNet'), 'SongUNet'),
    'img_resolution': (settings.get('img_resolution'), system.image_size),
    'label_dim': (settings.get('label_dim'), system.network.num_classes),
  }
  for field in dataclasses.fields(precond):
    name = _OFFICIAL.get(field.name, field.name)
    if name in settings:
      wanted[name] = (settings[name], getattr(precond, field.name))
  for name, (found, ours) in wanted.items():
    is_number = isinstance(found, float | int) and isinstance(ours, float)
    same = math.isclose(found, ours) if is_number else found in (None, ours)
    if not same:
      raise ValueError(
        f'the network was pickled with {name} = {found!r}, that of the config'
        f' is {ours!r}'
      )


def write(
  workdir: stores.Path, config: ConfigDict, tree: Mapping[str, Any]
) -> None:
  """Writes a workdir; `config.json` comes last and makes it one.

  Raises:
    UserError: the folder cannot be written.
  """
  extra = {name: value for name, value in tree.items() if name != 'params'}
  network_workdir.write(workdir, config, {'network': tree['params']}, extra)


def to_official(workdir: stores.Path) -> dict[str, np.ndarray]:
  """Returns the averages of a run as the state dict of the preconditioning.

  Raises:
    UserError: no such workdir, or a network that EDM does not have.
  """
  with errors.user_errors(value=errors.DATA):
    config = workdir_lib.read_config(workdir)
    system: Any = workdir_lib.create_system(config)
    check(config, system)
  params, extra = jax.eval_shape(system.init, jax.random.key(0))
  shapes = {'params': params, 'extra': extra}
  mesh = mesh_lib.create(config.mesh)
  trees = checkpoints.load(
    workdir, sharding.abstract(shapes, mesh, config.mesh.fsdp_min_size)
  )
  network = system.network
  tree = variables(trees['params'], trees['extra'])
  state = parts.to_official(network.family, tree)
  state |= song_unet.filters(state, network.resample_filter)
  return {_MODEL + key: value for key, value in state.items()}
