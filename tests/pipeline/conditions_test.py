"""What a person asks for, and what is refused."""

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.pipeline import rows as rows_lib
from tests.helpers import configs


NAMES = scenes.LABEL_NAMES


def paint(path, size, colour=(10, 20, 30), mode='RGB'):
  Image.new('RGB', size, colour).convert(mode).save(path)
  return str(path)


def read(config, **values):
  return conditions.read(request_lib.Request(**values), config, NAMES)


def fails(config, code=errors.USAGE, **values):
  with pytest.raises(errors.UserError) as error:
    read(config, **values)
  assert '\n' not in str(error.value)
  assert error.value.code == code
  return str(error.value)


def test_sketches_that_cannot_be_followed(tmp_path):
  photograph = np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8)
  Image.fromarray(photograph).save(tmp_path / 'photo.png')
  blank = paint(tmp_path / 'blank.png', (32, 32), (255, 255, 255))
  (tmp_path / 'text.svg').write_text('<svg viewBox="0 0 9 9"><text/></svg>')

  def refused(task, code=errors.DATA, **values):
    return fails(configs.of_task(task), code, **values)

  message = refused('none', sketch=blank)
  assert message == f'sketch={blank}: the sketch is empty.'
  message = refused('none', sketch=str(tmp_path / 'photo.png'))
  assert 'this is a photograph; draw lines' in message
  message = refused('none', sketch=str(tmp_path / 'text.svg'))
  assert 'the element <text> is not read' in message
  message = refused('none', errors.MISSING, sketch='/no.png')
  assert message == 'sketch=/no.png: not there.'
  message = refused('text', errors.USAGE, sketch=blank)
  assert 'sketch needs prompt, the condition' in message


def test_requests_that_cannot_be_served(tmp_path):
  image = paint(tmp_path / 'a.png', (32, 32))
  mask = paint(tmp_path / 'm.png', (31, 32), (255, 255, 255), 'L')
  black = paint(tmp_path / 'k.png', (32, 32), (0, 0, 0), 'L')
  broken = tmp_path / 'broken.png'
  broken.write_bytes((tmp_path / 'a.png').read_bytes()[:40])
  inpaint, superres = configs.of_task('inpaint'), configs.of_task('superres')

  message = fails(inpaint, image=image, mask=mask)
  assert message.endswith(
    f'm.png is 31 x 32 px, image={image} 32 x 32 px; they must agree.'
  )
  message = fails(inpaint, errors.DATA, image=image, mask=black)
  assert 'k.png: the mask has no hole' in message
  assert 'takes image and mask' in fails(inpaint, image=image)
  message = fails(inpaint, errors.MISSING, image='/no/a.png', mask=mask)
  assert message == 'image=/no/a.png: not there.'
  assert 'broken.png' in fails(superres, errors.DATA, image=str(broken))
  assert '32 x 32 px; the model enlarges 8 x 8' in fails(superres, image=image)
  message = fails(configs.of_task('map'), errors.DATA, map=image)
  assert 'a map of classes' in message
  high = paint(tmp_path / 'high.png', (4, 4), (29, 29, 29), 'L')
  assert 'takes 0..28' in fails(configs.of_task('map'), map=high)
  assert "'dog' is not known" in fails(configs.of_task('class', 0), label='dog')


def test_edits_that_cannot_be_served(tmp_path):
  image = paint(tmp_path / 'a.png', (32, 32))
  mask = paint(tmp_path / 'm.png', (31, 32), (255, 255, 255), 'L')

  def refused(task, code=errors.USAGE, **values):
    return fails(configs.of_task(task), code, **values)

  text = {'prompt': 'a red circle', 'image': image}
  assert 'strength=0: must lie in (0, 1].' in refused(
    'text', strength=0, **text
  )
  assert 'strength=1.5: must lie' in refused('text', strength=1.5, **text)
  assert 'needs strength (image to image)' in refused('text', **text)
  assert 'image needs prompt' in refused('text', image=image, strength=0.5)
  assert 'mask needs image' in refused('none', mask=mask)
  assert 'strength needs image' in refused('none', strength=0.5)
  assert "task 'superres', whose condition is image" in refused(
    'superres', image=image, strength=0.5
  )
  assert 'they must agree' in refused('none', image=image, mask=mask)
  missing = refused('none', errors.MISSING, image='/no.png', strength=0.5)
  assert missing == 'image=/no.png: not there.'
  assert read(configs.of_task('text'), prompt='a').strength is None


def test_images_too_large_to_read(tmp_path):
  Image.new('L', (8001, 8000)).save(tmp_path / 'huge.png')
  message = fails(
    configs.of_task('superres'), errors.DATA, image=str(tmp_path / 'huge.png')
  )
  assert '8001x8000 px, at most 64000000 pixels' in message


def test_deep_and_grey_images_are_converted(tmp_path):
  config = configs.of_task('superres')
  deep = np.full((8, 8), 0x12FF, np.uint16)
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  rows = read(config, image=tmp_path / 'deep.png').rows
  assert (rows['lr_image'] == 0x12).all()
  clear = paint(tmp_path / 'clear.png', (8, 8), (9, 9, 9), 'RGBA')
  rows = read(config, image=clear).rows
  assert (images.check_batch(rows['lr_image']) == 9).all()


def beside(also, task='class'):
  config = configs.of_task(task, level=0)
  with config.unlocked():
    config.condition.also = also
  return config


def test_the_camera_is_asked_beside_the_condition():
  config = beside('camera')
  asked = {'label': '3, 4', 'pitch': 'eye level'}
  rows = read(config, **asked).rows
  assert rows['class'].tolist() == [3, 4]
  assert rows['pitch'].tolist() == [2, 2]
  assert rows['depth_of_field'].tolist() == [0, 0]
  message = fails(config, pitch='eye level')
  assert 'the camera is not enough: give label' in message
  assert "pitch is 'up', must be" in fails(config, label='3', pitch='up')
  assert read(config).rows == {}


def test_a_small_image_beside_the_condition(tmp_path):
  config = beside('superres')
  small = paint(tmp_path / 'small.png', (8, 8), (9, 8, 7))
  asked = {'label': '3, 4', 'image': small}
  rows = read(config, **asked).rows
  assert rows['lr_image'].shape == (2, 8, 8, 3)
  assert (rows['lr_image'] == (9, 8, 7)).all()
  assert 'label is not enough: the task' in fails(config, label='3')
  assert read(config, **asked).strength is None
  rows = rows_lib.of_split(config, 'test', 2)(np.arange(2))
  assert rows['lr_image'].shape == (2, 8, 8, 3)
  assert rows['lr_image'].dtype == np.uint8


def test_nothing_asked():
  assert read(configs.of_task('class', 0)).rows == {}
