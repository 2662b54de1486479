"""No transfer between host and devices in the loop of training, but in hooks.

On CPUs the transfer guard of jax sees what is sent to devices, but not what is
read, since nothing is copied; here reads ask it too.
"""

import threading

import jax
from jax._src import array
from jax._src.lib import guard_lib
import pytest

from pyramid_jax.training import hooks
from pyramid_jax.training import loop
from tests.helpers import fake_run


LEVEL = guard_lib.TransferGuardLevel.DISALLOW_EXPLICIT
READ = array.ArrayImpl._value


class RefusedRead(Exception):
  """The value of an array was read where the guard refuses it."""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


@pytest.fixture
def reads(monkeypatch):
  """Has reads ask the guard of their thread; lists those of the main thread."""
  allowed = []

  def value(self):
    if guard_lib.thread_local_state().device_to_host == LEVEL:
      raise RefusedRead
    if threading.current_thread() is threading.main_thread():
      allowed.append(self.shape)
    return READ.fget(self)

  monkeypatch.setattr(array.ArrayImpl, '_value', property(value))
  return allowed


def config(steps, **fields):
  """A run on eight devices with few lines of metrics."""
  quiet = {'train__sample_every': 0, 'train__checkpoint_every': steps}
  return fake_run.config(train__steps=steps, **{**quiet, **fields})


@pytest.mark.parametrize(
  ('steps', 'log_every'),
  [(20, 10), pytest.param(2000, 500, marks=pytest.mark.hosts)],
)
def test_steps_need_no_transfer(tmp_path, reads, steps, log_every):
  assert jax.device_count() == 8
  loop.run(config(steps, train__log_every=log_every), tmp_path)
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert len(text.splitlines()) == 1 + steps // log_every
  assert reads  # the hooks did


def test_a_read_in_the_loop_is_refused(tmp_path, reads, monkeypatch):
  check = hooks.Hooks.check

  def reading(self, step, metrics, state):
    check(self, step, metrics, state)
    if step == 3:
      float(metrics['loss'])

  monkeypatch.setattr(hooks.Hooks, 'check', reading)
  with pytest.raises(RefusedRead):
    loop.run(config(6), tmp_path)


def test_an_array_that_is_sent_in_the_loop_is_refused(tmp_path, monkeypatch):
  check = hooks.Hooks.check

  def sending(self, step, metrics, state):
    check(self, step, metrics, state)
    if step == 3:
      jax.numpy.add(metrics['loss'], 1)

  monkeypatch.setattr(hooks.Hooks, 'check', sending)
  with pytest.raises(jax.errors.JaxRuntimeError, match='host-to-device'):
    loop.run(config(6), tmp_path)
