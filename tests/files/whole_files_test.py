"""Files appear under their name when they are whole, or not at all."""

import errno
import os

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.files import retries
from pyramid_jax.files import whole_files


def failing(*problems):
  """Returns what writes 'new' after it has failed so often."""
  left = list(problems)

  def write(file):
    file.write(b'half')
    if left:
      raise left.pop(0)
    file.seek(0)
    file.write(b'new!')

  return write


def test_what_fails_leaves_the_old_file_alone(tmp_path):
  path = tmp_path / 'x.json'
  path.write_bytes(b'old')
  with pytest.raises(errors.UserError, match=f'^cannot write {path}: No space'):
    whole_files.save(path, failing(OSError(errno.ENOSPC, '')))
  with pytest.raises(KeyError):
    whole_files.save(path, failing(KeyError('bug')))
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['x.json']


def test_what_fails_for_a_moment_is_repeated(tmp_path, monkeypatch):
  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0))
  path = tmp_path / 'x.json'
  broken = OSError(errno.EIO, '')
  whole_files.save(path, failing(broken, broken))
  assert path.read_bytes() == b'new!'
  with pytest.raises(errors.UserError, match='Input/output error'):
    whole_files.save(path, failing(broken, broken, broken))
  assert os.listdir(tmp_path) == ['x.json']


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path):
  other, path = tmp_path / 'other', tmp_path / 'x.json'
  other.write_text('of a person')
  path.symlink_to(other)
  whole_files.save_text(path, 'new')
  assert other.read_text() == 'of a person'
  assert not path.is_symlink()
  assert path.read_text() == 'new'


@pytest.mark.parametrize('name', ['a' * 255, 'ä' * 127, 'a\nb', ' :', '\udcff'])
def test_any_name_that_the_system_takes(tmp_path, name):
  path = tmp_path / name
  whole_files.save_text(path, 'new')
  assert os.listdir(tmp_path) == [name]
  with pytest.raises(errors.UserError, match='File name too long') as found:
    whole_files.save_text(tmp_path / ('a' * 256), 'new')
  assert found.value.code == errors.OUTPUT


def test_only_what_was_left_of_a_file_is_removed(tmp_path):
  path = tmp_path / 'x.npz'
  names = ['.x.npz.0123abcd.tmp', '.x.npz.89abcdef.tmp']
  others = ['.y.npz.0123abcd.tmp', '.x.npz.tmp', 'x.npz', '.x.npz.person.tmp']
  for name in names + others:
    (tmp_path / name).touch()
  whole_files.remove_left(path)
  assert set(os.listdir(tmp_path)) == set(others)
  whole_files.remove_left(tmp_path / 'no' / 'x')


def test_the_private_name_is_known_as_such(tmp_path):
  path = tmp_path / 'a.b'
  with whole_files.private(path) as aside:
    aside.touch()
    assert whole_files.PRIVATE.fullmatch(aside.name)[1] == 'a.b'


def test_two_processes_write_one_file(tmp_path):
  path = tmp_path / 'a'
  with whole_files.private(path) as one, whole_files.private(path) as two:
    one.write_bytes(b'1')
    two.write_bytes(b'2')
  assert path.read_bytes() in (b'1', b'2')
  assert os.listdir(tmp_path) == ['a']


def test_images_and_arrays(tmp_path):
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  whole_files.save_png(tmp_path / 'x.png', image)
  png = np.asarray(Image.open(tmp_path / 'x.png'))
  np.testing.assert_array_equal(png, image)
  whole_files.save_arrays(tmp_path / 'x.npz', {'x': image})
  with np.load(tmp_path / 'x.npz') as file:
    np.testing.assert_array_equal(file['x'], image)


def test_folders_are_made_within_what_is_there(tmp_path):
  folder = tmp_path / 'run' / 'a' / 'b'
  with pytest.raises(errors.UserError, match='run: No such file') as found:
    whole_files.make_folder(folder, within=tmp_path / 'run')
  assert found.value.code == errors.OUTPUT
  assert os.listdir(tmp_path) == []
  whole_files.make_folder(folder)
  whole_files.make_folder(folder / 'c', within=tmp_path / 'run')
  assert (folder / 'c').is_dir()
  (tmp_path / 'file').touch()
  with pytest.raises(errors.UserError, match='file/x: Not a directory'):
    whole_files.make_folder(tmp_path / 'file' / 'x')
