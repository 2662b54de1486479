import random
import threading
import time

import pytest

from pyramid_jax.distributed import agreement


class Board:
  """A board of one process, for threads that stand for processes."""

  def __init__(self):
    self.keys = {}
    self.changed = threading.Condition()

  def put(self, key, value):
    with self.changed:
      self.keys.setdefault(key, value)
      self.changed.notify_all()

  def get(self, key, secs):
    with self.changed:
      self.changed.wait_for(lambda: key in self.keys, secs)
      return self.keys.get(key)

  def delete(self, prefix):
    with self.changed:
      for key in [k for k in self.keys if k.startswith(f'{prefix}/')]:
        del self.keys[key]


class Process:
  """Passes points in a thread until it is to stop, as a run would."""

  def __init__(self, board, index, count, work):
    self.signal = ''
    self.reasons = []
    self.work = work
    self.ended_at = None
    self.done = []
    self.agreement = agreement.Agreement(
      board, (index, count), lambda: self.signal, self.reasons.append
    )
    self.thread = threading.Thread(target=self.run, daemon=True)

  def start(self):
    self.agreement.start()
    self.thread.start()

  def run(self):
    for number, work in enumerate(self.work, 1):
      if work(self.agreement):
        self.ended_at = number
        return
      self.done.append(number)

  def join(self):
    self.thread.join(60)
    self.agreement.close()
    assert not self.thread.is_alive()


def step(secs=0.001):
  def work(agreed):
    time.sleep(random.random() * secs)
    return agreed.point()

  return work


def alone(event):
  """Work that a process does by itself, until an event or as long as told."""

  def work(agreed):
    if agreed.enter_alone():
      return True
    while not event.wait(0.01):
      if agreed.is_reached():
        return True
    return agreed.leave_alone()

  return work


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(agreement, 'POLL_SECS', 0.01)


def started(works):
  board = Board()
  processes = [
    Process(board, i, len(works), work) for i, work in enumerate(works)
  ]
  for process in processes:
    process.start()
  return processes


@pytest.mark.parametrize('seed', range(8))
def test_all_stop_at_one_point(seed):
  draw = random.Random(seed)
  is_done = threading.Event()
  is_done.set()
  kinds = [
    (lambda: alone(is_done)) if draw.random() < 0.2 else step
    for _ in range(400)
  ]
  found = started([[kind() for kind in kinds] for _ in range(4)])
  time.sleep(draw.random() * 0.1)
  found[draw.randrange(4)].signal = 'SIGTERM'
  for process in found:
    process.join()
  (stopped,) = {process.ended_at for process in found}
  assert stopped is not None
  assert {len(process.done) for process in found} == {stopped - 1}
  assert all(process.reasons == ['SIGTERM'] for process in found)


def test_two_signals_are_one():
  found = started([[step()] * 2000 for _ in range(3)])
  found[0].signal, found[2].signal = 'SIGTERM', 'SIGINT'
  for process in found:
    process.join()
  assert len({process.ended_at for process in found}) == 1
  reasons = {tuple(process.reasons) for process in found}
  assert reasons in ({('SIGTERM',)}, {('SIGINT',)})


def test_work_alone_is_given_up_where_all_are_at_it():
  never = threading.Event()
  found = started([[step(), alone(never), step()] for _ in range(3)])
  while not all(process.done == [1] for process in found):
    time.sleep(0.01)
  time.sleep(0.05)
  found[1].signal = 'SIGTERM'
  for process in found:
    process.join()
  assert [process.ended_at for process in found] == [2, 2, 2]


def test_who_has_done_the_work_waits_and_gives_up_with_the_others():
  never, at_once = threading.Event(), threading.Event()
  at_once.set()
  found = started([[alone(e)] for e in (at_once, never, at_once)])
  time.sleep(0.1)
  found[2].signal = 'SIGTERM'
  for process in found:
    process.join()
  assert [process.ended_at for process in found] == [1, 1, 1]


def test_work_alone_is_finished_where_one_process_is_not_at_it():
  # The last process takes its time with the step before.
  later, is_slow = threading.Event(), threading.Event()

  def slow(agreed):
    is_slow.wait()
    return agreed.point()

  works = [[step(), alone(later), step()] for _ in range(2)]
  found = started([*works, [slow, alone(later), step()]])
  while not all(process.done == [1] for process in found[:2]):
    time.sleep(0.01)
  time.sleep(0.05)
  found[0].signal = 'SIGTERM'
  while not all(process.agreement._stop for process in found):
    time.sleep(0.01)
  is_slow.set()
  time.sleep(0.05)
  later.set()
  for process in found:
    process.join()
  assert [process.ended_at for process in found] == [3, 3, 3]


def test_without_a_signal_all_work_is_done():
  is_done = threading.Event()
  is_done.set()
  found = started([[step(), alone(is_done)] * 20 for _ in range(3)])
  for process in found:
    process.join()
  assert [len(process.done) for process in found] == [40] * 3
  assert not any(process.reasons for process in found)


def test_work_alone_leaves_few_keys():
  is_done = threading.Event()
  is_done.set()
  found = started([[alone(is_done)] * 20 for _ in range(3)])
  board = found[0].agreement._board
  for process in found:
    process.join()
  assert len(board.keys) <= 2 * (3 + 1)
