"""Storage that is slow, or fails now and then, costs time and nothing else."""

import pytest

from pyramid_jax import errors
from tests.helpers import storage_faults
from tests.helpers import written_commands


def _runs(server, workdir, kind, untroubled, share, delay):
  command = written_commands.KINDS[kind](server, workdir)
  command.prepare()
  below = str(workdir.parent)
  faults = [
    {'on': on, 'path': below, 'error': 'EIO', 'share': share, 'delay': delay}
    for on in ('read', 'write')
  ]
  plan = storage_faults.plan(*faults)
  child = command.start(before=command.faulty, env=plan)
  if kind == 'Training' and child.wait() != errors.OK:
    # Orbax repeats no write; a save that fails ends the command.
    written_commands.told(child, 'Input/output error')
    command.goes_on(untroubled)
  assert child.wait() in (errors.OK, errors.OUTPUT), child.text()
  assert kind == 'Training' or child.wait() == errors.OK, child.text()
  assert command.result() == untroubled(kind)
  return child.text().count('trying again')


def test_one_failure_in_ten(server, tmp_path, untroubled):
  retried = _runs(server, tmp_path / 'run', 'Sampling', untroubled, 0.1, 0.0)
  assert retried > 0


@pytest.mark.rounds
@pytest.mark.parametrize('kind', ['Training', 'Sampling', 'Evaluation'])
def test_slow_and_flaky(server, tmp_path, untroubled, kind):
  """Every open takes 50 ms; one operation in a hundred, and in ten, fails."""
  for number, share in enumerate([0.01, 0.1]):
    folder = tmp_path / str(number) / 'run'
    _runs(server, folder, kind, untroubled, share, 0.05)
