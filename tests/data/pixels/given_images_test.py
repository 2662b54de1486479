"""Inputs of a person mean the same as a path, an image and an array."""

import logging
import pathlib

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.data.pixels import given_images


RGB = np.arange(60, dtype=np.uint8).reshape(4, 5, 3) * 4
GREY = RGB[..., 0]


def saved(tmp_path, array, **options):
  path = tmp_path / 'a.png'
  Image.fromarray(array).save(path, **options)
  return path


def refused(read, value, code):
  with pytest.raises(errors.UserError) as error:
    read(value, '--mask')
  assert error.value.code == code
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('array', [RGB, GREY, np.dstack([RGB, GREY])])
def test_a_path_an_image_and_an_array_are_the_same(tmp_path, array):
  path = saved(tmp_path, array)
  for read in (given_images.image, given_images.sketch):
    want = read(path, 'image')
    assert want.shape == (4, 5, 3 if read is given_images.image else 4)
    assert want.dtype == np.uint8
    for value in (str(path), Image.fromarray(array), array, array / 255):
      np.testing.assert_array_equal(read(value, 'image'), want)


def test_arrays_of_every_type():
  image = lambda x: given_images.image(x, 'image')[..., 0]
  np.testing.assert_array_equal(image(GREY[..., None].astype(np.int64)), GREY)
  np.testing.assert_array_equal(image(GREY.astype(np.uint16) * 257), GREY)
  bits = GREY > 100
  for x in (bits, bits.astype(np.uint8), bits.astype(np.float32)):
    np.testing.assert_array_equal(image(x), bits * 255)


@pytest.mark.parametrize(
  ('array', 'words'),
  [
    (np.zeros((3, 8, 8)), r'an array \(3, 8, 8\), must be \(H, W\) or'),
    (np.zeros((0, 4)), r'an array \(0, 4\)'),
    (np.full((2, 2), -1), r'of int64 in \[-1, -1\], must lie in \[0, 255\]'),
    (np.full((2, 2), 2.0), r'in \[2, 2\], must lie in \[0, 1\]'),
    (np.full((2, 2), np.nan), r'in \[nan, nan\]'),
    (np.array([['a']]), 'an array of <U1, must be of numbers'),
  ],
)
def test_arrays_that_are_no_images(array, words):
  with pytest.raises(errors.UserError, match=f'^image: .*{words}'):
    given_images.image(array, 'image')


def test_class_maps_keep_their_values(tmp_path):
  classes = np.array([[0, 3, 1], [250, 7, 1]], np.uint8)
  palette = Image.fromarray(classes).convert('P')
  for value in (
    *(saved(tmp_path, classes), Image.fromarray(classes), palette, classes),
    *(classes.astype(np.int64), classes.astype(np.float32)[..., None]),
  ):
    np.testing.assert_array_equal(given_images.class_map(value, 'm'), classes)
  message = refused(given_images.class_map, classes / 2, errors.USAGE)
  assert 'is (H, W) whole numbers in [0, 255]' in message
  message = refused(given_images.class_map, saved(tmp_path, RGB), errors.DATA)
  assert message.startswith(f'--mask={tmp_path}/a.png: pixels of the mode RGB')


def test_errors_name_the_input_and_its_path(tmp_path, monkeypatch):
  for read in (given_images.mask, given_images.sketch, given_images.class_map):
    message = refused(read, tmp_path / 'no', errors.MISSING)
    assert message == f'--mask={tmp_path}/no: not there.'
    message = refused(read, str(tmp_path), errors.MISSING)
    assert message == f'--mask={tmp_path}: a folder, must be a file.'
  (tmp_path / 'a').write_bytes(b'text')
  message = refused(given_images.image, tmp_path / 'a', errors.DATA)
  assert message.startswith(f'--mask={tmp_path}/a: not one of JPEG, PNG')
  monkeypatch.setenv('HOME', str(tmp_path))
  saved(pathlib.Path(tmp_path), RGB)
  assert given_images.image('~/a.png', '--image').shape == (4, 5, 3)


def test_sizes_of_image_and_mask():
  given_images.agree(RGB, GREY > 0, ('a', 'b'))
  with pytest.raises(
    errors.UserError, match='b is 4 x 5 px, a 5 x 4 px; they must agree'
  ):
    given_images.agree(RGB, GREY.T > 0, ('a', 'b'))


def test_transparency_of_an_image_is_said(caplog):
  caplog.set_level(logging.INFO)
  clear = np.dstack([RGB, np.full((4, 5), 255, np.uint8)])
  given_images.image(clear, 'image')
  assert not caplog.text
  clear[:2, :, 3] = 0
  assert (given_images.image(clear, 'image')[:2] == 255).all()
  assert 'image is transparent in 50.0 % of its pixels' in caplog.text
