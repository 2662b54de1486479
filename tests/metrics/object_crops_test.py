"""Objects cut out of images."""

import numpy as np
from PIL import Image

from pyramid_jax.metrics import object_crops


def examples(boxes, labels, count):
  return {
    'boxes': np.float32([boxes]),
    'labels': np.array([labels]),
    'n_boxes': np.array([count]),
  }


def test_crops_are_those_of_pillow():
  images = np.random.default_rng(0).integers(0, 256, (2, 10, 20, 3), np.uint8)
  boxes = [[0.1, 0.2, 0.3, 0.6], [0.5, 0, 1, 1], [0, 0, 0.5, 0.5]]
  both = examples(boxes, [3, 2, 5], 2)
  both = {name: np.concatenate([x, x]) for name, x in both.items()}
  both['n_boxes'] = np.array([2, 1])
  crops, numbers = object_crops.of_images(images, both)
  assert numbers.tolist() == [0, 1, 3]
  assert (crops.shape, crops.dtype) == ((3, 224, 224, 3), np.uint8)
  for crop, (row, box) in zip(
    crops,
    [(0, (2, 2, 6, 6)), (0, (10, 0, 20, 10)), (1, (2, 2, 6, 6))],
    strict=True,
  ):
    image = Image.fromarray(images[row]).crop(box)
    want = image.resize((224, 224), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(crop, np.asarray(want))


def test_a_crop_has_every_pixel_that_its_box_touches():
  images = np.arange(100, dtype=np.uint8).reshape(1, 10, 10, 1)
  images = np.repeat(images, 3, -1)
  crops, _ = object_crops.of_images(
    images, examples([[0.11, 0.31, 0.19, 0.39], [1, 1, 1, 1]], [1, 1], 2)
  )
  assert (crops[0] == 31).all()
  assert (crops[1] == 99).all()


def test_boxes_without_a_label_are_no_objects():
  images = np.zeros((1, 8, 8, 3), np.uint8)
  crops, numbers = object_crops.of_images(
    images, examples([[0, 0, 1, 1], [0, 0, 1, 1]], [0, 4], 2)
  )
  assert (len(crops), numbers.tolist()) == (1, [1])
  crops, numbers = object_crops.of_images(
    images, examples([[0, 0, 1, 1]], [1], 0)
  )
  assert crops.shape == (0, 224, 224, 3)
  assert not len(numbers)
