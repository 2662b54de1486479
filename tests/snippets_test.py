"""What README and docs show runs: Python and commands, at the smallest sizes.

Runs that a page names have random weights (`tests.helpers.documented_runs`),
and configs get their variant `debug`; everything else is as it is shown.
"""

import importlib
import pathlib
import re
import shlex
import shutil

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.evaluation import protocols
from pyramid_jax.files import known
from tests.helpers import command_line
from tests.helpers import documented_runs


ROOT = pathlib.Path(__file__).parents[1]
PAGES = ('README.md', 'docs/sampling.md')
COMMAND_PAGES = (*PAGES, 'docs/evaluation.md')
OFFICIAL = 'runs/official'  # what the README converts
# Added to commands that sample or evaluate.
FEW = {
  'sample': ['--config.sample.steps=2', '--count=1'],
  'evaluate': ['--config.evaluate.count=4', '--config.evaluate.batch_size=4'],
}
# Networks of published sizes, whose files are not at hand. What is scored by
# them is run in tests/evaluation/feature_scores_test.py.
WEIGHTS = re.compile(r' --config\.evaluate\.(clip\w*|cmmd|dinov2|vgg16)=(\w+)')
# Configs of commands that train -> where that is run, which takes minutes.
TRAINED = {
  'configs/frido_shapes.py:text': 'tests/cases/19-empty-prompt/run.sh',
  'configs/frido_coco.py:layout': 'tests/commands/coco_run_test.py',
}


def blocks(page: str, language: str) -> list[str]:
  """Returns the fenced blocks of a language, '' for commands."""
  text = (ROOT / page).read_text()
  fenced = re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)
  return [block for name, block in fenced if name == language]


def commands() -> list[str]:
  """Returns the commands of the package that are run here, each once.

  Those that train are not, nor those of the published protocols.
  """
  return [x for x in shown() if not trained(x) and '=RUN ' not in x]


def trained(command: str) -> str:
  """Returns the config that a command trains, '' for another command."""
  found = re.search(r'pyramid_jax\.main .*--config=(\S+)', command)
  return found[1] if found and '--mode=' not in command else ''


def shown() -> list[str]:
  lines = [
    line.partition(' #')[0].strip()
    for page in COMMAND_PAGES
    for block in blocks(page, '')
    for line in block.splitlines()
  ]
  ours = [line for line in lines if line.startswith('python -m pyramid_jax')]
  return list(dict.fromkeys(ours))


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


@pytest.mark.turns(6)
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('page', PAGES)
def test_python_runs(page, world):
  shown = blocks(page, 'python')
  assert shown
  names: dict = {}
  for block in shown:
    write_runs(block)
    convert_before(block)
    exec(compile(block, page, 'exec'), names)


def convert_before(text: str) -> None:
  """Makes the run that the README converts, for what names it.

  What converts it finds none.
  """
  if text == conversion():
    shutil.rmtree(OFFICIAL, ignore_errors=True)
  elif OFFICIAL in text and not pathlib.Path(OFFICIAL).exists():
    module, args = smallest(conversion())
    assert importlib.import_module(module).main(args) == 0


def conversion() -> str:
  """Returns the README's command that writes `OFFICIAL`."""
  named = [x for x in shown() if f'--workdir={OFFICIAL} ' in x]
  (found,) = [x for x in named if '.convert ' in x]
  return found


def smallest(command: str) -> tuple[str, list[str]]:
  """Returns the module of a command and arguments that take seconds."""
  command = re.sub(r' \[--samples=[^]]*\]', '', command)
  command = command.replace('=DIR', '=runs/frido_shapes')
  for _, name in WEIGHTS.findall(command):
    assert name in known.KNOWN, name
  command = WEIGHTS.sub('', command)
  command = command.replace('vocab_file=bert', 'vocab_file=vocab.txt')
  _, _, module, *args = shlex.split(re.sub('[][]', '', command))
  args = [re.sub(r'^(--config=[^:]*)(:.*)?$', debug, arg) for arg in args]
  if module != 'pyramid_jax.main':
    return module, args
  (mode,) = [a for a in args if a.startswith('--mode=')]
  return module, [*args, *FEW[mode.removeprefix('--mode=')]]


def debug(found: re.Match[str]) -> str:
  """Adds the variant `debug` to `--config=FILE.py:variant,...`."""
  return f'{found[1]}{found[2] + "," if found[2] else ":"}debug'


@pytest.mark.turns(6)
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('command', commands())
def test_commands_run(command, world):
  convert_before(command)
  module, args = smallest(command)
  write_runs(' '.join(args))
  if module == 'pyramid_jax.main':
    code, text = command_line.call(*args)
  else:
    code, text = importlib.import_module(module).main(args), ''
  assert code == 0, text


def test_each_protocol_has_its_command():
  """What they have beside one that is run are fields, which are set here."""
  found = []
  for block in blocks('docs/evaluation.md', ''):
    found += re.findall(r'^.* --workdir=RUN (.*)  # (\S+)$', block, re.M)
  names = []
  for flags, file in found:
    values = dict(
      re.fullmatch(r'--config\.(.+?)=(.+)', flag).groups()
      for flag in flags.split()
    )
    wanted = {name: x for name, x in values.items() if 'reference' not in name}
    for name, value in wanted.items():
      if name not in ('evaluate.protocol', 'evaluate.count'):
        assert value in known.KNOWN, value
    config = config_lib.load(f'{ROOT}/configs/{file}')
    own = config.evaluate.protocol
    typed = {n: int(x) if x.isdigit() else x for n, x in values.items()}
    config_lib.override(config, typed)
    protocol = protocols.of(config)
    assert config.evaluate.protocol in (own, 'layout_x5')
    assert config.evaluate.count == protocol.count
    names.append(config.evaluate.protocol)
  assert names == list(protocols.PROTOCOLS)


def test_commands_that_train_are_run():
  for config in filter(None, map(trained, shown())):
    name, _, variant = pathlib.PurePath(config).name.partition('.py:')
    text = (ROOT / TRAINED[config]).read_text()
    assert re.search(rf'\b{name}\b', text), config
    assert re.search(rf'\b{variant}\b', text), config
