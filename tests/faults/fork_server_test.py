"""The processes of this folder are what the command line is."""

import signal

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints


def test_a_command_runs_and_ends(server, tmp_path):
  child = server.fake(tmp_path / 'run')
  assert child.wait() == errors.OK, child.text()
  assert checkpoints.steps(tmp_path / 'run')[0] == 4


def test_codes_and_signals_are_told(server, tmp_path):
  child = server.fake(tmp_path / 'run', '--config.train.stepz=3')
  assert child.wait() == errors.USAGE
  assert 'train.steps' in child.text()
  child = server.fake(tmp_path / 'run', '--config.network.pause=0.5')
  child.until(lambda: checkpoints.steps(tmp_path / 'run'))
  child.send(signal.SIGKILL)
  assert child.wait() == -signal.SIGKILL


def test_a_fresh_process(server, tmp_path):
  child = server.fresh('-c', 'import sys; print("told"); sys.exit(3)')
  assert child.wait() == 3
  assert child.text() == 'told\n'
