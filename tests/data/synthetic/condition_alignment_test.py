"""A score is a ruler if it orders clean, blurred, more blurred, shuffled."""

import dataclasses
import functools
import json
import pathlib

import numpy as np
import pytest
from scipy import ndimage

from pyramid_jax import config as config_lib
from pyramid_jax.data import synthetic as shapes
from pyramid_jax.data.pixels import holes
from pyramid_jax.data.synthetic import condition_alignment as alignment
from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.evaluation import measures
from pyramid_jax.metrics import states
from tests.helpers import aligned
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


@pytest.mark.turns(3)
@pytest.mark.parametrize('task', ORDERED)
def test_scores_order_clean_blurred_shuffled(task):
  examples, images = _data(LEVELS[task])
  rows = [
    aligned.values(task, x, examples)
    for x in (images, _blur(images, 1), _blur(images, 2))
  ]
  rows.append(aligned.values(task, images, aligned.shuffled(examples, 0)))
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
  real = aligned.values(task, images, examples)
  chance = aligned.values(task, images, aligned.shuffled(examples, 0))
  for name in UNMOVED[task]:
    assert real[name] > 0.98, name
    assert chance[name] < 0.45, name


def test_a_mirrored_picture_disobeys_its_layout_not_its_labels():
  examples, images = _data(2)
  mirrored = images[:, :, ::-1]
  assert aligned.values('layout', mirrored, examples)['layout_recall'] < 0.3
  assert aligned.values('label', mirrored, examples)['category_acc'] > 0.98
  values = aligned.values('scene_graph', mirrored, examples)
  assert values['relation_acc/left of'] < 0.2
  assert values['relation_acc/above'] > 0.98
  assert values['relation_acc/inside'] > 0.98


def test_distributions_of_unconditional_pictures():
  examples, images = _data(1)
  scores = aligned.values('none', images, examples, real=images)
  assert set(scores) == {
    'tv_count',
    'tv_colour',
    'tv_shape',
    'tv_pos',
    'shape_fd',
  }
  assert abs(scores['shape_fd']) < 1e-6
  assert all(value < 0.15 for value in scores.values())
  copies = np.repeat(images[:1], COUNT, 0)
  worse = aligned.values('none', copies, examples, real=images)
  assert all(worse[name] > scores[name] + 0.2 for name in scores)
  # Without the level the examples themselves are the measure.
  lean = {k: v for k, v in examples.items() if k != 'level'}
  assert aligned.values('none', images, lean)['tv_colour'] < 0.02


def test_turned_shapes_are_recognised_by_the_level():
  examples, images = _data(3)
  turned = aligned.values('label', images, examples)['category_acc']
  examples = {k: v for k, v in examples.items() if k != 'level'}
  upright = aligned.values('label', images, examples)['category_acc']
  assert turned > 0.98 > upright


RECORDED = pathlib.Path(__file__).parent / 'recorded' / 'alignment.json'
FEW = 40  # images of the recorded tables


def _few(task):
  """The first examples; text and super-resolution come with edges."""
  examples, images = _data(LEVELS[task])
  examples = {name: x[:FEW] for name, x in examples.items()}
  if task in ('text', 'superres'):
    examples['edges'] = 255 * np.uint8(map_scores.borders(examples['mask']))
  return examples, images[:FEW]


def _agrees(rows, name):
  """Compares with what one call with all images gave before there were states.

  Made by `with_bounds` and `reconstruction_scores` of commit 62eefca.
  """
  recorded = json.loads(RECORDED.read_text())[name]
  assert [row.name for row in rows] == list(recorded)
  for row in rows:
    for got, want in zip(
      (row.score, row.ceiling, row.floor), recorded[row.name], strict=True
    ):
      assert (got is None) == (want is None), row.name
      if got is not None:
        np.testing.assert_allclose(
          dataclasses.astuple(got), want, rtol=1e-7, atol=1e-7, err_msg=row.name
        )


@pytest.mark.parametrize('task', alignment.TASKS)
def test_bounds_stand_beside_every_score(task):
  """Batch by batch, each with a state of its own, and all together."""
  examples, images = _few(task)
  made = _blur(images, 1.5)
  rows = aligned.rows(task, made, examples, images, size=7, merged=True)
  _agrees(rows, task)
  names = [row.name for row in rows]
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
      better, worse = row.ceiling.value, row.floor.value
      if row.name in ('edge_chamfer', 'edge_missed'):  # px
        better, worse = worse, better
      assert worse < better


def test_without_levels_conditions_are_the_measure():
  examples, images = _few('none')
  del examples['level']
  rows = aligned.rows('none', _blur(images, 1.5), examples, images, size=9)
  _agrees(rows, 'none without level')


def test_one_image_has_no_bounds():
  examples, images = _few('layout')
  one = {name: x[:1] for name, x in examples.items()}
  measure = alignment.Alignment(task='layout', level=2)
  batch = states.Batch(
    places=np.arange(1), images=images[:1], examples=one, real=images[:1]
  )
  rows = states.PerImage(measure=measure).update(batch).finish()
  assert rows[0].score.value == 1
  assert {row.ceiling for row in rows} == {row.floor for row in rows} == {None}


def test_reconstructions():
  examples, images = _data(1)
  measure = measures.Reconstruction(level=1)
  same = aligned.of_measure(measure, images, examples, images)
  same = {row.name: row.score for row in same}
  assert same['psnr'].value == same['psnr'].high == 100
  assert same['ssim'].value == pytest.approx(1)
  assert same['layout_recall'].value > 0.99
  few = {name: x[:FEW] for name, x in examples.items()}
  made, real = _blur(images[:FEW], 1), images[:FEW]
  rows = aligned.of_measure(measure, made, few, real, size=7, merged=True)
  _agrees(rows, 'reconstructions')


def test_shuffling_moves_every_example():
  examples = {'id': np.arange(50), 'labels': np.arange(100).reshape(50, 2)}
  moved = aligned.shuffled(examples, 3)
  assert sorted(moved['id']) == list(range(50))
  assert (moved['id'] != examples['id']).all()
  np.testing.assert_array_equal(moved['labels'][:, 0], 2 * moved['id'])
  assert (moved['id'] != aligned.shuffled(examples, 4)['id']).any()
  with pytest.raises(ValueError, match='at least 2 examples, got 1'):
    aligned.shuffled({'id': np.arange(1)}, 0)


def test_bad_values():
  examples, images = _data(1)
  with pytest.raises(ValueError, match="task must be .*got 'sketch'"):
    aligned.rows('sketch', images, examples)
  with pytest.raises(ValueError, match=r"needs examples with \['caption'\]"):
    aligned.rows('text', images, {'labels': examples['labels']})
  few = {name: x[:5] for name, x in examples.items()}
  with pytest.raises(ValueError, match='120 images and 5 examples'):
    alignment.check('label', images, few)
  with pytest.raises(ValueError, match='uint8'):
    aligned.rows('label', images / 255, examples)
