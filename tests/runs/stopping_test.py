"""One flag, in a program that is not a command line."""

from concurrent import futures
import os
import signal
import threading
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.files import releases
from pyramid_jax.runs import stopping


def send(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


def later(secs=0.1, number=signal.SIGTERM):
  threading.Timer(secs, send, [number]).start()


def test_nothing_is_installed_by_an_import():
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  assert not stopping.requested()
  stopping.check()


def test_the_handler_notes_and_check_raises():
  before = signal.getsignal(signal.SIGTERM)
  with stopping.listening():
    send()  # nothing is raised here
    assert stopping.requested()
    with pytest.raises(stopping.Stopped, match='stopped by SIGTERM') as info:
      stopping.check()
  assert info.value.code == errors.RESTART
  assert signal.getsignal(signal.SIGTERM) == before
  with stopping.listening():
    assert not stopping.requested()


def test_a_second_interrupt_is_what_it_was_before():
  with stopping.listening():
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)


def test_an_ignored_hangup_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with stopping.listening():
      send(signal.SIGHUP)
      assert not stopping.requested()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` may run the tests
    with stopping.listening():
      send(signal.SIGHUP)
      assert stopping.requested()
  finally:
    signal.signal(signal.SIGHUP, before)


def test_other_threads_set_no_handlers():
  def work():
    with stopping.listening():
      return signal.getsignal(signal.SIGTERM)

  with futures.ThreadPoolExecutor(1) as pool:
    assert pool.submit(work).result() == signal.SIG_DFL


@pytest.mark.parametrize('make', [futures.Future, threading.Event])
def test_waits_end_by_a_signal(make):
  with stopping.listening():
    later()
    with pytest.raises(stopping.Stopped):
      stopping.wait(make())


def test_waits_return_results_and_raise_errors():
  done: futures.Future[int] = futures.Future()
  threading.Timer(0.1, done.set_result, [3]).start()
  assert stopping.wait(done) == 3
  event = threading.Event()
  threading.Timer(0.1, event.set).start()
  assert stopping.wait(event) is None
  assert stopping.call(max, 2, 5) == 5
  with pytest.raises(ZeroDivisionError):
    stopping.call(lambda: 1 / 0)


def test_a_call_that_hangs_is_left_behind():
  end = threading.Event()
  with stopping.listening():
    later()
    start = time.monotonic()
    with pytest.raises(stopping.Stopped):
      stopping.call(end.wait)
    assert time.monotonic() - start < 5
  end.set()


def test_arrays_are_waited_for():
  class Array:
    count = 0

    def is_ready(self):
      self.count += 1
      return self.count > 3

  arrays = [Array(), Array()]
  stopping.ready(arrays)
  assert [array.count for array in arrays] == [4, 4]
  with stopping.listening():
    send()
    with pytest.raises(stopping.Stopped):
      stopping.ready([])


def test_what_is_released_is_so_within_its_context_only():
  calls = []
  with releases.released(lambda: calls.append('a')):
    releases.give_back()
  releases.give_back()
  assert set(calls) == {'a'}
