"""The rooms of the package: which way imports go, and how large things are.

The rooms are the folders and modules directly below `pyramid_jax`. They lie on
floors, and imports go down only; wings stand beside the floors and serve the
upper ones. See docs/architecture.md.
"""

import ast
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import pathlib

import pytest


ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'pyramid_jax'

# Room -> floor. A room imports what lies below it, never beside or above.
FLOORS = {
  '__init__': 7,
  '__main__': 8,
  'main': 7,
  'commands': 6,
  'planning': 5.5,
  'report': 4.5,
  'results': 4.7,
  'training': 5,
  'demo': 4.5,
  'evaluation': 4,
  'pipeline': 3.5,
  'systems': 3,
  'conditioning': 2,
  'networks': 1,
  'diffusion': 1,
  'networks.layers': 0,
}
# Wing -> the floors that it may import. All may import other wings.
WINGS = {
  'runs': {
    'systems',
    'conditioning',
    'networks',
    'networks.layers',
    'diffusion',
  },
  'interop': {
    'systems',
    'conditioning',
    'networks',
    'networks.layers',
    'diffusion',
  },
  'data': {'conditioning', 'networks', 'networks.layers'},
  'metrics': {'conditioning', 'networks', 'networks.layers'},
  'distributed': set[str](),
}
EVERYWHERE = {'errors', 'limits', 'placement', 'config', 'files'}
USES_WINGS = 3.5  # the lowest floor that does

MAX_TOP_MODULES = 6
MAX_ROOMS_OF_NAME = 2
MAX_PARAMETERS = 8
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 500
MAX_COLUMNS = 80

