from absl import logging
import pytest

from pyramid_jax import errors
from pyramid_jax.data import file_reader
from pyramid_jax.data import images


def loader(broken):
  def load(index):
    if index in broken:
      raise images.BrokenImage(f'{index}.jpg', 'truncated')
    return index * 10

  return load


def test_an_image_is_named_once(monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda *args: said.append(args[1]))
  skipper = file_reader.Skipper(5, {})
  for _ in range(3):
    skipper.first_valid(1, loader({1, 2}))
  assert [error.path for error in said] == ['1.jpg', '2.jpg']


def test_next_valid_index_after_the_last_comes_the_first():
  report = {}
  skipper = file_reader.Skipper(5, report)
  load = loader({1, 2, 4})
  assert skipper.first_valid(0, load) == (0, 0)
  assert report == {'broken_images': 0, 'replaced_examples': 0}
  assert skipper.first_valid(1, load) == (3, 30)
  assert skipper.first_valid(4, load) == (0, 0)
  assert skipper.first_valid(1, load) == (3, 30)
  # Three different images, three replaced examples.
  assert report == {'broken_images': 3, 'replaced_examples': 3}


def test_all_broken():
  skipper = file_reader.Skipper(3, {})
  with pytest.raises(errors.UserError, match='none of the 3 images') as error:
    skipper.first_valid(2, loader({0, 1, 2}))
  assert error.value.code == errors.DATA


@pytest.mark.parametrize(('length', 'allowed'), [(200, 10), (30000, 30)])
def test_too_many_broken(length, allowed):
  skipper = file_reader.Skipper(length, {})
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
    file_reader.Skipper(3, {}).first_valid(0, load)
