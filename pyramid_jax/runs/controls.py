"""The controls that join that of a run: `config.control.also`.

Each is a run of the system `ladm_control` on the same base; see
`systems.ladm.control`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.files import stores
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import workdir as workdir_lib


SYSTEM, BASE = 'ladm_control', 'base'

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path] | Mapping[Path, float]
Strengths = Mapping[str, float | None]


def strengths(controls: Paths) -> Strengths:
  """Returns strengths by path, None for that of the config.

  `controls` are the workdir of a control, several, or {workdir: strength}.
  """
  if isinstance(controls, Mapping):
    return {os.fspath(path): weight for path, weight in controls.items()}
  if isinstance(controls, str | os.PathLike):
    controls = [controls]
  return {os.fspath(path): None for path in controls}


def on(
  folder: stores.Path, config: ConfigDict, controls: Strengths
) -> tuple[ConfigDict, stores.Path]:
  """Returns the config of a run that controls join, and its workdir.

  Args:
    folder: the workdir of the base, or of a control on one.
    config: its config.
    controls: by the workdirs of controls their strengths.

  Raises:
    UserError: a run that takes no controls, a run that is no control, or a
      strength out of its range.
  """
  rest = dict(controls)
  if config.system.name == 'ladm' and rest:
    path, base = next(iter(rest)), folder
    weight = rest.pop(path)
    folder = stores.path(path).expanduser()
    config = workdir_lib.read_config(folder, 'control.also')
    _check(config, folder)
    with config.unlocked():
      config.control.base = os.fspath(base)
      if weight is not None:
        config.control.weight = float(weight)
  _check(config, folder)
  c = config.control
  with config.unlocked():
    weights = [
      c.also_weights[min(i, len(c.also_weights) - 1)]
      for i in range(len(c.also))
    ]
    weights += [1.0 if x is None else float(x) for x in rest.values()]
    c.also, c.also_weights = (*c.also, *rest), tuple(weights) or c.also_weights
  config_lib.validate(config)
  return config, folder


def _check(config: ConfigDict, folder: stores.Path) -> None:
  """Refuses a run that has no control."""
  if config.system.name != SYSTEM:
    raise errors.UserError(
      f'{folder} is a run of the system {config.system.name!r}; controls are'
      f" runs of {SYSTEM!r}, and their base is one of 'ladm'."
    )


def with_maps(config: ConfigDict) -> ConfigDict:
  """Returns the config with the maps that the controls need which join it.

  Raises:
    UserError: a control is not there.
  """
  if config.system.name != SYSTEM or not config.control.also:
    return config
  maps = dict.fromkeys(config.data.maps)
  config = config_lib.from_json(config_lib.to_json(config))
  with config.unlocked():
    for other in workdir_lib.others(config):
      maps |= dict.fromkeys(other.data.maps)
      if 'mask' in other.data.maps:
        config.condition.map_classes = other.condition.map_classes
    config.data.maps = tuple(maps)
  return config


def check_bases(config: ConfigDict, folder: Path, step: int) -> None:
  """Refuses controls that were trained on another base.

  Where it is not known of a run which base that was, it passes.

  Args:
    config: of the run that they join.
    folder: its workdir.
    step: its step.

  Raises:
    UserError: they differ.
  """
  if config.system.name != SYSTEM or not config.control.also:
    return
  was = checkpoints.frozen(folder, step).get(BASE)
  for path in config.control.also:
    found = checkpoints.newest_meta(path)
    theirs = found and found[1].get('frozen', {}).get(BASE)
    if was and theirs and was != theirs:
      raise errors.UserError(
        f'config.control.also names {path}, which was trained on another base'
        f' than {folder}.',
        errors.DATA,
      )
