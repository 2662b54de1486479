"""Folders of images as sources of scores."""

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.data.storage import image_files


def _paint(path, value, size=(4, 3)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, (value,) * 3).save(path)


def _batch(folder, indices):
  source = image_files.ImageFiles(folder)
  return source.batch(np.array(indices), np.zeros(len(indices), np.uint64))


def test_pictures_by_name(tmp_path):
  for name, value in (('b.png', 2), ('a.jpg', 1), ('c/a.png', 3)):
    _paint(tmp_path / name, value)
  (tmp_path / 'scores.md').write_text('no picture')
  images = _batch(tmp_path, [2, 0])['image']
  assert (images.shape, images.dtype) == ((2, 3, 4, 3), np.uint8)
  assert images[:, 0, 0, 0].tolist() == [3, 1]
  assert len(image_files.ImageFiles(tmp_path)) == 3


def _fails(folder, indices=(0, 1)):
  with pytest.raises(errors.UserError) as error:
    _batch(folder, indices)
  assert '\n' not in str(error.value)
  return str(error.value), error.value.code


def test_folders_that_cannot_be_scored(tmp_path):
  text, code = _fails(tmp_path)
  assert code == errors.MISSING
  assert text.startswith(f'{tmp_path} holds no images; expected files')
  _paint(tmp_path / 'a.png', 1)
  _paint(tmp_path / 'b.png', 1, (5, 3))
  text, code = _fails(tmp_path)
  assert code == errors.DATA
  assert text == (
    f'{tmp_path}/b.png is 5 x 3 px, a.png 4 x 3 px; all must be of one size.'
  )
  (tmp_path / 'b.png').write_bytes(b'no picture')
  text, code = _fails(tmp_path)
  assert code == errors.DATA
  assert text.startswith(f'{tmp_path}/b.png: not one of JPEG, PNG, WEBP')
