"""Indices that are kept: whole, current, and made by one process of a host."""

import multiprocessing

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data import index_cache


def test_one_that_is_not_current_is_replaced(tmp_path):
  made = []

  def build(number):
    made.append(number)
    return {'number': np.array(number)}

  def load(number):
    is_current = lambda arrays: int(arrays['number']) == number
    key = ['x', 1]
    return index_cache.load_or_build(
      tmp_path, key, lambda: build(number), is_current
    )

  assert [int(load(n)['number']) for n in (1, 1, 2, 2)] == [1, 1, 2, 2]
  assert made == [1, 2]
  assert len(list(tmp_path.rglob('*.npz'))) == 1


def test_what_is_not_worth_it_leaves_nothing(tmp_path):
  build = lambda: {'a': np.zeros(2)}
  got = index_cache.load_or_build(
    tmp_path / 'cache', 'x', build, is_kept=lambda arrays: False
  )
  assert got['a'].shape == (2,)
  assert list((tmp_path / 'cache').iterdir()) == []


def test_arrays_that_the_reader_does_not_know_are_damage(tmp_path, caplog):
  kept = {'other': np.zeros(1)}
  index_cache.load_or_build(tmp_path, 'x', lambda: kept)
  got = index_cache.load_or_build(
    tmp_path, 'x', lambda: {'a': np.ones(1)}, lambda arrays: arrays['a'].all()
  )
  assert got.keys() == {'a'}
  assert 'Ignored the damaged index' in caplog.text


def _load(folder, made, begin):
  def build():
    made.put(1)
    return {'a': np.arange(3)}

  begin.wait(20)
  got = index_cache.load_or_build(folder, 'x', build)
  made.put(got['a'].tolist())


def test_one_process_makes_it_and_others_wait(tmp_path):
  # Forked, so that they need no second to start; jax is not used in them.
  context = multiprocessing.get_context('fork')
  made, begin = context.Queue(), context.Event()
  workers = [
    context.Process(target=_load, args=(tmp_path, made, begin))
    for _ in range(3)
  ]
  # A process has the locks of its parent: they are started before.
  for worker in workers:
    worker.start()
  with index_cache._alone(index_cache._place(tmp_path, 'x').parent):
    begin.set()
    workers[0].join(0.2)
    assert made.empty()  # They wait for this process.
  results = [made.get(timeout=20) for _ in range(4)]
  for worker in workers:
    worker.join(20)
  assert results.count(1) == 1
  assert results.count([0, 1, 2]) == 3


def test_the_folder_is_configured():
  config = config_lib.base('ldm')
  config.data.cache_dir = '/somewhere'
  assert str(index_cache.folder(config)) == '/somewhere'
  config.data.cache_dir = 'gs://bucket/x'
  with pytest.raises(errors.UserError, match='gs://.*, must be a folder on a'):
    index_cache.folder(config)
  config.data.cache_dir = ''
  assert index_cache.folder(config).name == 'pyramid_jax'
