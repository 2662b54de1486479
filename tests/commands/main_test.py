"""The command line, in process."""

import json
import pathlib
import shlex

from absl import logging
import jax
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import main
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import options as options_lib
from pyramid_jax.commands import requests
from pyramid_jax.commands import sample
from pyramid_jax.commands import train
from pyramid_jax.distributed import program_cache
from pyramid_jax.pipeline import request as request_lib
from tests.helpers import command_line
from tests.helpers import fake_run


@pytest.fixture
def call(monkeypatch):
  """Runs a command line; returns its exit code and what it wrote."""
  monkeypatch.setattr(jax.config, 'update', lambda *args: None)
  return command_line.call


@pytest.fixture
def calls(monkeypatch):
  told = []
  for module in (train, sample, evaluate):
    monkeypatch.setattr(module, 'run', lambda *args: told.append(args))
  return told


CONFIG = f'--config={fake_run.__file__}'
SAMPLE = ('--mode=sample',)


def test_train(call, calls):
  code, _ = call(CONFIG, '--workdir=DIR', '--config.train.steps=7')
  assert code == 0
  ((config, workdir, options),) = calls
  assert config.train.steps == 7
  assert config.is_locked
  assert workdir.name == 'DIR'
  assert not options['takeover']


def test_sample_reads_the_config_of_the_workdir(call, calls, tmp_path):
  config = fake_run.get_config()
  (tmp_path / 'config.json').write_text(json.dumps(config.to_dict()))
  code, _ = call(
    '--mode=sample',
    f'--workdir={tmp_path}',
    '--config.sample.eta=1',
    '--count=3',
    '--prompt=a red circle',
  )
  assert code == 0
  ((config, _, options),) = calls
  assert config.name == 'fake'
  assert config.sample.eta == 1.0
  assert (options['count'], options['prompt']) == (3, 'a red circle')
  assert options['seed'] is None


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ([CONFIG, '--config.train.step=3'], "'train.steps'"),
    ([CONFIG, '--config.train.steps'], 'must be --config.train.steps=VALUE'),
    ([CONFIG, '--config.condition.task=words'], 'one of none, text'),
    ([CONFIG + ':tow'], "'two'"),
    (['--config=none.py'], 'there is no file none.py'),
    ([CONFIG, '--mode=trian'], "plan; did you mean 'train'?"),
    ([CONFIG, '--prmpt=x'], "no flag --prmpt; did you mean '--prompt'?"),
    ([CONFIG, 'train'], "unknown argument 'train'"),
    (
      [CONFIG, '--prompt=x'],
      'is a flag of --mode=sample, not of --mode=train',
    ),
    ([CONFIG, '--steps=3'], '--mode=sample and --mode=evaluate, not of --mode'),
    ([CONFIG, *SAMPLE, '--takeover'], 'of --mode=train, not of --mode=sample'),
    ([CONFIG, *SAMPLE, '--count=0'], '--count: is 0, must be at least 1'),
    ([CONFIG, *SAMPLE, '--count=x'], "--count: invalid integer value: 'x'"),
    ([CONFIG, *SAMPLE, '--seed=-1'], '--seed: is -1, must be at least 0'),
    ([CONFIG, *SAMPLE, '--split='], '--split= is empty, give a value or leave'),
    ([CONFIG, *SAMPLE, '--steps', ''], '--steps= is empty'),
    ([CONFIG, *SAMPLE, '--steps=0'], 'config.sample.steps is 0, must be in'),
    ([CONFIG, *SAMPLE, '--map=~nobody-x/a'], '--map: ~nobody-x/a: the home'),
    (['--config='], '--config= is empty'),
    (['--workdir'], '--workdir: expected one argument'),
  ],
)
def test_one_line_for_a_wrong_command(call, calls, args, message):
  code, text = call('--workdir=DIR', *args)
  assert code == errors.USAGE
  assert message in text
  assert len(text.strip().splitlines()) == 1
  assert calls == []


@pytest.mark.parametrize('mode', ['train', 'sample', 'evaluate'])
def test_the_workdir_of_a_config(call, calls, monkeypatch, mode):
  said = []
  tell = lambda text, *args: said.append(text % args)
  monkeypatch.setattr(logging, 'info', tell)
  assert call(CONFIG, f'--mode={mode}') == (errors.OK, '')
  ((_, workdir, _),) = calls
  assert workdir == pathlib.Path('runs/fake')
  assert said[0].startswith('workdir: runs/fake; ')


def test_neither_config_nor_workdir(call, calls):
  for args in ([], SAMPLE, ['--help_config']):
    code, text = call(*args)
    assert code == errors.USAGE
    assert text.startswith('error: give --config=FILE.py[:variant,...], such')
    assert text.count('\n') == 1
  assert calls == []


