"""Which files of a folder are images, and what the log says of the others."""

import errno
import logging
import os
import pathlib

from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import listing
from pyramid_jax.files import retries


def paint(path, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (4, 3)).save(path, **options)


@pytest.fixture
def logged(caplog):
  caplog.set_level(logging.INFO)
  return caplog


def test_links_are_followed(tmp_path, logged):
  paint(tmp_path / 'data' / 'cats' / 'a.png')
  paint(tmp_path / 'far' / 'deep' / 'b.png')
  os.symlink(tmp_path / 'far', tmp_path / 'data' / 'dogs')
  os.symlink(tmp_path / 'far' / 'deep' / 'b.png', tmp_path / 'data' / 'c.png')
  found = listing.find_images(tmp_path / 'data', 'x')
  assert found == ['c.png', 'cats/a.png', 'dogs/deep/b.png']
  assert not logged.records


def test_circles_of_links_end(tmp_path, logged):
  base = tmp_path / 'data'
  paint(base / 'cats' / 'a.png')
  paint(tmp_path / 'far' / 'b.png')
  os.symlink(base, base / 'cats' / 'up')
  os.symlink('self', base / 'self')
  os.symlink(tmp_path / 'far', base / 'far')
  os.symlink(tmp_path, tmp_path / 'far' / 'all')
  found = listing.find_images(base, 'x')
  assert found == ['cats/a.png', 'far/b.png']
  (record,) = logged.records
  assert record.levelno == logging.WARNING
  assert '3 links to a folder that they lie in' in record.getMessage()
  assert '1 links that lead nowhere (self)' in record.getMessage()


@pytest.mark.parametrize(
  'name',
  ['a.JPG', 'a.jpe', 'a.JFIF', 'a.bmp', 'a.gif', 'a.Tif', 'a.tiff']
  + ['a.avif', 'a.jp2', 'a.ppm', 'a.webp', 'a.b.png'],
)
def test_suffixes_of_all_formats(tmp_path, name, logged):
  paint(tmp_path / name)
  assert listing.find_images(tmp_path, 'x') == [name]
  assert not logged.records


def test_the_content_decides_without_a_suffix(tmp_path, logged):
  paint(tmp_path / 'photo', format='JPEG')
  (tmp_path / 'LICENSE').write_text('text')
  assert listing.find_images(tmp_path, 'x') == ['photo']
  assert '1 files without a suffix (LICENSE)' in logged.text


def test_what_is_left_out_is_counted_and_named(tmp_path, logged):
  for name in ('a.png', '.b.png', '.cache/c.png', 'a.map.png'):
    paint(tmp_path / name)
  for name in ('captions.jsonl', *(f'd{i}.txt' for i in range(5))):
    (tmp_path / name).write_text('x')
  assert listing.find_images(tmp_path, 'x') == ['a.png']
  (record,) = logged.records
  assert record.levelno == logging.INFO
  assert record.getMessage() == (
    f'{tmp_path}: 1 images are read; left out are 2 hidden (.b.png, .cache), 5'
    ' files of .txt (d0.txt, d1.txt, d2.txt, ...)'
  )
  (tmp_path / 'e.HEIC').write_text('x')
  os.mkfifo(tmp_path / 'f.png')
  listing.find_images(tmp_path, 'x')
  assert logged.records[1].levelno == logging.WARNING
  assert '1 files of .heic (e.HEIC)' in logged.text
  assert '1 no regular files (f.png)' in logged.text


def test_folders_without_images(tmp_path):
  (tmp_path / 'a.txt').write_text('x')
  with pytest.raises(errors.UserError, match='^here holds no images; ex'):
    listing.find_images(tmp_path, 'here')


def test_names_match_in_every_form(logged):
  composed, apart = '\u00e9/\u00fc.png', 'e\u0301/u\u0308.png'
  assert listing.matched([apart], {composed: 1}, 'x') == {apart: 1}
  assert listing.matched([composed], {apart: 1}, 'x') == {composed: 1}
  both = {composed: 1, apart: 2}
  assert listing.matched([composed, apart], both, 'x') == both
  assert not logged.records
  assert listing.matched(['a', 'b'], {'a': 1, 'c': 2}, 'file') == {'a': 1}
  assert 'file lacks 1 images (b)' in logged.text
  assert 'file names 1 files that are not there (c)' in logged.text


def test_files_are_located_in_every_form(tmp_path):
  apart, composed = 'e\u0301', '\u00e9'
  (tmp_path / apart).mkdir()
  (tmp_path / apart / f'{composed}.png').touch()
  (tmp_path / 'a.png').touch()
  wanted = f'{composed}/{apart}.png'
  got = listing.located(tmp_path, ['a.png', wanted, 'b.png', 'no/b.png'])
  assert got == {'a.png': 'a.png', wanted: f'{apart}/{composed}.png'}


@pytest.mark.parametrize('number', [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_listed_is_no_smaller_set(
  tmp_path, monkeypatch, number
):
  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0, 0.0))
  paint(tmp_path / 'a.png')
  paint(tmp_path / 'locked' / 'b.png')
  scan = os.scandir

  def refused(path):
    if pathlib.Path(path).name == 'locked':
      raise OSError(number, os.strerror(number))
    return scan(path)

  monkeypatch.setattr(os, 'scandir', refused)
  words = f'locked: {os.strerror(number)}; without it the data would'
  with pytest.raises(errors.UserError, match=words) as error:
    listing.find_images(tmp_path, 'x')
  assert error.value.code == errors.MISSING


def test_a_folder_that_cannot_be_listed_for_a_moment(tmp_path, monkeypatch):
  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0, 0.0))
  paint(tmp_path / 'a' / 'b.png')
  paint(tmp_path / 'lost+found' / 'c.png')
  scan, fails = os.scandir, [errno.EIO, errno.ESTALE]

  def failing(path):
    if fails:
      raise OSError(fails.pop(), 'failed')
    return scan(path)

  monkeypatch.setattr(os, 'scandir', failing)
  assert listing.find_images(tmp_path, 'x') == ['a/b.png']
  assert fails == []


@pytest.mark.parametrize('number', [errno.EACCES, errno.EIO])
def test_annotated_images_whose_folder_cannot_be_listed(
  tmp_path, monkeypatch, number
):
  def refused(path):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0, 0.0))
  monkeypatch.setattr(os, 'listdir', refused)
  with pytest.raises(errors.UserError, match=os.strerror(number)):
    listing.located(tmp_path, ['a.png'])


def test_links_to_devices_are_no_images(tmp_path, logged):
  paint(tmp_path / 'a.png')
  (tmp_path / 'b.png').symlink_to('/dev/zero')
  (tmp_path / 'c.png').symlink_to('nowhere.png')
  assert listing.find_images(tmp_path, 'x') == ['a.png']
  assert '1 no regular files (b.png)' in logged.text
  assert '1 links that lead nowhere (c.png)' in logged.text


def test_a_file_without_a_suffix_that_cannot_be_read(tmp_path, monkeypatch):
  paint(tmp_path / 'photo', format='JPEG')

  def failing(path):
    error = OSError(errno.EIO, 'Input/output error')
    raise images.BrokenImage(path, error.strerror) from error

  monkeypatch.setattr(images, 'size', failing)
  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0, 0.0))
  with pytest.raises(errors.UserError, match='photo: Input/output error'):
    listing.find_images(tmp_path, 'x')
