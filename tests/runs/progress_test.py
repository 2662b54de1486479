import io
import time

from absl import logging
import pytest

from pyramid_jax.runs import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
  return Clock(monkeypatch)


@pytest.fixture
def lines(monkeypatch):
  told = []
  monkeypatch.setattr(
    logging, 'info', lambda text, *args: told.append(text % args)
  )
  return told


def test_plain_lines_elsewhere(clock, lines):
  stream = io.StringIO()
  bar = progress.Progress(0, 100, images=8, stream=stream)
  for step in range(1, 101):
    clock.now += 0.5
    bar.update(step)
  assert stream.getvalue() == ''
  assert lines[0] == 'step 1/100, 16 images/s, 0:50 left'
  assert lines[-1] == 'step 100/100, 16 images/s, 0:00 left'
  assert len(lines) == 6  # the first, every ten seconds, the last


def test_a_bar_on_a_terminal(clock, lines):
  stream = Terminal()
  bar = progress.Progress(0, 4, images=1, stream=stream)
  for step in range(1, 5):
    clock.now += 60
    bar.update(step, 'loss 1')
  assert lines == []
  states = stream.getvalue().split('\r')
  assert '[######' + '-' * 18 + '] step 1/4' in states[1]
  assert '3:00 left, loss 1' in states[1]
  assert stream.getvalue().endswith('\n')


def test_pauses_do_not_count(clock):
  bar = progress.Progress(10, 20, images=2, stream=io.StringIO())
  clock.now += 1
  bar.update(11)
  with bar.pause():
    clock.now += 1000
  clock.now += 1
  bar.update(12)
  assert bar.seconds() == 2
  assert bar.images_per_sec() == 2.0


def test_speed_is_that_of_the_last_seconds(clock):
  bar = progress.Progress(0, 1000, images=1, stream=io.StringIO())
  for step in range(1, 50):  # compiling and warming up
    clock.now += 10
    bar.update(step)
  for step in range(50, 150):
    clock.now += 1
    bar.update(step)
  assert bar.images_per_sec() == pytest.approx(1.0)


@pytest.mark.parametrize(
  ('secs', 'text'), [(0, '0:00'), (61.4, '1:01'), (3661, '1:01:01')]
)
def test_duration(secs, text):
  assert progress.duration(secs) == text
