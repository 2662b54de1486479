"""A score is a ruler if it orders clean, blurred, more blurred, shuffled."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from pyramid_jax import config as config_lib
from pyramid_jax.data import holes
from pyramid_jax.data import synthetic as shapes
from pyramid_jax.data.synthetic import condition_alignment as alignment
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import restoration
from tests.helpers import shapes_renderer


COUNT = 120
LEVELS = {
  'none': 1,
  'text': 2,
  'layout': 2,
  'label': 1,
  'scene_graph': 2,
  'class': 0,
  'map': 2,
  'superres': 2,
  'inpaint': 2,
}
SIZE = 64


@functools.cache
def _data(level):
  config = config_lib.base('ldm')
  config.data.level = level
  config.data.image_size = SIZE
  config.data.max_objects = 6
  reader = shapes.ShapesReader(config, 'val')
  indices = np.arange(COUNT)
  batch = reader.batch(indices, indices.astype(np.uint64))
  seed = scenes.split_seed(0, 'val')
  spec = scenes.sample(seed, indices, level)
  drawn = shapes_renderer.render(spec, SIZE)
  u = scenes.uniforms(seed, indices, scenes.INPAINT, holes.UNIFORMS)
  masks = holes.draw(*holes.sample(u).values(), SIZE)
  pictures = {
    'image': drawn['image'],
    'mask': drawn['mask'],
    'lr_image': render.shrink(drawn['image'], 4).astype(np.uint8),
    'inpaint_mask': masks,
  }
  return {**batch, **pictures}, drawn['image']


def _blur(images, sigma):
  x = ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0))
  return np.round(x).astype(np.uint8)


def _values(task, images, examples, **kwargs):
  scores = alignment.scores(task, images, examples, **kwargs)
  return {name: s.value for name, s in scores.items()}


# Scores that a blur moves; counts and backgrounds survive it.
ORDERED = {
  'layout': ('layout_recall', 'layout_f1', 'mIoU', 'category_acc'),
  'label': ('category_acc', 'category_precision'),
  'text': ('caption_acc', 'attribute_acc', 'relation_acc'),
  'scene_graph': ('relation_acc', 'category_acc'),
  'map': ('seg_miou', 'pixel_acc'),
  'superres': ('psnr', 'ssim', 'lr_consistency'),
  'inpaint': ('hole_psnr', 'known_psnr', 'psnr', 'ssim'),
}
UNMOVED = {
  'layout': ('layout_precision', 'count_acc', 'detected_purity'),
  'label': ('count_acc',),
  'text': ('stuff_acc',),
  'scene_graph': (),
  'class': ('class_acc',),
}


# Backgrounds are like each other.
CHANCE = {'ssim': 0.5, 'pixel_acc': 0.4}


@pytest.mark.parametrize('task', ORDERED)
def test_scores_order_clean_blurred_shuffled(task):
  examples, images = _data(LEVELS[task])
  rows = [
    _values(task, x, examples)
    for x in (images, _blur(images, 1), _blur(images, 2))
  ]
  rows.append(_values(task, images, alignment.shuffled(examples, 0)))
  for name in ORDERED[task]:
    values = [row[name] for row in rows]
    assert values == sorted(values, reverse=True), name
    assert values[0] > 0.91, name
    assert values[0] > values[2] > values[3], name
    chance = 20 if 'psnr' in name or name == 'lr_consistency' else 0.2
    assert values[3] < CHANCE.get(name, chance), name


@pytest.mark.parametrize('task', UNMOVED)
def test_the_other_scores_tell_real_from_shuffled(task):
  examples, images = _data(LEVELS[task])
  real = _values(task, images, examples)
  chance = _values(task, images, alignment.shuffled(examples, 0))
  for name in UNMOVED[task]:
    assert real[name] > 0.98, name
    assert chance[name] < 0.45, name


def test_a_mirrored_picture_disobeys_its_layout_not_its_labels():
  examples, images = _data(2)
  mirrored = images[:, :, ::-1]
  assert _values('layout', mirrored, examples)['layout_recall'] < 0.3
  assert _values('label', mirrored, examples)['category_acc'] > 0.98
  values = _values('scene_graph', mirrored, examples)
  assert values['relation_acc/left of'] < 0.2
  assert values['relation_acc/above'] > 0.98
  assert values['relation_acc/inside'] > 0.98


def test_distributions_of_unconditional_pictures():
  examples, images = _data(1)
  scores = alignment.scores('none', images, examples, real_images=images)
  assert set(scores) == {
    'tv_count',
    'tv_colour',
    'tv_shape',
    'tv_pos',
    'shape_fd',
  }
  assert abs(scores['shape_fd'].value) < 1e-6
  assert all(s.value < 0.15 for s in scores.values())
  copies = np.repeat(images[:1], COUNT, 0)
  worse = alignment.scores('none', copies, examples, real_images=images)
  assert all(worse[name].value > scores[name].value + 0.2 for name in scores)
  # Without the level the examples themselves are the measure.
  lean = {k: v for k, v in examples.items() if k != 'level'}
  assert alignment.scores('none', images, lean)['tv_colour'].value < 0.02


def test_turned_shapes_are_recognised_by_the_level():
  examples, images = _data(3)
  turned = _values('label', images, examples)['category_acc']
  examples = {k: v for k, v in examples.items() if k != 'level'}
  upright = _values('label', images, examples)['category_acc']
  assert turned > 0.98 > upright


@pytest.mark.parametrize('task', alignment.TASKS)
def test_bounds_stand_beside_every_score(task):
  examples, images = _data(LEVELS[task])
  rows = alignment.with_bounds(task, _blur(images, 2), examples, images, 0)
  names = [row.name for row in rows]
  if task == 'superres':
    bicubic = restoration.bicubic(examples['lr_image'], (SIZE, SIZE))
    want = image_quality.psnr(bicubic, images).mean()
    assert rows[0].name == 'psnr'
    assert rows[0].floor.value == pytest.approx(want)
  # What costs nothing is consistent with what it was made from.
  free = ('lr_consistency', 'known_psnr')
  rows = [row for row in rows if row.name not in free]
  assert len(set(names)) == len(names)
  assert 'shape_fd' in names
  for row in rows:
    assert row.ceiling is not None
    assert row.score.low <= row.score.value + 1e-9
    distance = row.name == 'shape_fd' or row.name.startswith('tv_')
    assert (row.floor is None) == distance
    if row.floor is not None:
      assert row.floor.value < row.ceiling.value
      assert row.score.value <= row.ceiling.value + 1e-9


def test_reconstructions():
  examples, images = _data(1)
  same = alignment.reconstruction_scores(images, images, examples)
  assert same['psnr'].value == same['psnr'].high == 100
  assert same['ssim'].value == pytest.approx(1)
  assert same['layout_recall'].value > 0.99
  blurred = alignment.reconstruction_scores(_blur(images, 1), images, examples)
  assert 20 < blurred['psnr'].value < 35
  assert 0.5 < blurred['ssim'].value < 0.99


def test_shuffling_moves_every_example():
  examples = {'id': np.arange(50), 'labels': np.arange(100).reshape(50, 2)}
  moved = alignment.shuffled(examples, 3)
  assert sorted(moved['id']) == list(range(50))
  assert (moved['id'] != examples['id']).all()
  np.testing.assert_array_equal(moved['labels'][:, 0], 2 * moved['id'])
  assert (moved['id'] != alignment.shuffled(examples, 4)['id']).any()
  with pytest.raises(ValueError, match='at least 2 examples, got 1'):
    alignment.shuffled({'id': np.arange(1)}, 0)


def test_bad_values():
  examples, images = _data(1)
  with pytest.raises(ValueError, match="task must be .*got 'sketch'"):
    alignment.scores('sketch', images, examples)
  with pytest.raises(ValueError, match='measured on shapes only'):
    alignment.scores('label', images, examples, ('', 'person'))
  with pytest.raises(ValueError, match=r"needs examples with \['caption'\]"):
    alignment.scores('text', images, {'labels': examples['labels']})
  with pytest.raises(ValueError, match='5 images and 120 examples'):
    alignment.scores('label', images[:5], examples)
  with pytest.raises(ValueError, match='uint8'):
    alignment.scores('label', images / 255, examples)
  with pytest.raises(ValueError, match='equally many'):
    alignment.with_bounds('label', images, examples, images[:5])
