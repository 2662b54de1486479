"""`--mode=plan`, in process: the devices of this process stand for GPUs."""

import json

import pytest

from pyramid_jax import errors
from pyramid_jax.commands import plan
from pyramid_jax.planning import report
from pyramid_jax.planning import topologies
from tests.helpers import command_line
from tests.helpers import configs


CONFIG = f'--config={configs.FOLDER}/diffit_cifar10.py:debug'
FIRST_STAGE = f'--config={configs.FOLDER}/ldm_autoencoder.py:debug'


@pytest.fixture
def call(monkeypatch):
  """Runs the mode; returns its exit code and what it wrote."""
  monkeypatch.setattr(topologies, 'prepare', lambda topology: None)
  return lambda *args: command_line.call('--mode=plan', *args)


@pytest.fixture
def made(monkeypatch):
  """Replaces plans; returns what was asked for."""
  asked = []

  def fake(task, until, has_largest):
    asked.append((task.program, str(task.topology), until, has_largest))
    return {'program': task.program}

  monkeypatch.setattr(report, 'plan', fake)
  monkeypatch.setattr(report, 'table', lambda name, plans: f'TABLE {name}\n')
  return asked


def test_both_programs_are_planned_and_written(call, made, tmp_path, capsys):
  flags = '--topology=h100:4x2', f'--workdir={tmp_path}/run'
  assert call(CONFIG, *flags) == (0, '')
  assert capsys.readouterr().out == f'TABLE {CONFIG.partition("=")[2]}\n'
  assert made == [
    ('train', 'h100:4x2', 'end', True),
    ('sampler', 'h100:4x2', 'end', True),
  ]
  found = json.loads((tmp_path / 'run' / plan.FILE).read_text())
  assert found['program'] == 'train'
  assert found['sampler']['program'] == 'sampler'


def test_without_a_workdir_nothing_is_written(
  call, made, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  flags = ('--programs=sampler', '--until=partitioner', '--one_batch')
  place = '--topology=v5e:2x4', '--slices=2'
  assert call(CONFIG, *place, *flags) == (0, '')
  assert capsys.readouterr().out.startswith('TABLE')
  assert made == [('sampler', 'v5e:2x4 x 2', 'partitioner', False)]
  assert list(tmp_path.iterdir()) == []


def test_a_first_stage_has_no_sampler(call, made):
  assert call(FIRST_STAGE, '--topology=h100:4x2')[0] == 0
  assert [program for program, *_ in made] == ['train']
  code, text = call(FIRST_STAGE, '--topology=h100:4x2', '--programs=sampler')
  assert (code, "'sampler' is none of train of" in text) == (errors.USAGE, True)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), '--mode=plan needs --topology, such as v5e:16x16'),
    (('--topology=v9:2x2',), '--topology=v9:2x2: must be FAMILY:SIDES'),
    (('--topology=h100:4x2', '--until=now'), 'must be end or partitioner'),
    (('--topology=h100:4x2', '--slices=0'), 'must be at least 1'),
    (('--topology=h100:4x2', '--takeover'), 'not of --mode=plan'),
    (
      ('--topology=h100:4x2', '--config.train.batch_size=12'),
      'config.train.batch_size is 12, must be divisible by 8',
    ),
  ],
)
def test_what_is_refused_is_one_line(call, flags, message):
  code, text = call(CONFIG, *flags)
  assert code == errors.USAGE
  assert message in text
  assert text.count('\n') == 1
