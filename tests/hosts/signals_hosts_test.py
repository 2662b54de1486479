"""Signals to one of several processes of a training run."""

import signal
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import forked_hosts
from tests.helpers import run_contents
from tests.helpers import slow_hosts
from tests.helpers import stopped


STEPS = 12
FLAGS = (
  f'--config.train.steps={STEPS}',
  '--config.train.checkpoint_every=50',
  '--config.network.pause=0.1',
  # No process leaves because others do not answer.
  '--config.train.grace_secs=900',
)


def lines(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def check_same(workdir, whole):
  arrays = run_contents.arrays
  assert arrays(workdir, STEPS) == arrays(whole, STEPS)
  assert run_contents.losses(workdir) == run_contents.losses(whole)


@pytest.mark.parametrize(
  ('count', 'which'),
  [
    (2, 1),
    pytest.param(4, 0, marks=pytest.mark.hosts),
    pytest.param(4, 3, marks=pytest.mark.hosts),
  ],
)
def test_all_stop_after_the_same_step(server, tmp_path, count, which):
  forked_hosts.ended(server, count, tmp_path / 'whole', *FLAGS)
  workdir = tmp_path / 'run'
  with forked_hosts.fake(server, count, workdir, *FLAGS) as hosts:
    hosts.until(lambda: lines(workdir) >= 3)
    hosts.children[which].send(signal.SIGTERM)
    assert hosts.codes() == [errors.RESTART] * count, hosts.text()
    for child in hosts.children:
      assert 'which is saved' in child.text()
  (step,) = checkpoints.steps(workdir)
  assert 3 <= step < STEPS
  stopped.check_left(workdir)
  forked_hosts.ended(server, count, workdir, *FLAGS)
  check_same(workdir, tmp_path / 'whole')


@pytest.mark.parametrize('which', [0, 3])
@pytest.mark.parametrize('slow', ['step', 'preview', 'scores', 'save'])
@pytest.mark.hosts
def test_whatever_the_run_is_doing(server, tmp_path, slow, which):
  flags = (
    *FLAGS,
    '--config.train.sample_every=2',
    '--config.train.eval_every=2',
    '--config.train.checkpoint_every=2',
  )
  forked_hosts.ended(server, 4, tmp_path / 'whole', *flags)
  workdir = tmp_path / 'run'
  options = {
    'before': 'tests.helpers.slow_hosts:install',
    'env': {'SLOW': slow},
  }
  with forked_hosts.fake(server, 4, workdir, *flags, **options) as hosts:
    hosts.until(lambda: slow_hosts.BEGUN in hosts.children[which].text())
    time.sleep(0.5)
    hosts.children[which].send(signal.SIGTERM)
    assert hosts.codes() == [errors.RESTART] * 4, hosts.text()
  saved = {'step': [], 'preview': [2], 'scores': [2]}
  if slow in saved:
    assert checkpoints.steps(workdir) == saved[slow]
  stopped.check_left(workdir)
  forked_hosts.ended(server, 4, workdir, *flags)
  check_same(workdir, tmp_path / 'whole')


@pytest.mark.hosts
def test_a_second_interrupt_ends_all_at_once(server, tmp_path):
  options = {
    'before': 'tests.helpers.slow_hosts:install',
    'env': {'SLOW': 'save'},
  }
  flags = (*FLAGS, '--config.train.checkpoint_every=1')
  with forked_hosts.fake(server, 2, tmp_path, *flags, **options) as hosts:
    hosts.until(lambda: slow_hosts.BEGUN in hosts.children[1].text())
    hosts.children[1].send(signal.SIGINT)
    time.sleep(0.3)
    hosts.children[1].send(signal.SIGINT)
    assert hosts.codes() == [errors.RESTART] * 2, hosts.text()
