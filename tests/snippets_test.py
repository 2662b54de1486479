"""What README and docs show runs: Python and commands, at the smallest sizes.

Runs that a page names have random weights (`tests.helpers.documented_runs`),
and configs get their variant `debug`; everything else is as it is shown.
"""

import pathlib
import re
import shlex

import pytest

from tests.helpers import command_line
from tests.helpers import documented_runs


ROOT = pathlib.Path(__file__).parents[1]
PAGES = ('README.md', 'docs/sampling.md')
MAIN = ['python', '-m', 'pyramid_jax.main']
# Added to commands that sample, and to those that train or evaluate.
FEW = {
  'sample': ['--config.sample.steps=2', '--count=1'],
  'evaluate': ['--config.evaluate.count=4', '--config.evaluate.batch_size=4'],
  'train': ['--config.train.steps=1'],
}


def blocks(page: str, language: str) -> list[str]:
  """Returns the fenced blocks of a language, '' for commands."""
  text = (ROOT / page).read_text()
  fenced = re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)
  return [block for name, block in fenced if name == language]


def commands() -> list[str]:
  """Returns the commands of `pyramid_jax.main`, each once."""
  lines = [
    line.partition(' #')[0].strip()
    for page in PAGES
    for block in blocks(page, '')
    for line in block.splitlines()
  ]
  shown = [line for line in lines if line.startswith(' '.join(MAIN))]
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


def smallest(command: str) -> list[str]:
  """Returns the arguments of a command, such that it takes seconds."""
  command = re.sub(r'[][]', '', command.replace('=DIR', '=runs/frido_shapes'))
  args = shlex.split(command)[len(MAIN) :]
  mode = ''.join(a for a in args if a.startswith('--mode=')) or '--mode=train'
  if mode == '--mode=train':
    args = [
      re.sub(r'^(--config=[^:]*)(:.*)?$', debug, arg).replace(
        '--workdir=', '--workdir=trained/'
      )
      for arg in args
    ]
  return [*args, *FEW[mode.removeprefix('--mode=')]]


def debug(found: re.Match[str]) -> str:
  """Adds the variant `debug` to `--config=FILE.py:variant,...`."""
  return f'{found[1]}{found[2] + "," if found[2] else ":"}debug'


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('command', commands())
def test_commands_run(command, world):
  write_runs(' '.join(smallest(command)))
  code, text = command_line.call(*smallest(command))
  assert code == 0, text
