"""Config files: Python with `get_config(arg) -> ConfigDict`.

A file starts from `base(system)`, which holds every field of that system, and
changes the few that differ. It is executed, so it is trusted code.
"""

import importlib.util
import pathlib
import types

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import tree


def load(path: str) -> ConfigDict:
  """Executes a config file and returns its config, locked.

  Args:
    path: 'configs/frido_shapes.py' or 'configs/frido_shapes.py:variant,...'.

  Raises:
    UserError: no such file, no `get_config`, an unknown variant, or a field
      that the system does not have.
  """
  if '://' in path:
    raise errors.UserError(
      f'--config={path}: a config is code and is not fetched from a URL; '
      'give the path of a file.'
    )
  name, _, arg = path.partition('.py:')
  file = pathlib.Path(name if name.endswith('.py') else f'{name}.py')
  if not path.endswith('.py') and '.py:' not in path:
    raise errors.UserError(f'--config={path}: must be FILE.py[:variant,...].')
  if not file.is_file():
    raise errors.UserError(f'--config={path}: there is no file {file}.')
  try:
    module = _execute(file)
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
    return tree.from_json(tree.to_json(config))


def sibling(file: str, name: str) -> types.ModuleType:
  """Returns the config module `name` that lies beside the config `file`."""
  return _execute(pathlib.Path(file).with_name(f'{name}.py'))


def _execute(file: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
  assert spec is not None  # the name ends in .py
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
