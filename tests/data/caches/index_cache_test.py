"""Indices that are kept: whole, current, and made by one process of a host."""

from concurrent import futures

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache


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


def test_one_makes_it_and_others_wait(tmp_path):
  # Locks of files are those of open files: threads stand for processes.
  made = []

  def build():
    made.append(1)
    return {'a': np.arange(3)}

  load = lambda: index_cache.load_or_build(tmp_path, 'x', build)
  with futures.ThreadPoolExecutor(3) as pool:
    with index_cache._alone(index_cache._place(tmp_path, 'x').parent):
      results = [pool.submit(load) for _ in range(3)]
      assert not futures.wait(results, timeout=0.2).done
      assert not made
    for result in results:
      assert result.result(20)['a'].tolist() == [0, 1, 2]
  assert made == [1]


def test_the_folder_is_configured():
  config = config_lib.base('ldm')
  config.data.cache_dir = '/somewhere'
  assert str(index_cache.folder(config)) == '/somewhere'
  config.data.cache_dir = 'gs://bucket/x'
  with pytest.raises(errors.UserError, match='gs://.*, must be a folder on a'):
    index_cache.folder(config)
  config.data.cache_dir = ''
  assert index_cache.folder(config).name == 'pyramid_jax'
