"""Images on their way to a score."""

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import image_sources


def _images(count):
  values = np.arange(count, dtype=np.uint8)
  return np.broadcast_to(values[:, None, None, None], (count, 2, 2, 3))


@pytest.mark.parametrize('size', [1, 3, 4, 7, 100])
def test_every_image_once(size):
  batches = list(image_sources.of_array(_images(7), 'x').batches(size))
  places = np.concatenate([p for p, _ in batches])
  np.testing.assert_array_equal(places, np.arange(7))
  images = np.concatenate([x for _, x in batches])
  np.testing.assert_array_equal(images, _images(7))
  assert max(len(x) for _, x in batches) <= size


def test_arrays_that_are_no_images():
  with pytest.raises(ValueError, match='samples has no images'):
    image_sources.of_array(_images(0), 'samples')
  with pytest.raises(ValueError, match='uint8, got .* float32'):
    image_sources.of_array(_images(2).astype(np.float32), 'samples')


def _folder_config(root):
  config = config_lib.base('ldm')
  config.data.update(name='image_folder', root=str(root), image_size=4)
  config.data.update(crop='random-2d', flip=True)
  config.evaluate.count = 6
  return config.lock()


@pytest.fixture
def config(tmp_path):
  for i in range(6):  # the middle of each has one colour
    pixels = np.full((4, 12, 3), 255, np.uint8)
    pixels[:, 4:8] = 10 * i
    path = tmp_path / 'train' / f'{i}.png'
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
  return _folder_config(tmp_path)


def _all(config, **options):
  mesh = mesh_lib.create(config.mesh)
  source = image_sources.of_split(config, 'train', mesh, **options)
  return np.concatenate([images for _, images in source.batches(4)])


def test_training_images_are_cropped_as_for_evaluation(config):
  images = _all(config)
  assert images.dtype == np.uint8
  want = np.broadcast_to(10 * np.arange(6)[:, None, None, None], (6, 4, 4, 3))
  np.testing.assert_array_equal(images, want)
  assert config.data.flip  # the run's own config is untouched


def test_a_part_of_a_split(config, caplog):
  assert _all(config, count=2)[:, 0, 0, 0].tolist() == [0, 10]
  assert len(_all(config, count=100)) == 6
  drawn = _all(config, shuffle=True)[:, 0, 0, 0].tolist()
  assert sorted(drawn) == [0, 10, 20, 30, 40, 50] != drawn
  more = config.copy_and_resolve_references()
  with more.unlocked():
    more.evaluate.count = 7
  assert len(_all(more)) == 6
  assert caplog.messages[-1] == (
    '7 real images of train are wanted, all 6 that it has are taken'
  )


def test_saved_samples(tmp_path):
  def fails(path):
    with pytest.raises(errors.UserError) as error:
      image_sources.of_saved(path, 1)
    return str(error.value), error.value.code

  path = tmp_path / 'none'
  assert fails(path) == (f'--samples={path}: not there.', errors.MISSING)
  path = tmp_path / 'x.npz'
  np.savez(path, arr_1=np.zeros(3))
  text, code = fails(path)
  assert text == f"--samples={path}: has no array arr_0, only ['arr_1']."
  assert code == errors.DATA
  np.savez(path, arr_0=np.zeros((3, 2, 2, 3)))
  text, code = fails(path)
  assert text.endswith('got (3, 2, 2, 3) float64.')
  assert code == errors.DATA
  path.write_bytes(b'no archive')
  assert fails(path) == (
    f'--samples={path}: not an .npz.',
    errors.DATA,
  )
