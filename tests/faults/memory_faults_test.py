"""Memory of the host or of a device is used up: one line, what to change."""

import re

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import out_of_memory


def line(child, code=errors.USAGE):
  """Returns the one line of a command that ran out of memory."""
  assert child.wait() == code, child.text()
  assert 'Traceback' not in child.text()
  (said,) = re.findall('^error: .*', child.text(), re.MULTILINE)
  return said.replace(',', '')


def numbers(said):
  """Returns the bytes needed and available."""
  found = re.search(r'(\d+) bytes needed (\d+) bytes available', said)
  return tuple(map(int, found.groups()))


LARGE = ('--config.train.batch_size=262144', '--config.network.width=65536')


@pytest.mark.parametrize('fault', ['', 'without_check'])
def test_a_batch_that_no_device_holds(server, tmp_path, fault):
  """Known from the compiled program, and when it runs."""
  before = f'tests.helpers.out_of_memory:{fault or "limited"}'
  child = server.fake(tmp_path / 'run', *LARGE, before=before)
  said = line(child)
  needed, available = numbers(said)
  assert needed >= 4 * 262144 * 65536
  assert 0 < available < out_of_memory.LIMIT
  assert 'config.train.batch_size=262144' in said
  assert 'is 262144 examples at a time on a device' in said
  for advice in ('train.accumulate', 'config.remat=full', 'mesh.fsdp'):
    assert advice in said
  assert checkpoints.steps(tmp_path / 'run') == []
  # With what the line says, it runs.
  child = server.fake(tmp_path / 'run', '--config.train.batch_size=16')
  assert child.wait() == errors.OK, child.text()


def test_batches_that_the_host_does_not_hold(server, tmp_path):
  """Known before anything is compiled; an example is read to know."""
  child = server.fake(
    tmp_path / 'run',
    '--config.train.batch_size=1048576',
    '--config.data.image_size=4096',
    before='tests.helpers.out_of_memory:large_images',
  )
  said = line(child)
  needed, _ = numbers(said)
  assert needed >= 2 * 1048576 * 3 * 4096**2
  assert 'compiled' not in child.text()


def test_a_reader_that_asks_for_too_much(server, tmp_path):
  child = server.fake(
    tmp_path / 'run', before='tests.helpers.out_of_memory:greedy_reader'
  )
  said = line(child)
  assert numbers(said)[0] == pytest.approx(10**13 * 8, rel=0.01)
  assert 'available on the host' in said
  assert checkpoints.steps(tmp_path / 'run') == [2, 1]


def test_a_bug_of_the_device_keeps_its_traceback(server, tmp_path):
  child = server.fake(
    tmp_path / 'run', before='tests.helpers.out_of_memory:bug'
  )
  assert child.wait() == errors.BUG
  assert 'Traceback' in child.text()
  assert 'INTERNAL: a bug' in child.text()
