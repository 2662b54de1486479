"""When a watch says that something hangs."""

import threading

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog


LIMIT = 4.0, 'config.train.step_limit_secs'


def test_the_limit_is_between_beats():
  with watchdog.watched('the device', LIMIT) as watch:
    assert not watch.add(3.9)
    watch.beat()
    assert not watch.add(3.9)
    text = watch.add(200.0)
  assert 'nothing from the device for 203.9 s' in text
  assert LIMIT[1] in text


def test_ten_times_the_median_is_always_allowed():
  with watchdog.watched('the device', LIMIT) as watch:
    for secs in (2.0, 3.0, 3.5):
      assert not watch.add(secs)
      watch.beat()
    assert not watch.add(29.0)
    assert 'allows 30.0 s' in watch.add(2.0)


def test_the_first_beat_has_a_limit_of_its_own():
  first = 9.0, 'config.train.start_limit_secs'
  with watchdog.watched('the device', LIMIT, first) as watch:
    assert not watch.add(8.0)
    assert 'start_limit_secs allows 9.0 s' in watch.add(2.0)
    watch.beat()
    # 10 s of a start make a long median; a second beat halves it
    watch.beat()
    assert 'step_limit_secs allows' in watch.add(999.0)


def test_zero_allows_any_time():
  with watchdog.watched('the device', (0.0, 'x')) as watch:
    assert not watch.add(1e9)
    watch.beat()
    assert not watch.add(1e9)


def test_an_inner_watch_stops_the_outer_one():
  with watchdog.watched('outer', LIMIT) as outer:
    with watchdog.watched('inner', LIMIT) as inner:
      watchdog.beat()
      with watchdog.doing('a read'):
        assert 'nothing from a read' in inner.add(9.0)
      assert inner.what == 'inner'
    assert not outer.add(3.0)


def test_limits_come_from_fields():
  config = config_lib.base('ldm')
  assert watchdog.limit_of(config, 'train.step_limit_secs') == (
    300.0,
    'config.train.step_limit_secs',
  )


def test_stacks_name_threads_and_functions():
  ready, done = threading.Event(), threading.Event()

  def waits_here():
    ready.set()
    done.wait()

  thread = threading.Thread(target=waits_here, name='the reader')
  thread.start()
  try:
    ready.wait()
    text = watchdog.stacks()
  finally:
    done.set()
    thread.join()
  assert 'Thread the reader:' in text
  assert 'waits_here' in text
  assert 'Thread MainThread:' in text


def test_another_program_is_not_ended(caplog):
  assert not stopping.is_own()
  said = threading.Event()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(watchdog, 'TICK_SECS', 0.01)
    patch.setattr(watchdog.logging, 'error', lambda *args: said.set())
    with watchdog.watched('the device', (0.05, 'a field')):
      assert said.wait(10)
