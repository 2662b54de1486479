import os

import numpy as np
import pytest

from pyramid_jax.data import object_index


@pytest.fixture
def source(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(object_index, 'MIN_BYTES', 1)
  path = tmp_path / 'data' / 'a.json'
  path.parent.mkdir()
  path.write_text('{}')
  return path


class Builder:
  def __init__(self):
    self.calls = 0

  def __call__(self):
    self.calls += 1
    return {'ids': np.arange(3), 'names': np.array([b'a', b'bc'])}


def test_built_once_and_kept_away_from_the_data(source, tmp_path):
  build = Builder()
  for _ in range(2):
    got = object_index.load_or_build([source], {'min': 1}, build)
    np.testing.assert_array_equal(got['ids'], [0, 1, 2])
    assert got['names'].tolist() == [b'a', b'bc']
  assert build.calls == 1
  assert [p.name for p in source.parent.iterdir()] == ['a.json']
  kept = list((tmp_path / 'cache' / 'pyramid_jax').iterdir())
  assert len(kept) == 1  # no temporary file is left


def test_other_options_or_another_file_build_again(source):
  build = Builder()
  object_index.load_or_build([source], {'min': 1}, build)
  object_index.load_or_build([source], {'min': 2}, build)
  assert build.calls == 2
  os.utime(source, ns=(1, 1))
  object_index.load_or_build([source], {'min': 1}, build)
  assert build.calls == 3
  source.write_text('{ }')
  os.utime(source, ns=(1, 1))
  object_index.load_or_build([source], {'min': 1}, build)
  assert build.calls == 4


def test_damaged_index_is_built_again(source, tmp_path):
  build = Builder()
  object_index.load_or_build([source], {}, build)
  (kept,) = (tmp_path / 'cache' / 'pyramid_jax').iterdir()
  kept.write_bytes(kept.read_bytes()[:100])
  got = object_index.load_or_build([source], {}, build)
  assert build.calls == 2
  assert got['ids'].tolist() == [0, 1, 2]


def test_folder_that_cannot_be_written(source, tmp_path):
  (tmp_path / 'cache').write_text('a file, not a folder')
  got = object_index.load_or_build([source], {}, Builder())
  assert got['ids'].tolist() == [0, 1, 2]


def test_small_files_are_not_kept(source, tmp_path, monkeypatch):
  monkeypatch.setattr(object_index, 'MIN_BYTES', 1000)
  object_index.load_or_build([source], {}, Builder())
  assert not (tmp_path / 'cache').exists()