# What is allowed against the rules, and why. A test fails on an exception
# that nothing needs any more.
_CONFIG = 'config: what configs share moves to configs/common.py'
CLIMBS: Mapping[str, str] = {
  'interop.convert -> commands.convert': 'the old name of the command',
}
MANY_PARAMETERS: Mapping[str, str] = {}
LONG_FUNCTIONS: Mapping[str, str] = {}
LONG_FILES: Mapping[str, str] = {
  'tests/config/config_test.py': _CONFIG,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
  """An import of one module of the package by another.

  Attributes:
    importer: dotted name of the module that imports, below the package.
    imported: dotted name of what is imported, below the package.
    is_lazy: whether it happens inside a function or by the name in a string.
  """

  importer: str
  imported: str
  is_lazy: bool

  def __str__(self) -> str:
    return f'{self.importer} -> {self.imported}'


def room(name: str) -> str:
  """Returns the room of a module, given its dotted name below the package."""
  parts = name.split('.')
  return (
    '.'.join(parts[:2]) if parts[:2] == ['networks', 'layers'] else parts[0]
  )


def is_climb(found: Import) -> bool:
  """Returns whether an import goes up, or sideways where it must not."""
  start, end = room(found.importer), room(found.imported)
  if start == end:
    return False
  if start in ('errors', 'limits', 'placement'):
    return True
  if start == 'files':
    return end not in ('errors', 'limits')
  if start == 'config':
    return end not in ('errors', 'limits', 'files') and not found.is_lazy
  if end in EVERYWHERE:
    return False
  if start in WINGS:
    return end not in WINGS and end not in WINGS[start]
  if end in WINGS:
    return FLOORS[start] < USES_WINGS
  return FLOORS[end] >= FLOORS[start]


def imports_of(name: str, tree: ast.AST) -> Iterator[Import]:
  """Yields the imports of other modules of the package in a module's code.

  Args:
    name: dotted name of the module, below the package.
    tree: its code.
  """
  lazy = {
    id(child)
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.walk(node)
  }
  for node in ast.walk(tree):
    targets, is_lazy = [], id(node) in lazy
    if isinstance(node, ast.Import):
      targets = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      parents = [PACKAGE, *name.split('.')][: -node.level or None]
      base = [node.module] if node.module else []
      prefix = '.'.join([*parents, *base] if node.level else base)
      targets = [f'{prefix}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.Constant) and _names_module(node.value):
      targets, is_lazy = [node.value], True
    for target in targets:
      first, _, rest = target.partition('.')
      if first == PACKAGE:
        yield Import(
          importer=name, imported=rest or '__init__', is_lazy=is_lazy
        )


def _names_module(value: object) -> bool:
  """Returns whether a constant is the name of a module to import later."""
  if not isinstance(value, str) or not value.startswith(f'{PACKAGE}.'):
    return False
  return all(part.isidentifier() for part in value.split('.'))


def sources(*folders: str) -> dict[str, str]:
  """Returns the text of all modules in folders of the repository, by path."""
  return {
    str(file.relative_to(ROOT)): file.read_text()
    for folder in folders
    for file in sorted((ROOT / folder).rglob('*.py'))
  }


@functools.cache
def trees() -> dict[str, ast.AST]:
  """Returns the code of the package's modules by dotted name below it."""
  result: dict[str, ast.AST] = {}
  for path, text in sources(PACKAGE).items():
    parts = pathlib.Path(path).with_suffix('').parts[1:]
    if len(parts) > 1 and parts[-1] == '__init__':
      parts = parts[:-1]
    result['.'.join(parts)] = ast.parse(text)
  return result


def functions(tree: ast.AST, scope: str = '') -> Iterator[tuple[str, ast.AST]]:
  """Yields (qualified name, node) of all functions, lambdas included."""
  for node in ast.iter_child_nodes(tree):
    name = getattr(node, 'name', 'lambda')
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      yield scope + name, node
      yield from functions(node, f'{scope}{name}.')
    elif isinstance(node, ast.ClassDef):
      yield from functions(node, f'{scope}{name}.')
    else:
      yield from functions(node, scope)


def parameters(function: ast.AST) -> list[str]:
  """Returns the names of a function's parameters but for self and cls."""
  assert isinstance(
    function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
  )
  a = function.args
  names = [arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs]]
  names += [arg.arg for arg in (a.vararg, a.kwarg) if arg is not None]
  return [name for name in names if name not in ('self', 'cls')]


def compare(found: Iterable[str], allowed: Mapping[str, str]) -> None:
  """Fails on what is found and not allowed, and on what is only allowed."""
  found = set(found)
  new = sorted(found - allowed.keys())
  assert not new, f'against the rules of this file: {new}'
  idle = sorted(allowed.keys() - found)
  assert not idle, f'exceptions that nothing needs any more: {idle}'


def test_every_folder_of_code_is_a_package():
  # A folder without __init__.py imports from a checkout, and is missing from
  # what setup.py installs.
  packages = {
    path.parent
    for path in (ROOT / PACKAGE).rglob('*.py')
    if not path.name.startswith('.')
  }
  assert {p for p in packages if not (p / '__init__.py').exists()} == set()


def test_every_module_is_in_a_room():
  known = FLOORS.keys() | WINGS.keys() | EVERYWHERE
  assert {room(name) for name in trees()} <= known


def test_imports_go_down():
  found = [i for name, tree in trees().items() for i in imports_of(name, tree)]
  assert len(found) > 500  # the walk has seen them
  compare({str(i) for i in found if is_climb(i)}, CLIMBS)


@pytest.mark.parametrize(
  ('importer', 'imported', 'expected'),
  [
    ('systems.ldm', 'networks.unet', False),
    ('networks.unet', 'systems.ldm', True),
    ('networks.unet', 'diffusion.edm', True),
    ('diffusion.edm', 'networks.unet', True),
    ('networks.unet', 'networks.layers.norms', False),
    ('networks.layers.norms', 'networks.unet', True),
    ('systems.ldm', 'runs.workdir', True),
    ('conditioning.text', 'data.coco', True),
    ('pipeline', 'runs.workdir', False),
    ('systems.ldm', 'pipeline', True),
    ('evaluation.scoring', 'training.step', True),
    ('runs.loading', 'systems.ldm', False),
    ('runs.checkpoints', 'training.step', True),
    ('data.coco', 'systems.ldm', True),
    ('networks.unet', 'errors', False),
    ('errors', 'config', True),
    ('files', 'errors', False),
    ('files', 'limits', False),
    ('limits', 'errors', True),
    ('files', 'config', True),
    ('networks.layers.norms', 'files', False),
    ('config.loading', 'systems', True),
    ('commands.sample', '__init__', True),
  ],
)
def test_climbs_are_seen(importer, imported, expected):
  found = Import(importer=importer, imported=imported, is_lazy=False)
  assert is_climb(found) == expected


def test_config_may_import_a_room_inside_a_function():
  found = Import(importer='config.loading', imported='systems', is_lazy=True)
  assert not is_climb(found)


def test_imports_of_every_form_are_found():
  code = """
import pyramid_jax.data.coco
from pyramid_jax import errors
from . import norms
from ..networks import unet
def f():
  from pyramid_jax.runs import lock
LATER = 'pyramid_jax.interop.convert'
TEXT = 'pyramid_jax. Some prose.'
"""
  found = {
    (i.imported, i.is_lazy) for i in imports_of('systems.ldm', ast.parse(code))
  }
  assert found == {
    ('data.coco', False),
    ('errors', False),
    ('systems.norms', False),
    ('networks.unet', False),
    ('runs.lock', True),
    ('interop.convert', True),
  }


def test_the_top_floor_is_small():
  files = [file.name for file in (ROOT / PACKAGE).glob('*.py')]
  assert len(files) <= MAX_TOP_MODULES, sorted(files)


def test_no_name_is_in_three_rooms():
  rooms: dict[str, set[str]] = {}
  for path in sources(PACKAGE):
    file = pathlib.Path(path)
    if file.stem != '__init__' and 'families' not in file.parts:
      rooms.setdefault(file.stem, set()).add(file.parts[1])
  many = {k: v for k, v in rooms.items() if len(v) > MAX_ROOMS_OF_NAME}
  assert not many


def test_functions_have_few_parameters():
  found = []
  for module, tree in trees().items():
    for name, node in functions(tree):
      is_network = room(module).startswith('networks')
      if is_network and name.endswith('.__call__'):
        continue
      if len(parameters(node)) > MAX_PARAMETERS:
        found.append(f'{module}.{name}')
  compare(found, MANY_PARAMETERS)


def test_functions_fit_a_screen():
  found = []
  for path, text in sources(PACKAGE, 'configs', 'benchmarks').items():
    for name, node in functions(ast.parse(text)):
      if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
        found.append(f'{path}: {name}')
  compare(found, LONG_FUNCTIONS)


def test_files_are_short():
  found = []
  for path, text in sources(PACKAGE, 'configs', 'benchmarks', 'tests').items():
    if text.count('\n') > MAX_FILE_LINES:
      found.append(path)
  compare(found, LONG_FILES)


def test_lines_are_narrow():
  for path, text in sources(PACKAGE, 'configs', 'benchmarks', 'tests').items():
    wide = [line for line in text.splitlines() if len(line) > MAX_COLUMNS]
    assert not wide, f'{path} has lines above {MAX_COLUMNS} columns: {wide}'
