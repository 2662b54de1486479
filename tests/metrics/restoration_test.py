"""Scores of restored images by hand."""

import pathlib

import numpy as np
import pytest

from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import restoration


def _pictures(count=2, size=16):
  random = np.random.RandomState(3)
  return random.randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def scores(*args):
  return bootstrap.ratios(restoration.pairs(*args))


def test_parts_of_a_picture():
  image = _pictures(1)
  mask = np.zeros((1, 16, 16), np.uint8)
  mask[0, :4] = 1
  made = image.copy()
  made[0, :4] ^= 16  # by 16 in every value of the hole
  values = scores('inpaint', made, {'image': image, 'inpaint_mask': mask})
  in_hole = 20 * np.log10(255 / 16)
  assert values['hole_psnr'].value == pytest.approx(in_hole)
  assert values['known_psnr'].value == 100
  assert values['psnr'].value == pytest.approx(in_hole + 10 * np.log10(4))


def test_a_picture_without_a_hole_does_not_count():
  image = _pictures()
  mask = np.zeros((2, 16, 16), np.uint8)
  mask[1, 0, 0] = 1
  made = image.copy()
  made[1, 0, 0] ^= 1
  values = scores('inpaint', made, {'image': image, 'inpaint_mask': mask})
  assert values['hole_psnr'].n == 1
  assert values['hole_psnr'].value == pytest.approx(20 * np.log10(255))


def test_the_mean_of_what_is_known_fills_the_hole():
  image = np.zeros((3, 4, 4, 3), np.uint8)
  image[:, 0] = 100, 50, 0
  image[:, 1] = 200, 50, 9
  mask = np.zeros((3, 4, 4), np.uint8)
  mask[:, 2:] = 1
  mask[1, 1] = 1
  mask[2] = 1
  filled = restoration.mean_filled(image, mask)
  assert (filled[0, 2:] == (150, 50, 4)).all()
  np.testing.assert_array_equal(filled[0, :2], image[0, :2])
  assert (filled[1, 1:] == (100, 50, 0)).all()
  assert (filled[2] == 128).all()  # nothing is known


def test_enlarging():
  low = np.full((1, 4, 6, 3), 80, np.uint8)
  low[0, :, 3:] = 160
  high = restoration.bicubic(low, (16, 24))
  assert high.shape == (1, 16, 24, 3)
  assert (high[0, :, :6] == 80).all()
  assert (high[0, :, -6:] == 160).all()
  assert (np.diff(high[0, 0, 10:14, 0].astype(int)) > 0).all()


def _every_fourth(images, size):
  assert size == (4, 4)
  return images[:, ::4, ::4]


@pytest.mark.parametrize(
  'degrade', [_every_fourth, restoration.bicubic], ids=['nearest', 'bicubic']
)
def test_consistency_is_measured_with_the_degradation_that_was_used(degrade):
  high = _pictures(2, 16)
  low = degrade(high, (4, 4))
  degradation = restoration.Degradation(score='consistency', apply=degrade)
  values = scores('superres', high, {'lr_image': low}, degradation)
  assert set(values) == {'consistency'}  # it needs no whole image
  assert values['consistency'].value == 100
  off = {'lr_image': low ^ 1}
  off = scores('superres', high, off, degradation)
  assert off['consistency'].value == pytest.approx(20 * np.log10(255))
  assert scores('superres', high, {'lr_image': low}) == {}


def test_it_knows_no_data_set():
  text = pathlib.Path(restoration.__file__).read_text()
  assert 'pyramid_jax.data' not in text


def test_sizes_that_do_not_fit():
  image = _pictures()
  examples = {'image': image, 'inpaint_mask': np.zeros((2, 8, 16))}
  with pytest.raises(ValueError, match=r'holes \(2, 8, 16\) must agree'):
    scores('inpaint', image, examples)
  with pytest.raises(ValueError, match='whole number of times'):
    scores('superres', image, {'lr_image': image[:, :5, :5]})
  with pytest.raises(ValueError, match="task must be .*got 'text'"):
    scores('text', image, {})
