import os

import numpy as np
import pytest

from pyramid_jax.data.caches import index_cache


@pytest.fixture
def source(tmp_path, monkeypatch):
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 1)
  path = tmp_path / 'data' / 'a.json'
  path.parent.mkdir()
  path.write_text('{}')
  return path


@pytest.fixture
def cache(tmp_path):
  return tmp_path / 'cache'


class Builder:
  def __init__(self):
    self.calls = 0

  def __call__(self):
    self.calls += 1
    return {'ids': np.arange(3), 'names': np.array([b'a', b'bc'])}


def test_built_once_and_kept_away_from_the_data(source, cache):
  build = Builder()
  for _ in range(2):
    got = index_cache.of_files([source], {'min': 1}, build, cache)
    np.testing.assert_array_equal(got['ids'], [0, 1, 2])
    assert got['names'].tolist() == [b'a', b'bc']
  assert build.calls == 1
  assert [p.name for p in source.parent.iterdir()] == ['a.json']
  kept = list(cache.rglob('*.*'))
  assert len(kept) == 1  # no temporary file is left


def test_other_options_or_another_file_build_again(source, cache):
  build = Builder()
  index_cache.of_files([source], {'min': 1}, build, cache)
  index_cache.of_files([source], {'min': 2}, build, cache)
  assert build.calls == 2
  os.utime(source, ns=(1, 1))
  index_cache.of_files([source], {'min': 1}, build, cache)
  assert build.calls == 3
  source.write_text('{ }')
  os.utime(source, ns=(1, 1))
  index_cache.of_files([source], {'min': 1}, build, cache)
  assert build.calls == 4


def test_damaged_index_is_built_again(source, cache):
  build = Builder()
  index_cache.of_files([source], {}, build, cache)
  (kept,) = cache.rglob('*.npz')
  kept.write_bytes(kept.read_bytes()[:100])
  got = index_cache.of_files([source], {}, build, cache)
  assert build.calls == 2
  assert got['ids'].tolist() == [0, 1, 2]


def test_folder_that_cannot_be_written(source, cache):
  cache.write_text('a file, not a folder')
  got = index_cache.of_files([source], {}, Builder(), cache)
  assert got['ids'].tolist() == [0, 1, 2]


def test_small_files_are_not_kept(source, cache, monkeypatch):
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 1000)
  index_cache.of_files([source], {}, Builder(), cache)
  assert not cache.exists()
