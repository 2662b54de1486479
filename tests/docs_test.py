"""What the documents name exists: files, links, terms, commands, fields."""

import ast
from collections.abc import Iterator
import functools
import glob
import importlib
import pathlib
import re
import shlex
import subprocess
from unittest import mock

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import report
from pyramid_jax import results
from pyramid_jax import systems
from pyramid_jax.commands import demo
from pyramid_jax.commands import options
from pyramid_jax.commands import panorama
from pyramid_jax.commands import ship
from pyramid_jax.config import checks
from pyramid_jax.config import sections
from pyramid_jax.interop import convert
from pyramid_jax.planning import topologies
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import command_line


ROOT = pathlib.Path(__file__).parents[1]
PAGES = tuple(
  path.relative_to(ROOT).as_posix()
  for path in (
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').rglob('*.md')),
  )
)
PROGRAMS = tuple(
  path.relative_to(ROOT).as_posix()
  for folder in ('configs', 'benchmarks')
  for path in sorted((ROOT / folder).glob('*.py'))
)
FOLDERS = (
  *('pyramid_jax', 'configs', 'benchmarks', 'launch', 'docs', 'notebooks'),
  'tests',
)
SKIPPED = ('.git', '.venv', 'runs', 'build', '__pycache__')
MAIN = 'python -m pyramid_jax.main'

# What stands for a value in the commands that are shown.
PLACEHOLDERS = {
  r'=CONFIG\b': '=configs/ldm_shapes.py:debug',
  r'=FAMILY\b': '=ldm',
  r':TASK\b': ':layout',
  r'=(N|STEPS)\b': '=1',
  r'=SOLVER\b': '=ddim',
}
# Old names of commands, which still work.
RENAMED = {'pyramid_jax.interop.convert': 'pyramid_jax.commands.convert'}
# Files that runs write.
WRITTEN = {'scores.md'}
# Options that are shown of programs that are not ours.
FOREIGN_OPTIONS = {
  *('--scale_lr', '--file_format'),
  *('--cluster', '--location', '--logdir', '--member', '--role', '--workload'),
}
OPTION = re.compile(r'(?<![\w-])--[a-z]\w+(?![\w.-])')


class Parsed(BaseException):
  """Ends a program where its arguments have been understood."""


def words(name: str) -> str:
  """Returns the text of a page, or the docstring of a module."""
  text = (ROOT / name).read_text()
  return text if name.endswith('.md') else ast.get_docstring(ast.parse(text))


def joined(name: str) -> str:
  """Returns the text of `words` in one line."""
  return ' '.join(words(name).split())


@functools.cache
def repository() -> frozenset[str]:
  """Returns the paths of all files."""
  return frozenset(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob('*')
    if path.is_file() and path.relative_to(ROOT).parts[0] not in SKIPPED
  )


def is_there(path: str) -> bool:
  """Returns whether a file has a path, or a path that ends so."""
  return path in repository() or any(
    known.endswith('/' + path) for known in repository()
  )


# -- Files, links, terms ----------------------------------------------------


@pytest.mark.parametrize('name', [*PAGES, *PROGRAMS])
def test_named_files_are_there(name):
  # What stands after OWNER/REPO: is not ours, up to the end of the sentence.
  text = re.sub(r'\b[\w-]+/[\w-]+: .*?\. (?=[A-Z])', '', joined(name))
  for path in re.findall(r'(?<![\w{}*:/.])[\w./-]+\.(?:py|md|sh|toml)\b', text):
    path = re.sub(r'^(\.\./)+', '', path)  # of a link from a folder
    if path not in WRITTEN and pathlib.PurePath(path).stem != 'FILE':
      assert is_there(path), path
  roots = '|'.join(FOLDERS)
  for path in re.findall(rf'(?<![\w/.])(?:{roots})/[\w./*-]*\w', text):
    assert glob.glob(str(ROOT / path)) or is_there(path), path


