"""The hash of a set of images."""

import numpy as np

from pyramid_jax.metrics import image_sets


def _images(count, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 4, 6, 3), np.uint8)


def test_order_and_batches_do_not_matter_but_images_do():
  images = _images(9)
  whole = image_sets.Contents.of_images(images)
  parts = [image_sets.Contents.of_images(x) for x in np.split(images[::-1], 3)]
  merged = parts[1].merge(parts[0]).merge(parts[2])
  assert merged == whole
  assert image_sets.Contents.of_words(whole.words) == whole
  assert len(whole.digest) == 16
  other = images.copy()
  other[4, 1, 2, 0] ^= 1
  turned = images.reshape(9, 6, 4, 3)
  twice = np.concatenate([images, images[:1]])
  hashes = [whole, *map(image_sets.Contents.of_images, (other, turned, twice))]
  assert len({x.digest for x in hashes}) == 4


def test_no_images():
  nothing = image_sets.Contents.of_images(_images(0))
  assert nothing == image_sets.Contents()
  some = image_sets.Contents.of_images(_images(2))
  assert nothing.merge(some) == some
