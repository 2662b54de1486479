import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data.objects import object_index


def test_first_captions():
  got = object_index.first_captions([(5, 'A cat.'), (6, 'b'), (5, 'no')])
  assert got == {5: 'A cat.', 6: 'b'}


def test_ids_with_and_without_zeros(tmp_path):
  path = tmp_path / 'ids.txt'
  path.write_text('000000000009\n25\n')
  assert object_index.load_ids(path) == {9, 25}
  path.write_text('9\nx9\n')
  with pytest.raises(errors.UserError, match="line 2 .* got 'x9'"):
    object_index.load_ids(path)


def objects(rows):
  """From (image row, area)."""
  image, area = np.array(rows, float).reshape(-1, 2).T
  count = len(rows)
  return object_index.Objects(
    image=image.astype(int),
    boxes=np.arange(4.0 * count).reshape(count, 4),
    area=area,
    labels=np.arange(1, count + 1, dtype=np.int32),
    flags=np.zeros(count, np.int32),
    centroids=np.full((count, 2), 0.5),
  )


def filters(lowest, most, area=0.1):
  return object_index.Filters(
    min_area=area, min_objects=lowest, max_objects=most
  )


IDS = [9, 10, 100, 11, 7]
IMAGES = object_index.Images.of(
  {i: (f'{i}.jpg', 2.0 * i, 3.0 * i) for i in IDS}
)
ROWS = [(0, 0.2), (1, 0.1), (2, 0.5), (0, 0.3), (2, 0.4), (2, 0.3), (3, 0.2)]


def select(low, high, **options):
  return object_index.select(
    IMAGES, objects(ROWS), filters(low, high), ['', 'a'], **options
  )


def test_images_are_sorted_as_strings_and_counted_after_the_area():
  got = select(0, 9)
  # 10 has an object of exactly the smallest area, which does not count; 7 has
  # none at all and vanishes.
  assert got.ids.tolist() == [10, 100, 11, 9]
  assert got.files.tolist() == [b'10.jpg', b'100.jpg', b'11.jpg', b'9.jpg']
  assert got.sizes.tolist() == [[20, 30], [200, 300], [22, 33], [18, 27]]
  assert got.starts.tolist() == [0, 0, 3, 4, 6]
  assert got.labels.tolist() == [3, 5, 6, 7, 1, 4]
  np.testing.assert_array_equal(got.boxes[0], [8, 9, 10, 11])
  assert got.names.tolist() == [b'', b'a']


def test_counts_ids_and_captions_filter():
  assert select(1, 2).ids.tolist() == [11, 9]
  assert select(2, 3).ids.tolist() == [100, 9]
  assert select(0, 9, only={9, 10, 5}).ids.tolist() == [10, 9]
  got = select(0, 9, captions={9: 'nine', 100: 'hundred é', 7: 'seven'})
  assert got.ids.tolist() == [100, 9]
  assert [c.decode() for c in got.captions] == ['hundred é', 'nine']
  assert got.labels.tolist() == [3, 5, 6, 1, 4]
  empty = select(8, 9)
  assert empty.starts.tolist() == [0]
  assert empty.boxes.shape == (0, 4)


def test_filters_of_a_split():
  config = config_lib.base('ldm')
  config.data.update(
    min_area=0.02,
    min_objects=3,
    max_objects_image=8,
    eval_min_objects=0,
    eval_max_objects=90,
  )
  of = object_index.Filters.of
  assert of(config, 'train') == filters(3, 8, 0.02)
  assert of(config, 'val') == of(config, 'test') == filters(0, 90, 0.02)