@pytest.mark.parametrize('name', PAGES)
def test_named_modules_are_there(name):
  for dotted in re.findall(r'\bpyramid_jax(?:\.\w+)+', words(name)):
    parts, found = [x for x in dotted.split('.') if not x.isupper()], None
    dotted = '.'.join(parts)
    while found is None:
      try:
        found = importlib.import_module('.'.join(parts))
      except ModuleNotFoundError:
        parts.pop()
    for attribute in dotted.split('.')[len(parts) :]:
      assert hasattr(found, attribute), dotted
      found = getattr(found, attribute)


@pytest.mark.parametrize('name', PAGES)
def test_named_definitions_are_in_their_file(name):
  for path, definition in re.findall(r'`([\w./]+\.py): (\w+)`', words(name)):
    (known,) = [x for x in repository() if x.endswith(path)]
    assert re.search(rf'\b{definition}\b', (ROOT / known).read_text()), path


def anchors(text: str) -> set[str]:
  """Returns the anchors that a page gets from its headings."""
  titles = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  return {re.sub(r'[^\w -]', '', x.lower()).replace(' ', '-') for x in titles}


@pytest.mark.parametrize('name', PAGES)
def test_links_resolve(name):
  for link in re.findall(r'\]\(([^)\s]+)\)', words(name)):
    if re.match(r'https?://', link):
      continue
    path, _, anchor = link.partition('#')
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.is_file(), link
    if anchor:
      assert anchor in anchors(target.read_text()), link


def test_terms_are_where_the_glossary_says():
  rows = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in words('docs/glossary.md').splitlines()
    if line.startswith('|') and not line.startswith(('|---', '| term'))
  ]
  assert len(rows) > 20
  assert len({term for term, *_ in rows}) == len(rows)
  for term, meaning, path in rows:
    assert meaning.endswith('.'), term
    assert path.strip('`') in repository(), term
  for page in ('README.md', 'docs/architecture.md'):
    assert 'glossary.md' in words(page)


@pytest.mark.parametrize(
  'name',
  [x for x in PROGRAMS if x.startswith('configs/') and 'common' not in x],
)
def test_configs_list_their_variants(name):
  _, _, listed = words(name).partition('Variants:\n')
  parser = mock.Mock(side_effect=Parsed)
  with (
    mock.patch.object(config_lib, 'parse_variants', parser),
    pytest.raises(Parsed),
  ):
    config_lib.load(str(ROOT / name))
  for key, choices in parser.call_args.kwargs.items():
    for choice in choices or (key,):
      assert re.search(rf'\b{choice}\b', listed), choice


# -- Commands and fields ----------------------------------------------------


def commands(name: str) -> Iterator[str]:
  """Yields the commands that a page or a docstring shows.

  A code span that begins with a config is a command of `pyramid_jax.main`.
  """
  text = words(name).replace('\\\n', ' ')
  fenced = re.compile(r'^```\w*\n(.*?)^```$', re.DOTALL | re.MULTILINE)
  for block in fenced.findall(text):
    yield from (x for x in block.splitlines() if x.startswith('python '))
  text = re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)
  yield from re.findall(r'^  (python .*)$', text, re.MULTILINE)
  for span in re.findall(r'`([^`\n]+)`', text):
    if span.startswith('--config=configs/'):
      yield f'{MAIN} --workdir=DIR {span}'
    elif re.match(r'configs/\w+\.py(:|$)', span):
      yield f'{MAIN} --workdir=DIR --config={span}'
    elif span.startswith('python '):
      yield span


def arguments(command: str) -> list[str]:
  """Returns the arguments of a command, optional ones and examples filled."""
  command = command.partition(' #')[0].replace('[...]', '')
  command = re.sub(r'\[(:[\w,]+)\]', '', command)
  command = re.sub(r'\[(--[^\]]*)\]', r'\1', command)
  for pattern, value in PLACEHOLDERS.items():
    command = re.sub(pattern, value, command)
  return shlex.split(command)


