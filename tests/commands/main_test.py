"""The command line, in process."""

import json

import jax
import pytest

from pyramid_jax import errors
from pyramid_jax import main
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.commands import train
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
    ([CONFIG, '--mode=trian'], 'mode'),
    ([CONFIG, '--prmpt=x'], 'prmpt'),
    ([CONFIG, 'train'], "unknown argument 'train'"),
    ([CONFIG, '--count=0'], 'count'),
  ],
)
def test_one_line_for_a_wrong_command(call, calls, args, message):
  code, text = call('--workdir=DIR', *args)
  assert code == errors.USAGE
  assert message in text
  assert len(text.strip().splitlines()) == 1
  assert calls == []


def test_no_workdir(call):
  code, text = call(CONFIG)
  assert (code, text) == (errors.USAGE, 'error: --workdir=DIR must be given.\n')


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
  monkeypatch.setattr(main, '_setting', {SECS: 1.0}.get)
  main._cache_programs()
  assert updates.pop('jax_compilation_cache_dir').endswith('pyramid_jax/xla')
  assert updates == {SECS: 0.1}


def test_a_program_cache_that_is_set_is_left_alone(updates, monkeypatch):
  settings = {SECS: 5.0, 'jax_compilation_cache_dir': 'DIR'}
  monkeypatch.setattr(main, '_setting', settings.get)
  main._cache_programs()
  settings[SECS] = 1.0  # the default of jax, and asked for
  monkeypatch.setenv(SECS.upper(), '1.0')
  main._cache_programs()
  assert updates == {}
