"""What all processes of a run must have in common before it begins.

They get the same command, the same code and the same data, each on its own
host. What differs would not fail: it would train something else.
"""

from collections.abc import Mapping
import hashlib
import importlib.metadata
import json
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import json_text


_PACKAGE = pathlib.Path(errors.__file__).parent
_SEEN_SECS, _LOOK_SECS = 10.0, 0.1
_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def check_command(config: ConfigDict, workdir: str) -> None:
  """Compares the code, the config and the folder of the run.

  The section `distributed` may differ.

  Raises:
    UserError: a process has others.
  """
  if not processes.is_one_of_many():
    return
  versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
  _check('the version of', versions, errors.USAGE)
  _check('the file', _files(), errors.USAGE)
  _check('', {'workdir': workdir}, errors.USAGE)
  _check('', config_values(config), errors.USAGE)


def config_values(config: ConfigDict) -> dict[str, Any]:
  """Returns the values of a config that all processes share, by their names."""
  return _flat('config', json_text.loads(config_lib.to_json(config)))


def check_data(facts: Mapping[str, Any]) -> None:
  """Compares what the data of the run are made of, by split.

  Raises:
    UserError: a process has others.
  """
  _check('the data', _flat('', facts), errors.DATA)


def check_step(step: int) -> None:
  """Compares the step after which the run goes on.

  Raises:
    UserError: a process has another.
  """
  _check('', {'the last step': step}, errors.DATA)


def check_folder(file: pathlib.Path) -> None:
  """Compares the folder of the run by a file that process 0 has written.

  Raises:
    UserError: a process does not see it: the folder is on a disk of its own.
  """
  end = time.monotonic() + _SEEN_SECS
  while not file.exists() and time.monotonic() < end:
    time.sleep(_LOOK_SECS)  # some storage shows new files late
  found = processes.collected([file.exists(), processes.name()])
  blind = [name for is_seen, name in found if not is_seen]
  if blind:
    error = errors.UserError(
      f'{blind[0]} does not see {file}, which {found[0][1]} has written: the'
      ' workdir must be on storage that all processes share.',
      errors.OUTPUT,
    )
    error.is_shared = True
    raise error


def _files() -> dict[str, str]:
  """Returns the SHA-256 of the modules of the package, by path."""
  return {
    str(path.relative_to(_PACKAGE)): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(_PACKAGE.rglob('*.py'))
  }


def _flat(name: str, value: Any) -> dict[str, Any]:
  """Returns the values of nested dicts by dotted names."""
  if not isinstance(value, Mapping):
    return {name: value}
  found: dict[str, Any] = {}
  for key, inner in value.items():
    found |= _flat(f'{name}.{key}' if name else key, inner)
  return found


def _check(what: str, mine: Mapping[str, Any], code: int) -> None:
  """Raises UserError with the first difference from process 0."""
  text = json.dumps(mine, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  found = processes.collected([digest, processes.name()])
  names = [name for _, name in found]
  others = [n for n, (sum_, _) in enumerate(found) if sum_ != found[0][0]]
  if not others:
    return
  values = processes.collected(dict(mine))  # all of them: it is an error now
  first, other = values[0], values[others[0]]
  name = min(
    key
    for key in first.keys() | other.keys()
    if first.get(key, '') != other.get(key, '')
    or (key in first) != (key in other)
  )
  there, here = (_shown(x, name) for x in (other, first))
  error = errors.UserError(
    f'{what} {name} is {there} in {names[others[0]]} and {here} in {names[0]};'
    ' all processes of a run need the same.',
    code,
  )
  error.is_shared = True
  raise error


def _shown(values: Mapping[str, Any], name: str) -> str:
  return errors.shown(values[name]) if name in values else 'absent'
