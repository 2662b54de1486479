"""Reads are tried again after errors that pass, and after no others."""

import errno

import pytest

from pyramid_jax import errors
from pyramid_jax.files import retries


class Flaky:
  """Raises errors in turn, then returns 'read'; a sleep moves its clock."""

  def __init__(self, *problems, secs=0.0):
    self.problems = list(problems)
    self.secs = secs  # of a try
    self.now = 0.0
    self.tries = 0

  def __call__(self):
    self.now += self.secs
    self.tries += 1
    if self.problems:
      raise self.problems.pop(0)
    return 'read'

  def sleep(self, secs):
    self.now += secs

  def read(self):
    return retries.repeat(self, 'x.json', self.sleep, lambda: self.now)


def _eio():
  return OSError(errno.EIO, 'Input/output error', 'x.json')


def test_it_is_read_after_a_few_failures(caplog):
  flaky = Flaky(_eio(), OSError(errno.ESTALE, ''), _eio())
  assert flaky.read() == 'read'
  assert flaky.tries == 4
  assert flaky.now == sum(retries.WAITS_SECS) < 5
  warnings = [r.getMessage() for r in caplog.records]
  assert len(warnings) == 3
  assert 'x.json: Input/output error; trying again in 0.1 s' in warnings[0]


def test_the_last_error_is_raised():
  problems = [_eio() for _ in range(9)]
  flaky = Flaky(*problems)
  with pytest.raises(OSError, match='Input/output') as found:
    flaky.read()
  assert found.value is problems[3]
  assert flaky.tries == 4


def test_a_storage_that_hangs_is_not_asked_for_long():
  flaky = Flaky(_eio(), _eio(), _eio(), secs=15.0)
  with pytest.raises(OSError, match='Input/output'):
    flaky.read()
  assert flaky.tries == 2


@pytest.mark.parametrize(
  'error',
  [
    FileNotFoundError(errno.ENOENT, ''),
    PermissionError(errno.EACCES, ''),
    ValueError('damaged'),
    errors.UserError('stopped by SIGTERM.', errors.RESTART),
    KeyboardInterrupt(),
  ],
)
def test_what_does_not_pass_is_raised_at_once(error):
  flaky = Flaky(error)
  with pytest.raises(type(error)):
    flaky.read()
  assert flaky.tries == 1
  assert flaky.now == 0
