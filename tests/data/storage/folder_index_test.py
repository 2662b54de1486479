"""Large folders that are known again, and what makes them others."""

import os
import time

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import folder_index
from pyramid_jax.data.storage import listing


FILES = ['a/1.png', 'a/b/2.png', 'c/3.png']


def settle(base):
  """Makes all folders look as if they were changed long ago."""
  for folder, _, _ in os.walk(base, followlinks=True):
    old = os.stat(folder).st_mtime_ns - 10**10
    os.utime(folder, ns=(old, old))


@pytest.fixture
def base(tmp_path, monkeypatch):
  monkeypatch.setattr(folder_index, 'MIN_FILES', 1)
  base = tmp_path / 'data'
  for i, name in enumerate(FILES):
    path = base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x' * (i + 1))
  (base / 'note.txt').write_text('no image')
  settle(base)
  return base


@pytest.fixture
def find(base, tmp_path, monkeypatch):
  """Lists the folder, and says whether that was a walk over it."""
  walks = []
  listed = listing.listed

  def counted(folder):
    walks.append(folder)
    return listed(folder)

  monkeypatch.setattr(listing, 'listed', counted)

  def find():
    before = len(walks)
    found = folder_index.find_images(base, 'x', tmp_path / 'cache')
    return found, len(walks) > before

  return find


def test_known_again_without_a_walk(base, find, caplog):
  caplog.set_level('INFO')
  sizes = dict(zip(FILES, (1, 2, 3), strict=True))
  for is_first in (True, False):
    caplog.clear()
    found, is_walk = find()
    assert is_walk == is_first
    assert found.files == FILES
    assert found.sizes(found.files) == sizes
    assert found.sizes(['c/3.png']) == {'c/3.png': 3}
    assert '3 images are read; left out are 1 files of .txt' in caplog.text
  assert not list(base.rglob('*.npz'))  # never among the data


@pytest.mark.parametrize(
  'change',
  ['added', 'added deep', 'removed', 'renamed', 'resized', 'rewritten'],
)
def test_changes_are_noticed(base, find, change):
  find()
  if change == 'added':
    (base / 'c' / '4.png').write_bytes(b'')
  elif change == 'added deep':
    (base / 'a' / 'b' / 'd').mkdir()
    (base / 'a' / 'b' / 'd' / '4.png').write_bytes(b'')
  elif change == 'removed':
    (base / 'a' / 'b' / '2.png').unlink()
  elif change == 'renamed':
    (base / 'c').rename(base / 'd')
  elif change == 'resized':
    (base / 'c' / '3.png').write_bytes(b'y' * 9)
  else:
    os.utime(base / 'c' / '3.png', ns=(1, 1))
  found, is_walk = find()
  assert is_walk
  assert found.files == listing.find_images(base, 'x')
  sizes = {name: (base / name).stat().st_size for name in found.files}
  assert found.sizes(found.files) == sizes


def test_links_to_folders_are_looked_at(base, find, tmp_path):
  far = tmp_path / 'far'
  far.mkdir()
  (far / '9.png').write_bytes(b'')
  (base / 'link').symlink_to(far)
  settle(base)
  assert find()[0].files == [*FILES, 'link/9.png']
  assert not find()[1]
  (far / '8.png').write_bytes(b'')
  assert find()[0].files == [*FILES, 'link/8.png', 'link/9.png']


def test_small_folders_and_those_that_just_changed_are_not_kept(
  base, find, tmp_path, monkeypatch
):
  now = time.time_ns()
  os.utime(base / 'c', ns=(now, now))
  for _ in range(2):
    assert find()[1]
  settle(base)
  monkeypatch.setattr(folder_index, 'MIN_FILES', 4)
  for _ in range(2):
    found, is_walk = find()
    assert is_walk
    assert found.sizes(FILES) == dict(zip(FILES, (1, 2, 3), strict=True))
  assert not list((tmp_path / 'cache').rglob('*.npz'))


def test_names_that_are_no_text(base, find):
  name = os.fsdecode(b'c/\xff\n.png')
  (base / name).write_bytes(b'')
  settle(base)
  first, _ = find()
  again, is_walk = find()
  assert not is_walk
  assert first.files == again.files == [*FILES, name]


def test_folders_without_images(tmp_path, monkeypatch):
  monkeypatch.setattr(folder_index, 'MIN_FILES', 0)
  (tmp_path / 'data').mkdir()
  settle(tmp_path)
  with pytest.raises(errors.UserError, match='^here holds no images'):
    folder_index.find_images(tmp_path / 'data', 'here', tmp_path / 'cache')


def test_sizes_in_pixels_are_measured_once(base, find):
  calls = []

  def measure(names):
    def measured():
      calls.append(names)
      return np.array([[len(name), i] for i, name in enumerate(names)])

    return measured

  for _ in range(2):
    found, _ = find()
    got = found.pixels(FILES, measure(FILES))
    assert got.tolist() == [[7, 0], [9, 1], [7, 2]]
  assert calls == [FILES]
  assert found.pixels(FILES[1:], measure(FILES[1:])).tolist() == [
    [9, 0],
    [7, 1],
  ]
  os.utime(base / 'c' / '3.png', ns=(1, 1))
  find()[0].pixels(FILES[1:], measure(FILES[1:]))
  assert calls == [FILES, FILES[1:], FILES[1:]]


def test_other_suffixes_are_another_index(find, monkeypatch):
  find()
  assert not find()[1]
  monkeypatch.setattr(images, 'SUFFIXES', ('.png', '.txt'))
  found, is_walk = find()
  assert is_walk
  assert found.files == [*FILES, 'note.txt']