def test_flags_of_sampling_are_fields(call, calls):
  flags = ['--steps', '7', '--guidance=2.5', '--prompt=']
  assert call(CONFIG, *SAMPLE, *flags) == (errors.OK, '')
  ((config, _, options),) = calls
  assert (config.sample.steps, config.sample.guidance) == (7, 2.5)
  assert (options['prompt'], options['label']) == ('', None)
  assert requests.of_options(options).prompt == ''


def test_a_request_has_a_flag_for_every_field():
  flags = {
    name for group in options_lib.GROUPS.values() for name in group.flags
  }
  assert set(request_lib.NAMES) <= flags
  others = {'shape', 'classifier'}  # no value of a sampler; a run that guides
  assert set(request_lib.SAMPLER) | others == set(options_lib.SAMPLER)


def test_another_program(call, capsys):
  code, text = call('measure_bands', '--count=0')
  assert (code, text.count('\n')) == (errors.USAGE, 1)
  assert '--count: is 0, must be above 0' in text
  assert set(main.programs()) >= {'convert', 'cache_latents', 'measure_bands'}


def test_help_lists_every_flag_by_group(call, capsys):
  assert call('--help') == (errors.OK, '')
  text = capsys.readouterr().out
  for title, group in options_lib.GROUPS.items():
    assert f'\n{title}:\n  python -m pyramid_jax.main {group.example}' in text
    for name in group.flags:
      assert f'\n  --{name}' in text
  for program, words in main.programs().items():
    assert program in text
    assert words in text
  call('--help', '--mode=evaluate')
  text = capsys.readouterr().out
  assert '--samples' in text
  assert '--steps' in text
  assert '--prompt' not in text
  assert call('--help', '--mode=x')[0] == errors.USAGE


def test_examples_of_the_help_are_understood():
  for group in options_lib.GROUPS.values():
    given = options_lib.parse(shlex.split(group.example))
    assert given.mode in group.modes


def test_the_fields_of_a_config(call, capsys):
  config = 'configs/frido_shapes.py:debug'
  args = (f'--config={config}', '--config.train.steps=7', '--help_config')
  assert call(*args) == (errors.OK, '')
  text = ' '.join(capsys.readouterr().out.split())
  for name, value in config_lib.flatten(config_lib.load(config)).items():
    shown = 7 if name == 'train.steps' else value
    if not isinstance(shown, tuple):
      assert f'--config.{name}={shown}' in text
  assert '--config.train.steps=7 The number of updates' in text
  assert '[first_stage.loss]' in text
  assert '(path)' in text


def test_the_configs_that_come_along(call, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert call('--list_configs') == (errors.OK, '')
  text = capsys.readouterr().out
  blocks = {x.splitlines()[0]: x for x in text.strip().split('\n\n')}
  assert len(blocks) > 20
  assert 'configs/common.py' not in blocks
  block = blocks['configs/frido_shapes.py']
  assert block.splitlines()[1] == (
    '  Frido on `shapes`, 32 px, for two CPU cores; needs no data.'
  )
  assert '\n    :layout (default), text' in block


def test_no_config(call, tmp_path):
  code, text = call('--mode=sample', f'--workdir={tmp_path}')
  assert code == errors.MISSING
  assert 'config.json' in text
  assert len(text.strip().splitlines()) == 1


def test_codes_and_bugs(call, monkeypatch):
  def fail(error):
    def run(*args):
      raise error

    monkeypatch.setattr(train, 'run', run)
    return call(CONFIG, '--workdir=DIR')

  code, text = fail(errors.UserError('two\nlines', errors.DIVERGED))
  assert (code, text) == (errors.DIVERGED, 'error: two lines\n')
  code, text = fail(KeyError('bug'))
  assert code == errors.BUG
  assert 'Traceback' in text


@pytest.fixture
def updates(monkeypatch):
  made = {}
  monkeypatch.setattr(jax.config, 'update', made.__setitem__)
  monkeypatch.delenv(SECS.upper(), raising=False)
  return made


SECS = 'jax_persistent_cache_min_compile_time_secs'


def test_the_program_cache_has_a_threshold_of_its_own(updates, monkeypatch):
  monkeypatch.setattr(program_cache, '_setting', {SECS: 1.0}.get)
  program_cache.keep()
  assert updates.pop('jax_compilation_cache_dir').endswith('pyramid_jax/xla')
  assert updates == {SECS: 0.1}


def test_a_program_cache_that_is_set_is_left_alone(updates, monkeypatch):
  settings = {SECS: 5.0, 'jax_compilation_cache_dir': 'DIR'}
  monkeypatch.setattr(program_cache, '_setting', settings.get)
  program_cache.keep()
  settings[SECS] = 1.0  # the default of jax, and asked for
  monkeypatch.setenv(SECS.upper(), '1.0')
  program_cache.keep()
  assert updates == {}
