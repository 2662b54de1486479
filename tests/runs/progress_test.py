import contextlib
import fcntl
import io
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios
import types

from absl import logging
import pytest

from pyramid_jax.distributed import processes
from pyramid_jax.runs import progress


ROOT = pathlib.Path(__file__).resolve().parents[2]


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    fake = types.SimpleNamespace(monotonic=lambda: self.now)
    monkeypatch.setattr(progress, 'time', fake)


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch):
  monkeypatch.delenv('CI', raising=False)
  monkeypatch.setenv('TERM', 'xterm')


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


def test_a_terminal_shows_loss_and_memory(clock):
  stream = Terminal()
  words = dict(stream=stream, memory=lambda: '1.50/2.00 GiB')
  with progress.Progress(range(4), 1, **words) as bar:
    bar.note('loss 0.25')
    clock.now += 1
    bar.update()
  state = next(x for x in stream.getvalue().split('\r') if 'step 1/4' in x)
  assert ' step 1/4, loss 0.25, 1 images/s, 00:03 left, 1.50/2.00 GiB' in state


@pytest.mark.parametrize(
  ('name', 'value'), [('CI', 'true'), ('TERM', 'dumb'), ('processes', 2)]
)
def test_no_bar_where_lines_are_read_later(
  clock, lines, monkeypatch, name, value
):
  if name == 'processes':
    monkeypatch.setattr(processes, 'is_one_of_many', lambda: True)
  else:
    monkeypatch.setenv(name, value)
  stream = Terminal()
  with progress.Progress(range(2), 1, stream=stream) as bar:
    bar.note('loss 0.25')
    bar.update(2)
  assert stream.getvalue() == ''
  assert lines[-1].startswith('step 2/2, ')
  assert 'loss' not in lines[-1]


PROGRAM = """
import sys
from absl import logging
from pyramid_jax.runs import progress, writers
writers.setup()
logging.info('before')
with progress.Progress(range(3), 1) as bar:
  for step in range(1, 4):
    bar.note(f'loss {step / 8}')
    bar.update()
    bar.refresh()
    logging.info('line %d is longer than the bar ' + 'x' * 60, step)
    with bar.pause():
      with progress.Progress(range(2), 1, 'batch') as inner:
        inner.update(2)
        logging.info('inside')
    if step == int(sys.argv[1]):
      raise ValueError('said after the bar')
logging.info('after')
"""


def seen_on_a_terminal(*arguments, columns=72):
  """Returns the lines of a terminal on which the program has run."""
  parent, child = pty.openpty()
  size = struct.pack('HHHH', 24, columns, 0, 0)
  fcntl.ioctl(child, termios.TIOCSWINSZ, size)
  # Python 3.13 colours tracebacks otherwise.
  environment = {'PATH': os.environ['PATH'], 'TERM': 'xterm', 'NO_COLOR': '1'}
  process = subprocess.Popen(
    [sys.executable, '-c', PROGRAM, *arguments],
    cwd=ROOT,
    env=environment,
    stdin=child,
    stdout=child,
    stderr=child,
  )
  os.close(child)
  data = b''
  with contextlib.suppress(OSError):  # Linux says so where all is read.
    while part := os.read(parent, 1 << 16):
      data += part
  os.close(parent)
  process.wait()
  return screen(data.decode())


def screen(text):
  """Returns the lines that a terminal without an end shows of a text."""
  lines, row, column = [[]], 0, 0
  for sign in re.findall(r'\x1b\[[0-9;]*[A-Za-z]|.', text, re.DOTALL):
    if sign == '\r':
      column = 0
    elif sign == '\n':
      row += 1
      lines += [[]] * (row == len(lines))
    elif sign == '\x1b[A':
      row -= 1
    else:
      assert sign.isprintable(), sign
      line = lines[row]
      line += [' '] * (column + 1 - len(line))
      line[column] = sign
      column += 1
  return [''.join(line).rstrip() for line in lines]


def test_lines_of_a_log_are_whole_above_a_bar():
  shown = seen_on_a_terminal('0')
  long = [f'line {n} is longer than the bar ' + 'x' * 60 for n in (1, 2, 3)]
  assert shown[:7] == [
    *('before', long[0], 'inside', long[1], 'inside', long[2], 'inside')
  ]
  assert re.fullmatch(
    r'\|█+\| step 3/3, loss 0.375, [\d.e+]+ images/s, 00:00 left', shown[7]
  )
  assert shown[8:] == ['after', '']


def test_a_traceback_is_whole_below_a_bar():
  shown = seen_on_a_terminal('2')
  assert ' step 2/3, ' in shown[5]
  assert shown[6] == 'Traceback (most recent call last):'
  assert shown[-2:] == ['ValueError: said after the bar', '']
