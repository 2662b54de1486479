"""Several processes compare the shards of one disk together."""

import concurrent.futures
import functools
import json
import pathlib
import queue
import threading

import pytest

from pyramid_jax import errors
from pyramid_jax.data import shard_sums
from pyramid_jax.files import copies
from pyramid_jax.files import digests


COUNT = 3


class Processes:
  """Threads in the place of processes."""

  def __init__(self, monkeypatch):
    self._own = threading.local()
    self._barrier = threading.Barrier(COUNT)
    self._told = [None] * COUNT
    processes = shard_sums.processes
    monkeypatch.setattr(
      processes, 'process_part', lambda: (self._own.index, COUNT)
    )
    monkeypatch.setattr(processes, 'collected', self._collected)

  def _collected(self, value, topic):
    self._told[self._own.index] = json.loads(json.dumps(value))
    self._barrier.wait(20)
    told = list(self._told)
    self._barrier.wait(20)
    return told

  def run(self, function):
    def call(index):
      self._own.index = index
      try:
        return function(index)
      except errors.UserError as error:
        return error

    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
      return list(pool.map(call, range(COUNT)))


@pytest.fixture(name='together')
def processes_fixture(monkeypatch):
  return Processes(monkeypatch)


@pytest.fixture
def reads(monkeypatch):
  """The names of the files that are compared, in any order."""
  names = queue.Queue()
  check = copies.check

  def noted(path, want):
    names.put(path.name)
    check(path, want)

  monkeypatch.setattr(copies, 'check', noted)
  return names.queue


@pytest.fixture
def files(tmp_path):
  return write(tmp_path)


def write(folder):
  found = []
  for i in range(7):
    path = pathlib.Path(folder) / f'train-{i:05d}.npz'
    path.write_bytes(b'%d' % i)
    record = {'sha256': digests.sha256(path), 'count': 1}
    path.with_suffix('.json').write_text(json.dumps(record))
    found.append(path)
  return found


def test_each_shard_is_read_once(together, files, reads):
  verify = lambda _: shard_sums.verify_together(files, 2)
  assert together.run(verify) == [True] * COUNT
  assert sorted(reads) == [x.name for x in files]


@pytest.mark.parametrize(
  ('damage', 'words', 'code'),
  [
    (
      functools.partial(pathlib.Path.write_bytes, data=b'x'),
      'SHA',
      errors.DATA,
    ),
    (pathlib.Path.unlink, 'No such file', errors.MISSING),
  ],
)
def test_all_learn_what_one_found(together, files, damage, words, code):
  damage(files[4])
  found = together.run(lambda _: shard_sums.verify_together(files, 2))
  assert [x.code for x in found] == [code] * COUNT
  assert {str(x) for x in found} == {str(found[0])}
  assert words in str(found[0])
  assert str(files[4]) in str(found[0])
  assert all(x.is_shared for x in found)


def test_disks_of_ones_own_are_compared_by_each(together, tmp_path, reads):
  own = []
  for index in range(COUNT):
    (tmp_path / str(index)).mkdir()
    own.append(write(tmp_path / str(index)))
  verify = lambda index: shard_sums.verify_together(own[index], 2)
  assert together.run(verify) == [False] * COUNT
  assert not reads


def test_a_single_process_compares_what_it_reads(files, reads):
  assert not shard_sums.verify_together(files, 2)
  assert not reads
  assert shard_sums.verified(files[1]) == files[1]
  assert list(reads) == [files[1].name]
