"""From options to samples to scores, with a system that repaints its input."""

import json

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import restoration
from pyramid_jax.pipeline import rows as rows_lib
from tests.helpers import configs
from tests.helpers import painter


NAMES = scenes.LABEL_NAMES


@pytest.fixture
def run(monkeypatch):
  return painter.install(monkeypatch)


@pytest.fixture
def workdir(tmp_path, run):
  del run
  (tmp_path / 'labels.json').write_text(json.dumps(NAMES))
  return tmp_path


def saved(workdir):
  with np.load(workdir / 'samples' / 'samples.npz', allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def scores(config, workdir, **options):
  evaluate.run(config, workdir, options)
  text = (workdir / 'samples' / 'scores.json').read_text()
  return json.loads(text)['scores']


def test_enlarged_images_and_their_scores(workdir):
  config = configs.of_task('superres')
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
  config = configs.of_task('inpaint')
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
  config = configs.of_task('map')
  sample.run(config, workdir, {})
  assert saved(workdir)['mask'].shape == (6, 32, 32)
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert table['pixel_acc']['ceiling'] > 0.9 > table['pixel_acc']['floor']
  config = configs.of_task('class', level=0)
  table = scores(config, workdir)
  assert table['class_acc']['ceiling'] == 1


def test_edges_go_with_samples_to_their_score(workdir):
  config = configs.of_task('text').unlock()
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
  plain = configs.of_task('text')
  assert 'edge_f1' not in scores(plain, workdir)
  source = rows_lib.of_split(plain, 'test', 2)
  assert 'edges' not in source(np.arange(2))


def test_other_data_are_restored_too(workdir):
  """What needs no detector is scored without one."""
  folder = workdir / 'pictures'
  folder.mkdir()
  y, x = np.mgrid[:32, :32]
  for i in range(10):
    wave = np.stack([4 * x + i, 4 * y, 2 * x + 2 * y], -1)
    Image.fromarray(wave.astype(np.uint8)).save(folder / f'{i}.png')
  config = configs.of_task('inpaint').unlock()
  config.data.name, config.data.root = 'image_folder', str(folder)
  table = scores(config, workdir)
  assert table['hole_psnr']['value'] < table['hole_psnr']['floor'] < 100
  assert table['known_psnr']['value'] == 100
  assert 'shape_fd' not in table


def paint(path, size, colour=(10, 20, 30), mode='RGB'):
  Image.new('RGB', size, colour).convert(mode).save(path)
  return str(path)


def test_images_that_a_person_gives(workdir):
  config = configs.of_task('superres')
  image = paint(workdir / 'a.png', (8, 8))
  sample.run(config, workdir, {'image': image, 'count': 2})
  arrays = saved(workdir)
  assert (arrays['lr_image'] == (10, 20, 30)).all()
  assert (arrays['arr_0'] == (10, 20, 30)).all()
  table = scores(config, workdir, samples=str(workdir / 'samples'))
  assert list(table) == ['lr_consistency']

  config = configs.of_task('inpaint')
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

  config = configs.of_task('map')
  classes = np.full((40, 40), 25, np.uint8)
  classes[10:30, 10:30] = 1
  Image.fromarray(classes).save(workdir / 'map.png')
  sample.run(config, workdir, {'map': str(workdir / 'map.png')})
  mask = saved(workdir)['mask']
  assert mask.shape == (6, 32, 32)
  assert (mask[:, 8:24, 8:24] == 1).all()
  assert (mask == 25).sum() == 6 * (32 * 32 - 16 * 16)


def test_images_to_begin_with(workdir):
  config = configs.of_task('text')
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


def test_a_sketch_goes_with_its_samples(workdir):
  config = configs.of_task('text')
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


def test_classes_in_turn(workdir):
  config = configs.of_task('class', level=0)
  sample.run(config, workdir, {'label': 'red circle, 7', 'count': 3})
  assert saved(workdir)['class'].tolist() == [1, 7, 1]


def test_images_of_another_shape(workdir, run):
  config = configs.of_task('text', system='ladm').copy_and_resolve_references()
  config.sample.shape = (24, 40)
  asked = {'prompt': 'a red circle', 'count': 2}
  with pytest.raises(errors.UserError, match=r'=\(24, 40\): the system'):
    sample.run(config, workdir, asked)
  run.system.any_shape = True
  sample.run(config, workdir, asked)
  assert saved(workdir)['arr_0'].shape == (2, 24, 40, 3)
  image = workdir / 'image.png'
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
  with pytest.raises(errors.UserError, match='must be a square with an image'):
    sample.run(config, workdir, {**asked, 'image': image, 'strength': 0.5})
