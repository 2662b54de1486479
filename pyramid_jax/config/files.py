"""Config files: Python with `get_config(arg) -> ConfigDict`.

A file starts from `base(system)`, which holds every field of that system, and
changes the few that differ. It is executed, so it is trusted code.
"""

import importlib.util
import pathlib
import types
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import formats
from pyramid_jax.config import names as names_lib
from pyramid_jax.config import paths


# An installed package carries `configs`; a checkout has them next to it.
_ROOTS = pathlib.Path(__file__).resolve().parents[1:3]


def load(path: str) -> ConfigDict:
  """Executes a config file and returns its config, locked.

  Args:
    path: 'configs/frido_shapes.py' or 'configs/frido_shapes.py:variant,...'. A
      file in `configs` that is not there is looked for in the package. A name
      alone, 'frido_shapes:variant', is that of a config that comes along.

  Raises:
    UserError: no such file, no `get_config`, an unknown variant, or a field
      that the system does not have.
  """
  if '://' in path:
    raise errors.UserError(
      f'--config={path}: a config is code and is not fetched from a URL; '
      'give the path of a file.'
    )
  file, arg = _parts(path)
  found = [f for f in (file, *_shipped(file)) if f.is_file()]
  if not found:
    raise errors.UserError(f'--config={path}: there is no file {file}.')
  try:
    module = _execute(found[0])
  except SyntaxError as error:
    raise errors.UserError(f'--config={path}: {error}.') from error
  if not hasattr(module, 'get_config'):
    raise errors.UserError(f'--config={path}: {file} has no get_config(arg).')
  with errors.user_errors():
    config = module.get_config(arg)
  if not isinstance(config, ConfigDict):
    raise errors.UserError(
      f'--config={path}: get_config returned {type(config).__name__}, '
      'not a ConfigDict.'
    )
  with errors.user_errors():
    return formats.completed(config)


def _parts(path: str) -> tuple[pathlib.Path, str]:
  """Returns the file that a value of `--config` names, and its variants.

  Raises:
    UserError: neither FILE.py nor the name of a config that comes along.
  """
  if path.endswith('.py') or '.py:' in path:
    name, _, arg = paths.expand(path, '--config').partition('.py:')
    return pathlib.Path(f'{name.removesuffix(".py")}.py'), arg
  name, _, arg = path.partition(':')
  known = [file.stem for file in shipped()]
  if name in known:
    return pathlib.Path('configs', f'{name}.py'), arg
  raise errors.UserError(
    f'--config={path}: must be FILE.py[:variant,...] or the name of a config '
    f'that comes along{names_lib.nearest(name, known)}'
  )


def shipped() -> list[pathlib.Path]:
  """Returns the files of the configs that come along, by name."""
  for root in _ROOTS:
    if found := sorted((root / 'configs').glob('*.py')):
      return found
  return []


def _shipped(file: pathlib.Path) -> list[pathlib.Path]:
  """Returns where `configs/NAME.py` lies if it came with the package."""
  is_ours = file.parts[:1] == ('configs',)
  return [root / file for root in _ROOTS] if is_ours else []


def sibling(file: str, name: str) -> types.ModuleType:
  """Returns the config module `name` in the folder of the config `file`."""
  return _execute(pathlib.Path(file).with_name(f'{name}.py'))


def _execute(file: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
  assert spec is not None  # the name ends in .py
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def parse_variants(
  arg: str | None, **known: bool | tuple[str, ...]
) -> dict[str, Any]:
  """Parses 'debug,layout', what follows the colon of `--config`.

  Args:
    arg: names separated by commas.
    **known: `name=False` is a switch that its name turns on;
      `name=('a', 'b')` is a choice that 'a' or 'b' makes, 'a' by default.

  Returns:
    {name: bool or the chosen string}.

  Raises:
    ValueError: a name is not known, or two make the same choice.
  """
  values = {k: v[0] if isinstance(v, tuple) else v for k, v in known.items()}
  owner = {}
  for name, value in known.items():
    names = value if isinstance(value, tuple) else (name,)
    owner.update(dict.fromkeys(names, name))
  chosen: dict[str, str] = {}
  for word in filter(None, (arg or '').split(',')):
    if word not in owner:
      raise ValueError(
        f'unknown config variant {word!r}{names_lib.nearest(word, owner)} '
        f'Known: {", ".join(owner) or "none"}.'
      )
    name = owner[word]
    if chosen.setdefault(name, word) != word:
      raise ValueError(
        f'config variants {chosen[name]!r} and {word!r} exclude each other.'
      )
    values[name] = word if isinstance(known[name], tuple) else True
  return values
