"""From options to samples to scores, with a system that repaints its input."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import sample
from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import examples
from pyramid_jax.evaluation import scoring as evaluate
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import restoration
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


NAMES = scenes.LABEL_NAMES


def make_config(task, level=2, size=32):
  config = config_lib.base('ldm')
  config.data.level = level
  config.data.image_size = size
  config.data.max_objects = 6
  config.condition.task = task
  config.condition.map_classes = 29
  config.condition.max_length = 40
  config.condition.max_objects = 6
  config.sample.count, config.sample.batch_size = 6, 4
  config.evaluate.count, config.evaluate.batch_size = 10, 5
  return config.lock()


def _generate(
  system, weights, key, batch, count, *, edit=None, shape=None, **others
):
  """Enlarges by repetition; elsewhere noise, within what the batch tells."""
  del system, weights, others
  noise = jax.random.uniform(key, (count, *(shape or (32, 32)), 3), minval=-1)
  if edit is not None:
    noise = edit.image * edit.strength
  if 'lr_image' in batch:
    noise = jnp.repeat(jnp.repeat(batch['lr_image'], 4, 1), 4, 2)
  return noise, [jnp.zeros((count, 2, 2, 3))]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  (tmp_path / workdir_lib.LABELS).write_text(json.dumps(NAMES))
  run = types.SimpleNamespace(
    system=None,
    weights=None,
    mesh=mesh_lib.create(config_lib.base('ldm').mesh),
    step=3,
  )
  monkeypatch.setattr(loading, 'load', lambda *args: run)
  monkeypatch.setattr(system_lib, 'generate', _generate)
  return tmp_path


def saved(workdir):
  with np.load(workdir / 'samples' / 'samples.npz', allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def scores(config, workdir, **options):
  evaluate.run(config, workdir, options)
  text = (workdir / 'samples' / 'scores.json').read_text()
  return json.loads(text)['scores']


def test_enlarged_pictures_and_their_scores(workdir):
  config = make_config('superres')
  sample.run(config, workdir, {})
  arrays = saved(workdir)
  assert arrays['arr_0'].shape == (6, 32, 32, 3)
  assert arrays['arr_0'].dtype == np.uint8
  low = arrays['lr_image']
  assert low.dtype == np.uint8
  np.testing.assert_array_equal(arrays['arr_0'][:, ::4, ::4], low)
  bicubic = restoration.bicubic(low, (32, 32))
  want = image_quality.psnr(bicubic, arrays['image']).mean()

  file = workdir / 'samples' / 'samples.npz'
  table = scores(config, workdir, samples=str(file))
  assert table['psnr']['floor'] == pytest.approx(want)
  assert table['psnr']['ceiling'] == table['lr_consistency']['value'] == 100
  assert 15 < table['psnr']['value'] < want  # repetition is worse
  assert table['shape_fd']['n'] == 6
  fresh = scores(config, workdir)
  assert fresh['psnr']['n'] == 10
  assert fresh['psnr']['floor'] > fresh['psnr']['value']


def test_what_is_known_is_put_back(workdir):
  config = make_config('inpaint')
  sample.run(config, workdir, {})
  arrays = saved(workdir)
  hole = arrays['inpaint_mask'] > 0
  assert (arrays['arr_0'][~hole] == arrays['image'][~hole]).all()
  assert (arrays['arr_0'][hole] != arrays['image'][hole]).mean() > 0.9
  for options in ({'samples': str(workdir / 'samples')}, {}):
    table = scores(config, workdir, **options)
    assert table['known_psnr']['value'] == 100
    noise, plain = (table['hole_psnr'][k] for k in ('value', 'floor'))
    assert noise < plain < 40


def test_maps_and_classes_of_a_split(workdir):
  config = make_config('map')
  sample.run(config, workdir, {})
  assert saved(workdir)['mask'].shape == (6, 32, 32)
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert table['pixel_acc']['ceiling'] > 0.9 > table['pixel_acc']['floor']
  config = make_config('class', level=0)
  table = scores(config, workdir)
  assert table['class_acc']['ceiling'] == 1


def test_edges_go_with_samples_to_their_score(workdir):
  config = make_config('text').unlock()
  config.data.maps = ('edges',)
  config.lock()
  fresh = scores(config, workdir)
  assert fresh['edge_f1']['n'] == 10
  assert fresh['edge_f1']['ceiling'] > 0.9 > 0.5 > fresh['edge_f1']['floor']
  sample.run(config, workdir, {})
  lines = saved(workdir)['edges']
  assert lines.dtype == np.uint8
  assert lines.shape == (6, 32, 32)
  assert (lines == 0).mean() > 0.5 > (lines > 200).mean() > 0.01
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert table['edge_f1']['ceiling'] > 0.9 > 0.5 > table['edge_f1']['floor']
  # Nobody asks for edges: they are neither drawn nor scored.
  plain = make_config('text')
  assert 'edge_f1' not in scores(plain, workdir)
  assert 'edges' not in examples.of_split(plain, 'test', 2)


def test_other_data_are_restored_too(workdir):
  """What needs no detector is scored without one."""
  folder = workdir / 'pictures'
  folder.mkdir()
  y, x = np.mgrid[:32, :32]
  for i in range(10):
    wave = np.stack([4 * x + i, 4 * y, 2 * x + 2 * y], -1)
    Image.fromarray(wave.astype(np.uint8)).save(folder / f'{i}.png')
  config = make_config('inpaint').unlock()
  config.data.name, config.data.root = 'image_folder', str(folder)
  table = scores(config, workdir)
  assert table['hole_psnr']['value'] < table['hole_psnr']['floor'] < 100
  assert table['known_psnr']['value'] == 100
  assert 'shape_fd' not in table


def paint(path, size, colour=(10, 20, 30), mode='RGB'):
  Image.new('RGB', size, colour).convert(mode).save(path)
  return str(path)


def test_pictures_that_a_person_gives(workdir):
  config = make_config('superres')
  image = paint(workdir / 'a.png', (8, 8))
  sample.run(config, workdir, {'image': image, 'count': 2})
  arrays = saved(workdir)
  assert (arrays['lr_image'] == (10, 20, 30)).all()
  assert (arrays['arr_0'] == (10, 20, 30)).all()
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert list(table) == ['lr_consistency']

  config = make_config('inpaint')
  image = paint(workdir / 'b.jpg', (64, 48), (200, 0, 0), 'CMYK')
  mask = np.zeros((48, 64), np.uint8)
  mask[:24] = 128  # 0.5 and more is a hole
  mask[24:] = 127
  Image.fromarray(mask).save(workdir / 'mask.png')
  asked = {'image': image, 'mask': str(workdir / 'mask.png'), 'count': 2}
  sample.run(config, workdir, asked)
  arrays = saved(workdir)
  np.testing.assert_array_equal(
    arrays['inpaint_mask'], np.tile(np.arange(32) < 16, (2, 32, 1)).mT
  )
  assert (np.ptp(arrays['arr_0'][:, 16:], (1, 2)) < 4).all()

  config = make_config('map')
  classes = np.full((40, 40), 25, np.uint8)
  classes[10:30, 10:30] = 1
  Image.fromarray(classes).save(workdir / 'map.png')
  sample.run(config, workdir, {'map': str(workdir / 'map.png')})
  mask = saved(workdir)['mask']
  assert mask.shape == (6, 32, 32)
  assert (mask[:, 8:24, 8:24] == 1).all()
  assert (mask == 25).sum() == 6 * (32 * 32 - 16 * 16)


def test_pictures_to_begin_with(workdir):
  config = make_config('text')
  image = paint(workdir / 'a.png', (64, 32), (255, 255, 255))
  asked = {'prompt': 'a red circle', 'image': image, 'count': 2}
  sample.run(config, workdir, {**asked, 'strength': 0.5})
  arrays = saved(workdir)
  assert arrays['caption'].tolist() == [b'a red circle'] * 2
  assert (arrays['image'] == 255).all()
  assert (arrays['arr_0'] == 191).all()  # 0.5 of [-1, 1]

  mask = np.zeros((32, 64), np.uint8)
  mask[:, 32:] = 255
  Image.fromarray(mask).save(workdir / 'mask.png')
  both = {**asked, 'strength': 0.5, 'mask': str(workdir / 'mask.png')}
  sample.run(config, workdir, both)
  made = saved(workdir)['arr_0']
  assert (made[:, :, 16:] == 191).all()
  assert (made[:, :, :16] == 255).all()  # what is known is put back
  sample.run(config, workdir, {**both, 'strength': None})
  assert (saved(workdir)['arr_0'] == 255).all()  # strength 1


def test_a_drawing_goes_with_its_samples(workdir, monkeypatch):
  monkeypatch.setattr(sample, 'TAKES_SKETCHES', (object,))
  config = make_config('text')
  path = workdir / 'drawing'
  path.write_text(
    '<svg viewBox="0 0 80 40"><circle cx="40" cy="20" r="15" fill="none"'
    ' stroke="white"/></svg>'
  )
  asked = {'prompt': 'a red circle', 'sketch': str(path), 'count': 3}
  sample.run(config, workdir, asked)
  arrays = saved(workdir)
  lines = arrays['sketch']
  assert lines.shape == (3, 32, 32)
  assert lines.dtype == np.uint8
  y, x = np.mgrid[:32, :32] - 15.5
  radius = np.hypot(x, y) * 80 / 32
  assert 20 < (lines[0] == 255).sum() < 80
  assert np.abs(radius[lines[0] == 255] - 15).max() < 4
  assert (lines[0] == lines[2]).all()
  # The sketch is what the pictures are held to.
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert table['edge_f1']['value'] < 0.5
  ring = np.abs(radius[None, ..., None] - 15) < 3
  red = np.where(ring, (230, 25, 25), 128).astype(np.uint8)
  np.savez(
    workdir / 'samples' / 'samples.npz',
    **{**arrays, 'arr_0': np.tile(red, (3, 1, 1, 1))},
  )
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert table['edge_f1']['value'] > 0.7


def test_drawings_that_cannot_be_followed(tmp_path):
  photograph = np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8)
  Image.fromarray(photograph).save(tmp_path / 'photo.png')
  blank = paint(tmp_path / 'blank.png', (32, 32), (255, 255, 255))
  (tmp_path / 'text.svg').write_text('<svg viewBox="0 0 9 9"><text/></svg>')

  def refused(task, code=errors.DATA, **options):
    with pytest.raises(errors.UserError) as error, errors.user_errors():
      examples.sketch_of_request(make_config(task), options)
    assert '\n' not in str(error.value)
    assert error.value.code == code
    return str(error.value)

  message = refused('none', sketch=blank)
  assert message == f'--sketch={blank}: the drawing is empty.'
  message = refused('none', sketch=str(tmp_path / 'photo.png'))
  assert 'this is a photograph; draw lines' in message
  message = refused('none', sketch=str(tmp_path / 'text.svg'))
  assert 'the element <text> is not read' in message
  message = refused('none', errors.MISSING, sketch='/no.png')
  assert message == '--sketch=/no.png: not there.'
  message = refused('text', errors.USAGE, sketch=blank)
  assert '--sketch needs --prompt, the condition' in message
  assert examples.sketch_of_request(make_config('text'), {}) is None


def test_classes_in_turn(workdir):
  config = make_config('class', level=0)
  sample.run(config, workdir, {'label': 'red circle, 7', 'count': 3})
  assert saved(workdir)['class'].tolist() == [1, 7, 1]


def fails(config, code=errors.USAGE, **options):
  with (
    pytest.raises(errors.UserError) as error,
    errors.user_errors(),
  ):
    examples.of_request(config, NAMES, options)
  assert '\n' not in str(error.value)
  assert error.value.code == code
  return str(error.value)


def test_requests_that_cannot_be_served(tmp_path):
  image = paint(tmp_path / 'a.png', (32, 32))
  mask = paint(tmp_path / 'm.png', (31, 32), (255, 255, 255), 'L')
  black = paint(tmp_path / 'k.png', (32, 32), (0, 0, 0), 'L')
  broken = tmp_path / 'broken.png'
  broken.write_bytes((tmp_path / 'a.png').read_bytes()[:40])
  inpaint, superres = make_config('inpaint'), make_config('superres')

  message = fails(inpaint, image=image, mask=mask)
  assert message.endswith(
    f'm.png is 31 x 32 px, --image={image} 32 x 32 px; they must agree.'
  )
  assert 'has no hole' in fails(inpaint, image=image, mask=black)
  assert 'takes --image and --mask' in fails(inpaint, image=image)
  assert 'takes --image and --mask' in fails(inpaint, prompt='x')
  message = fails(inpaint, errors.MISSING, image='/no/a.png', mask=mask)
  assert message == '--image=/no/a.png: not there.'
  assert 'broken.png' in fails(superres, errors.DATA, image=str(broken))
  assert '32 x 32 px; the model enlarges 8 x 8' in fails(superres, image=image)
  message = fails(make_config('map'), errors.DATA, map=image)
  assert 'a map of classes' in message
  high = paint(tmp_path / 'high.png', (4, 4), (29, 29, 29), 'L')
  assert 'takes 0..28' in fails(make_config('map'), map=high)
  assert "'dog' is not known" in fails(make_config('class', 0), label='dog')
  assert 'takes no condition' in fails(make_config('none'), label='dog')
  long = ' '.join(['red'] * 39)
  message = fails(make_config('text'), prompt=long)
  assert '41 tokens' in message
  assert 'takes 40' in message


def test_edits_that_cannot_be_served(tmp_path):
  image = paint(tmp_path / 'a.png', (32, 32))
  mask = paint(tmp_path / 'm.png', (31, 32), (255, 255, 255), 'L')

  def refused(task, code=errors.USAGE, **options):
    with pytest.raises(errors.UserError) as error, errors.user_errors():
      examples.edit_of_request(make_config(task), options)
    assert '\n' not in str(error.value)
    assert error.value.code == code
    return str(error.value)

  text = {'prompt': 'a red circle', 'image': image}
  assert '--strength=0: must lie in (0, 1].' in refused(
    'text', strength=0, **text
  )
  assert '--strength=1.5: must lie' in refused('text', strength=1.5, **text)
  assert 'needs --strength (image to image)' in refused('text', **text)
  assert '--image needs --prompt' in refused('text', image=image, strength=0.5)
  assert '--mask needs --image' in refused('none', mask=mask)
  assert '--strength needs --image' in refused('none', strength=0.5)
  assert "task 'superres', whose condition is --image" in refused(
    'superres', image=image, strength=0.5
  )
  assert 'they must agree' in refused('none', image=image, mask=mask)
  missing = refused('none', errors.MISSING, image='/no.png', strength=0.5)
  assert missing == '--image=/no.png: not there.'
  assert examples.edit_of_request(make_config('text'), {'prompt': 'a'}) is None
  assert examples.edit_of_request(make_config('superres'), text) is None


def test_pictures_too_large_to_read(tmp_path):
  Image.new('L', (8001, 8000)).save(tmp_path / 'huge.png')
  message = fails(
    make_config('superres'), errors.DATA, image=str(tmp_path / 'huge.png')
  )
  assert '8001x8000 px, at most 64000000 pixels are read' in message


def test_deep_and_grey_pictures_are_converted(tmp_path):
  config = make_config('superres')
  deep = np.full((8, 8), 0x12FF, np.uint16)
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  rows = examples.of_request(config, NAMES, {'image': tmp_path / 'deep.png'})
  assert (rows['lr_image'] == 0x12).all()
  clear = paint(tmp_path / 'clear.png', (8, 8), (9, 9, 9), 'RGBA')
  rows = examples.of_request(config, NAMES, {'image': clear})
  assert (detector.check(rows['lr_image']) == 9).all()


def beside(also, task='class'):
  config = make_config(task, level=0)
  with config.unlocked():
    config.condition.also = also
  return config


def test_the_camera_is_asked_beside_the_condition():
  config = beside('camera')
  asked = {'label': '3, 4', 'pitch': 'eye level'}
  rows = examples.of_request(config, NAMES, asked)
  assert rows['class'].tolist() == [3, 4]
  assert rows['pitch'].tolist() == [2, 2]
  assert rows['depth_of_field'].tolist() == [0, 0]
  message = fails(config, pitch='eye level')
  assert 'the camera is not enough: give --label' in message
  assert "pitch is 'up', must be" in fails(config, label='3', pitch='up')
  message = fails(beside(''), label='3', depth_of_field='deep')
  assert '--depth_of_field is for models of the camera' in message
  assert examples.of_request(config, NAMES, {}) is None


def test_a_small_picture_beside_the_condition(tmp_path):
  config = beside('superres')
  small = paint(tmp_path / 'small.png', (8, 8), (9, 8, 7))
  asked = {'label': '3, 4', 'image': small}
  rows = examples.of_request(config, NAMES, asked)
  assert rows['lr_image'].shape == (2, 8, 8, 3)
  assert (rows['lr_image'] == (9, 8, 7)).all()
  assert '--label is not enough: the task' in fails(config, label='3')
  assert examples.edit_of_request(config, asked) is None
  rows = examples.of_split(config, 'test', 2)
  assert rows['lr_image'].shape == (2, 8, 8, 3)
  assert rows['lr_image'].dtype == np.uint8


def test_maps_of_any_task_come_along():
  config = beside('')
  with config.unlocked():
    config.data.maps = ('mask', 'inpaint_mask')
  rows = examples.of_split(config, 'test', 2)
  assert rows['mask'].max() > 1
  assert rows['inpaint_mask'].shape == (2, 32, 32)
  assert rows['image'].dtype == np.uint8


def test_nothing_asked():
  assert examples.of_request(make_config('class', 0), NAMES, {}) is None


def test_enlarged_pictures_are_projected_on_the_small_one():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
  large = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
  rows = {'lr_image': small}
  np.testing.assert_array_equal(examples.composite(large, rows), large)
  made = examples.composite(large, rows, project=True)
  means = made.reshape(2, 4, 2, 4, 2, 3).astype(float).mean((2, 4))
  error = np.abs(means - small)
  assert np.median(error) <= 0.5
  before = large.reshape(2, 4, 2, 4, 2, 3).astype(float).mean((2, 4))
  assert error.mean() < 0.1 * np.abs(before - small).mean()


def test_images_of_another_shape(workdir, monkeypatch):
  config = make_config('text').copy_and_resolve_references()
  config.sample.shape = (24, 40)
  asked = {'prompt': 'a red circle', 'count': 2}
  with pytest.raises(
    errors.UserError, match=r'\(24, 40\), must be \(0, 0\) but'
  ):
    sample.run(config, workdir, asked)
  monkeypatch.setattr(sample, 'ANY_SHAPE', (type(None),))
  sample.run(config, workdir, asked)
  assert saved(workdir)['arr_0'].shape == (2, 24, 40, 3)
  image = workdir / 'image.png'
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
  with pytest.raises(errors.UserError, match='without --image and --upsampler'):
    sample.run(config, workdir, {**asked, 'image': image, 'strength': 0.5})
