import io
import types

from absl import logging
import pytest

from pyramid_jax.runs import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    fake = types.SimpleNamespace(monotonic=lambda: self.now)
    monkeypatch.setattr(progress, 'time', fake)


@pytest.fixture
def clock(monkeypatch):
  return Clock(monkeypatch)


@pytest.fixture
def lines(monkeypatch):
  logged = []
  monkeypatch.setattr(
    logging, 'info', lambda text, *args: logged.append(text % args)
  )
  return logged


def test_plain_lines_elsewhere(clock, lines):
  stream = io.StringIO()
  for _ in progress.Progress(range(100), images=8, stream=stream):
    clock.now += 0.5
  assert stream.getvalue() == ''
  assert lines[0] == 'step 0/100, 0 images/s, ? left'
  assert lines[1] == 'step 20/100, 16 images/s, 00:40 left'
  assert lines[-1] == 'step 100/100, 16 images/s, 00:00 left'
  assert 6 <= len(lines) <= 7  # the first, every ten seconds, the last


def test_a_bar_on_a_terminal(clock, lines):
  stream = Terminal()
  bar = progress.Progress(range(4), images=1, stream=stream)
  for _ in range(4):
    clock.now += 60
    bar.update()
  bar.close()
  assert lines == []
  states = stream.getvalue().split('\r')
  first = next(state for state in states if 'step 1/4' in state)
  assert first.startswith('|')
  assert '03:00 left' in first
  assert stream.getvalue().endswith('\n')


def test_pauses_do_not_count(clock):
  bar = progress.Progress(range(10, 20), images=2, stream=io.StringIO())
  clock.now += 10
  bar.update(10)
  with bar.pause():
    clock.now += 1000
  clock.now += 10
  bar.update(10)
  assert bar.seconds() == 20
  assert bar.images_per_sec() == 2.0
  bar.close()


def test_speed_is_that_of_the_last_seconds(clock):
  bar = progress.Progress(range(1000), images=1, stream=io.StringIO())
  for _ in range(50):  # warming up
    clock.now += 10
    bar.update()
  for _ in range(400):
    clock.now += 1
    bar.update()
  assert bar.images_per_sec() == pytest.approx(1.0, rel=1e-3)
  bar.close()
