import errno
import os

from absl import logging
import pytest

from pyramid_jax import errors
from pyramid_jax.data import skipping
from pyramid_jax.data.pixels import images


def loader(broken):
  def load(index):
    if index in broken:
      raise images.BrokenImage(f'{index}.jpg', 'truncated')
    return index * 10

  return load


def test_an_image_is_named_once(monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda *args: said.append(args[2]))
  skipper = skipping.Skipper(5, {}, 0.4)
  for _ in range(3):
    skipper.first_valid(1, loader({1, 2}))
  assert [error.path for error in said] == ['1.jpg', '2.jpg']


def test_next_valid_index_after_the_last_comes_the_first():
  report = {}
  skipper = skipping.Skipper(5, report, 0.6)
  load = loader({1, 2, 4})
  assert skipper.first_valid(0, load) == (0, 0)
  assert report == {'broken_images': 0, 'replaced_examples': 0}
  assert skipper.first_valid(1, load) == (3, 30)
  assert skipper.first_valid(4, load) == (0, 0)
  assert skipper.first_valid(1, load) == (3, 30)
  # Three different images, three replaced examples.
  assert report == {'broken_images': 3, 'replaced_examples': 3}


def test_all_broken():
  skipper = skipping.Skipper(3, {}, 1.0)
  with pytest.raises(errors.UserError, match='none of the 3 images') as error:
    skipper.first_valid(2, loader({0, 1, 2}))
  assert error.value.code == errors.DATA


@pytest.mark.parametrize(
  ('length', 'allowed'), [(24, 6), (200, 10), (30000, 30)]
)
def test_too_many_broken(length, allowed):
  skipper = skipping.Skipper(length, {})
  load = loader(set(range(0, length, 2)))
  for index in range(0, 2 * allowed, 2):
    skipper.first_valid(index, load)
  skipper.first_valid(0, load)  # known already
  words = rf'{allowed + 1} of {length} images are broken, at most {allowed} '
  with pytest.raises(errors.UserError, match=words) as error:
    skipper.first_valid(2 * allowed, load)
  assert f'{2 * allowed}.jpg: truncated' in str(error.value)


def test_other_errors_pass():
  def load(index):
    raise KeyError(index)

  with pytest.raises(KeyError):
    skipping.Skipper(3, {}).first_valid(0, load)


def refusing(numbers):
  """Images whose files give an error of the system."""

  def load(index):
    if index in numbers:
      error = OSError(numbers[index], os.strerror(numbers[index]))
      raise images.BrokenImage(f'{index}.jpg', error.strerror) from error
    return index

  return load


def test_the_share_is_what_is_configured():
  assert [skipping.allowed(n, 0.001) for n in (1, 4, 24, 40, 9000, 50000)] == [
    *(1, 1, 6, 10, 10, 50)
  ]
  assert skipping.allowed(1000, 0.0) == 0
  assert skipping.allowed(24, 0.5) == 12
  skipper = skipping.Skipper(24, {}, 0.0)
  words = '1 of 24 images are broken, at most 0 are skipped .*broken_share'
  with pytest.raises(errors.UserError, match=words):
    skipper.first_valid(3, loader({3}))


def test_a_number_takes_the_place_of_the_share(caplog):
  assert [skipping.allowed(n, 0.5, 2) for n in (1, 24, 10**6)] == [2, 2, 2]
  assert skipping.allowed(24, 0.5, 0) == 0
  skipper = skipping.Skipper(10**6, {}, 0.5, 2)
  for index in (1, 3):
    skipper.first_valid(index, loader({1, 3, 5}))
  assert 'Skipped a broken image: 1.jpg: truncated' in caplog.text
  assert 'Skipped a broken image: 3.jpg: truncated' in caplog.text
  words = '3 of 1000000 images are broken, at most 2 are .*max_broken.*5.jpg'
  with pytest.raises(errors.UserError, match=words):
    skipper.first_valid(5, loader({1, 3, 5}))


def test_images_that_vanished_are_not_called_broken(caplog):
  report = {}
  skipper = skipping.Skipper(8, report)
  load = refusing(dict.fromkeys(range(4), errno.ENOENT))
  assert skipper.first_valid(3, load) == (4, 4)
  assert report['broken_images'] == 0
  assert report['vanished_images'] == 1
  skipper.first_valid(2, load)
  words = '3 of 8 images are gone, at most 2 are skipped.*1.jpg: No such file'
  with pytest.raises(errors.UserError, match=words) as error:
    skipper.first_valid(1, load)
  assert error.value.code == errors.DATA


@pytest.mark.parametrize(
  ('number', 'code'), [(errno.EIO, errors.RESTART), (errno.EACCES, errors.DATA)]
)
def test_storage_that_fails_is_not_called_broken_images(number, code):
  load = refusing(dict.fromkeys(range(4), number))
  skipper = skipping.Skipper(4000, {}, 0.5)
  words = '2.jpg: .*; 3 images in a row could not be read: the storage'
  with pytest.raises(errors.UserError, match=words) as error:
    skipper.first_valid(0, load)
  assert error.value.code == code
  # The same one again and again is in a row, too.
  skipper = skipping.Skipper(4000, {}, 0.5)
  load = refusing({0: number})
  for _ in range(5):  # but for those that can be read between
    assert skipper.first_valid(0, load) == (1, 1)