def parse(module: str, args: list[str], system: str = 'ldm') -> None:
  """Has a command read its arguments, with its own parser, and no more.

  Args:
    module: of the command.
    args: of the command.
    system: of the run that a workdir is taken for if no config is given.

  Raises:
    Parsed: it has understood them.
  """
  run = config_lib.base(system)
  stop = mock.Mock(side_effect=Parsed)
  with (
    mock.patch.object(checks, 'validate', stop),
    mock.patch.object(workdir_lib, 'read_config', return_value=run),
    mock.patch.object(convert, 'convert', stop),
    mock.patch.object(convert, 'export', stop),
    mock.patch.object(demo, 'run', stop),
    mock.patch.object(panorama, 'run', stop),
    mock.patch.object(report, 'write', stop),
    mock.patch.object(results, 'chosen', stop),
    mock.patch.object(ship, 'ship', stop),
    mock.patch.object(topologies, 'prepare'),
  ):
    if module == 'pyramid_jax.main':
      code, text = command_line.call(*args)
      raise AssertionError(f'{args}: exit code {code}: {text}')
    code = importlib.import_module(RENAMED.get(module, module)).main(args)
    raise AssertionError(f'{args}: exit code {code}')


def options_of(path: str) -> set[str]:
  """Returns the options that a program names, of absl or of argparse."""
  found = set()
  for node in ast.walk(ast.parse((ROOT / path).read_text())):
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    if is_text and re.fullmatch(r'--\w+', node.value):
      found.add(node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      first = node.args[0] if node.args else None
      if node.func.attr.startswith('DEFINE_') and hasattr(first, 'value'):
        found.add(f'--{first.value}')
  return found


@pytest.mark.parametrize('name', [*PAGES, *PROGRAMS])
def test_commands_are_understood(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  for command in commands(name):
    args = arguments(command)
    if len(args) < 4 and '-m' in args:
      continue  # the name of a program
    if args[:2] == ['python', '-m'] and args[2].startswith('pyramid_jax'):
      has_config = any(x.startswith('--config=') for x in args)
      known = ['ldm'] if has_config else list(systems.SYSTEMS)
      for i, system in enumerate(known):
        try:
          parse(args[2], args[3:], system)
        except Parsed:
          break
        except AssertionError:
          if i == len(known) - 1:
            raise
    elif args[:1] == ['python'] and args[1].startswith('benchmarks/'):
      known = options_of(args[1]) | options_of('benchmarks/measuring.py')
      for arg in args[2:]:
        assert arg.partition('=')[0] in known, command


@functools.cache
def known_options() -> set[str]:
  """Returns the options of all programs, and those that are not ours."""
  programs = [
    path
    for path in repository()
    if path.endswith('.py')
    and path.startswith(
      ('pyramid_jax/', 'benchmarks/', 'launch/', 'tests/parity/')
    )
  ]
  scripts = [x for x in repository() if x.startswith('launch/')]
  return set.union(
    FOREIGN_OPTIONS,
    {f'--{name}' for group in options.GROUPS.values() for name in group.flags},
    *map(options_of, programs),
    *(OPTION.findall((ROOT / script).read_text()) for script in scripts),
  )


@pytest.mark.parametrize('name', PAGES)
def test_options_are_there(name):
  for option in OPTION.findall(words(name)):
    assert option in known_options(), option


@pytest.mark.parametrize('name', [*PAGES, *PROGRAMS])
def test_fields_are_there(name):
  declared = {s: sections.of(s).fields for s in systems.SYSTEMS}
  heads = {f.partition('.')[0] for fs in declared.values() for f in fs}
  text = words(name)
  shown = re.findall(
    r'(?<![\w.])config\.((?:\w+\.)+\w+)(?:=([^\s`\]]+))?', text
  )
  shown += re.findall(r'`((?:\w+\.)+\w+)(?:=([^\s`]+))?`', text)
  for field, value in shown:
    plain = field.removeprefix('first_stage.')
    head = plain.partition('.')[0]
    if head not in heads or plain in ('checkpoint', 'network'):
      continue
    owners = [s for s, fields in declared.items() if plain in fields]
    assert owners, field
    if value and not value.isupper():
      for owner in owners:
        try:
          config_lib.override(config_lib.base(owner), {plain: value})
          break
        except errors.UserError:
          if owner == owners[-1]:
            raise


def test_no_file_has_a_mark_of_a_conflict():
  listed = subprocess.run(
    ['git', 'grep', '-lE', '^(<{7} |>{7} )'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  if listed.returncode > 1:
    pytest.skip(f'no repository: {listed.stderr}')
  assert not listed.stdout
