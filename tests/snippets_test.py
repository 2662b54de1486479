"""What README and docs show runs: Python and commands, at the smallest sizes.

Runs that a page names have random weights (`tests.helpers.documented_runs`),
and configs get their variant `debug`; everything else is as it is shown.
"""

import importlib
import pathlib
import re
import shlex

import pytest

from tests.helpers import command_line
from tests.helpers import documented_runs


ROOT = pathlib.Path(__file__).parents[1]
PAGES = ('README.md', 'docs/sampling.md')
# Added to commands that sample, and to those that train or evaluate.
FEW = {
  'sample': ['--config.sample.steps=2', '--count=1'],
  'evaluate': ['--config.evaluate.count=4', '--config.evaluate.batch_size=4'],
  'train': ['--config.train.steps=1', '--config.first_stage.train.steps=1'],
}


def blocks(page: str, language: str) -> list[str]:
  """Returns the fenced blocks of a language, '' for commands."""
  text = (ROOT / page).read_text()
  fenced = re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)
  return [block for name, block in fenced if name == language]


def commands() -> list[str]:
  """Returns the commands of the package, each once."""
  lines = [
    line.partition(' #')[0].strip()
    for page in PAGES
    for block in blocks(page, '')
    for line in block.splitlines()
  ]
  shown = [line for line in lines if line.startswith('python -m pyramid_jax')]
  return list(dict.fromkeys(shown))


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """A folder with the files that the pages name."""
  folder = tmp_path_factory.mktemp('world')
  documented_runs.write_files(folder)
  return folder


@pytest.fixture(autouse=True)
def inside(world, monkeypatch):
  monkeypatch.chdir(world)


def write_runs(text: str) -> None:
  """Writes the runs that a snippet names."""
  for name in (*documented_runs.RUNS, documented_runs.STABLE_DIFFUSION):
    if re.search(rf'\b{name}\b', text):
      documented_runs.write(pathlib.Path(), name)


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('page', PAGES)
def test_python_runs(page, world):
  shown = blocks(page, 'python')
  assert shown
  names: dict = {}
  for block in shown:
    write_runs(block)
    exec(compile(block, page, 'exec'), names)


def smallest(command: str) -> tuple[str, list[str]]:
  """Returns the module of a command and arguments that take seconds."""
  command = re.sub(r' \[--samples=[^]]*\]', '', command)
  command = command.replace('=DIR', '=runs/frido_shapes')
  command = command.replace('vocab_file=bert', 'vocab_file=vocab.txt')
  _, _, module, *args = shlex.split(re.sub('[][]', '', command))
  args = [re.sub(r'^(--config=[^:]*)(:.*)?$', debug, arg) for arg in args]
  if module != 'pyramid_jax.main':
    return module, args
  mode = ''.join(a for a in args if a.startswith('--mode=')) or '--mode=train'
  if mode == '--mode=train':
    args = [a.replace('--workdir=', '--workdir=trained/') for a in args]
  return module, [*args, *FEW[mode.removeprefix('--mode=')]]


def debug(found: re.Match[str]) -> str:
  """Adds the variant `debug` to `--config=FILE.py:variant,...`."""
  return f'{found[1]}{found[2] + "," if found[2] else ":"}debug'


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('command', commands())
def test_commands_run(command, world):
  module, args = smallest(command)
  write_runs(' '.join(args))
  if module == 'pyramid_jax.main':
    code, text = command_line.call(*args)
  else:
    code, text = importlib.import_module(module).main(args), ''
  assert code == 0, text
