"""Batches of shapes: conditions from the host, images from the device."""

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.data import synthetic as shapes
from pyramid_jax.data.synthetic import reader as reader_lib
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.data.synthetic import text
from tests.helpers import shapes_renderer


def _config(task='none', level=1, **condition):
  config = config_lib.base('ldm')
  config.data.level = level
  config.data.image_size = 32
  config.data.seed = 3
  config.data.max_objects = 6
  config.condition.task = task
  config.condition.max_objects = 9
  for key, value in condition.items():
    config.condition[key] = value
  return config


def _batch(config, split='train', count=16, draw=0, **kwargs):
  reader = shapes.ShapesReader(config, split, **kwargs)
  draws = np.arange(count, dtype=np.uint64) + np.uint64(draw)
  return reader, reader.batch(np.arange(count), draws)


def test_conditions_of_a_batch():
  reader, batch = _batch(_config(level=2), 'val')
  spec = scenes.sample(3 + 2**32, np.arange(16), 2)
  np.testing.assert_array_equal(batch['boxes'], spec.boxes)
  np.testing.assert_array_equal(batch['labels'], spec.labels)
  np.testing.assert_array_equal(batch['n_boxes'], spec.n_boxes)
  assert not batch['box_flags'].any()
  assert batch['box_flags'].shape == batch['labels'].shape
  np.testing.assert_array_equal(batch['id'], np.arange(16))
  assert (
    batch['caption'][0].decode()
    == text.captions(3 + 2**32, np.arange(1), spec_of(spec, 1))[0]
  )
  np.testing.assert_array_equal(
    batch['caption_ids'][0],
    text.tokenizer().encode(batch['caption'][0].decode()),
  )
  np.testing.assert_array_equal(
    batch['caption_mask'], batch['caption_ids'] != 0
  )
  assert batch['triples'].shape == (16, 12, 3)
  largest = spec.geometry[..., 2].argmax(1)
  np.testing.assert_array_equal(
    batch['class'], spec.labels[np.arange(16), largest]
  )
  dtypes = {key: str(value.dtype) for key, value in batch.items()}
  for key in ('labels', 'n_boxes', 'class', 'triples', 'caption_ids', 'level'):
    assert dtypes[key] == 'int32'
  assert dtypes['boxes'] == 'float32'
  assert dtypes['id'] == 'int64'
  assert len(reader) == 2**31 - 1
  assert reader.label_names[1] == 'red circle'
  assert len(reader.label_names) == 25


def spec_of(spec, count):
  fields = {k: v[:count] for k, v in vars(spec).items()}
  return scenes.Scenes(**fields)


def test_boxes_are_padded_to_the_config():
  _, batch = _batch(_config(level=1))
  assert batch['boxes'].shape == (16, 6, 4)
  assert batch['parents'].shape == (16, 6)
  assert (batch['parents'] == -1).all()
  np.testing.assert_array_equal(
    batch['labels'] > 0, np.arange(6) < batch['n_boxes'][:, None]
  )
  _, batch = _batch(_config(level=3))  # nothing is cut off
  assert batch['boxes'].shape == (16, 9, 4)


def _images(level):
  spec = scenes.sample(3, np.arange(16), level)
  arrays = shapes_renderer.spec_arrays(spec)
  return np.asarray(jax.jit(lambda x: render.image(x, 32))(arrays))


@pytest.mark.parametrize('level', [0, 3])
def test_finish_draws_the_pictures_inside_jit(level):
  config = _config('layout', level=level)
  config.data.maps = ('edges', 'mask')
  reader, batch = _batch(config)
  out = jax.jit(reader.finish)(batch)
  spec = scenes.sample(3, np.arange(16), level)
  want = shapes_renderer.render(spec, 32)
  image = np.asarray(out['image'])
  assert image.dtype == np.float32
  levels = (image + 1) * 127.5
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
  assert np.abs(levels - want['image']).max() <= 1 + 1e-4
  np.testing.assert_array_equal(_images(level), np.round(levels))
  assert out['mask'].dtype == np.uint8
  assert (np.asarray(out['mask']) != want['mask']).mean() < 1e-3
  assert out['edges'].dtype == np.float32
  assert np.abs(out['edges'] - want['edge'] / 255).max() < 0.02
  np.testing.assert_array_equal(out['condition_ids'], batch['condition_ids'])


def test_maps_only_when_asked():
  reader, batch = _batch(_config())
  out = jax.eval_shape(reader.finish, batch)
  assert out['image'].shape == (16, 32, 32, 3)
  assert not set(out) & {'mask', 'edge', 'edges', 'inpaint_mask'}


@pytest.mark.parametrize('name', ['edges', 'mask', 'inpaint_mask'])
def test_a_map_beside_any_task(name):
  config = _config('text', level=0)
  config.data.maps = (name,)
  reader, batch = _batch(config, count=2)
  out = jax.eval_shape(reader.finish, batch)
  found = set(out) & {'mask', 'edge', 'edges', 'inpaint_mask'}
  assert found == {name}
  assert out[name].shape == (2, 32, 32)


def test_low_resolution_pictures_are_box_filtered():
  reader, batch = _batch(_config('superres', level=2))
  out = jax.jit(reader.finish)(batch)
  pictures = _images(2)
  want = np.round(pictures.reshape(16, 8, 4, 8, 4, 3).mean((2, 4)))
  low = np.asarray(out['lr_image'])
  assert low.shape == (16, 8, 8, 3)
  assert low.dtype == np.float32
  np.testing.assert_allclose((low + 1) * 127.5, want, atol=1e-4)

  config = _config('text', also='superres')
  config.data.lr_factor = 2
  reader, batch = _batch(config)
  assert jax.eval_shape(reader.finish, batch)['lr_image'].shape[1:3] == (16, 16)


def test_holes_depend_on_the_index_alone():
  reader, batch = _batch(_config('inpaint'))
  out = jax.jit(reader.finish)(batch)
  mask = np.asarray(out['inpaint_mask'])
  assert mask.shape == (16, 32, 32)
  assert mask.dtype == np.uint8
  assert set(np.unique(mask)) == {0, 1}
  assert len({m.tobytes() for m in mask}) == 16
  again = reader.batch(np.array([7]), np.array([99], np.uint64))
  again = np.asarray(jax.jit(reader.finish)(again)['inpaint_mask'])
  np.testing.assert_array_equal(again[0], mask[7])
  _, other = _batch(_config('inpaint'), 'test')
  assert (other['hole_boxes'] != batch['hole_boxes']).any()


def test_semantic_maps():
  reader, batch = _batch(_config('map', level=2))
  out = jax.jit(reader.finish)(batch)
  assert 'edges' not in out
  want = shapes_renderer.render(scenes.sample(3, np.arange(16), 2), 32)['mask']
  assert out['mask'].dtype == np.uint8
  assert (np.asarray(out['mask']) != want).mean() < 1e-3


def test_pictures_of_conditions_only_for_their_tasks():
  extra = {'mask', 'edges', 'lr_image', 'inpaint_mask'}
  wanted = {
    'map': {'mask'},
    'superres': {'lr_image'},
    'inpaint': {'inpaint_mask'},
  }
  for task in reader_lib.TASKS:
    reader, batch = _batch(_config(task, level=0))
    out = jax.eval_shape(reader.finish, batch)
    assert set(out) & extra == wanted.get(task, set()), task
    assert ('hole_boxes' in batch) == (task == 'inpaint')


def test_one_object_gives_the_class():
  _, batch = _batch(_config('class', level=0))
  np.testing.assert_array_equal(batch['class'], batch['labels'][:, 0])
  assert 1 <= batch['class'].min() <= batch['class'].max() <= 24


def test_layout_tokens():
  config = _config('layout', encode_crop=True)
  _, batch = _batch(config)
  ids = batch['condition_ids']
  assert ids.shape == (16, 29)
  assert ids.dtype == np.int32
  assert ids[:, -2:].tolist() == [[0, 1023]] * 16
  n = batch['n_boxes'][0]
  first = ids[0, : 3 * n].reshape(n, 3)
  np.testing.assert_array_equal(first[:, 0], batch['labels'][0, :n] - 1)
  x, y = np.round(batch['boxes'][0, :n, :2] * 31).astype(int).T
  np.testing.assert_array_equal(first[:, 1], y * 32 + x)
  assert (ids[0, 3 * n : -2] == 1023).all()


def test_label_tokens_are_shuffled_by_the_draws():
  config = _config('label', level=3)
  batches = [_batch(config, draw=d)[1] for d in (0, 0, 99)]
  ids = [b['condition_ids'] for b in batches]
  np.testing.assert_array_equal(ids[0], ids[1])
  assert (ids[0] != ids[2]).any()
  for tokens in ids:
    for row, labels in zip(tokens, batches[0]['labels'], strict=True):
      assert sorted(row[row != 1023] + 1) == sorted(labels[labels > 0])


@pytest.mark.parametrize('task', ['text', 'scene_graph'])
def test_text_tokens(task):
  config = _config(task, level=2, max_length=90)
  _, batch = _batch(config, full=True)
  ids = batch['condition_ids']
  assert ids.shape == (16, 90)
  assert ids.dtype == np.int32
  spec = scenes.sample(3, np.arange(16), 2)
  texts = [x.decode() for x in batch['caption']]
  if task == 'scene_graph':
    texts = text.graphs(spec, batch['triples'])
  for row, line in zip(ids, texts, strict=True):
    words = [text.VOCABULARY[i] for i in row if i > 3]
    assert words == line.lower().replace(',', ' , ').split()


@pytest.mark.parametrize(
  ('task', 'extra'),
  [
    ('none', set()),
    ('layout', {'condition_ids'}),
    ('text', {'condition_ids', 'caption_ids', 'caption_mask'}),
    ('scene_graph', {'condition_ids', 'triples'}),
  ],
)
def test_training_batches_hold_only_what_the_task_needs(task, extra):
  _, lean = _batch(_config(task), count=2)
  _, full = _batch(_config(task), 'test', count=2)
  texts = {'caption', 'caption_ids', 'caption_mask', 'triples'}
  assert set(lean) & (texts | {'condition_ids'}) == extra
  assert texts <= set(full)
  # Everything of a training batch can enter jit.
  assert all(x.dtype.kind in 'iufb' for x in lean.values())


def test_batches_depend_on_indices_alone():
  reader, batch = _batch(_config('layout'))
  again = reader.batch(np.array([7]), np.array([7], np.uint64))
  for key, value in again.items():
    np.testing.assert_array_equal(value[0], batch[key][7], err_msg=key)


def test_bad_values():
  config = _config()
  with pytest.raises(ValueError, match="split must be one of .*got 'dev'"):
    shapes.ShapesReader(config, 'dev')
  config.data.level = 7
  with pytest.raises(ValueError, match='data.level must be 0..3, got 7'):
    shapes.ShapesReader(config, 'train')
  with pytest.raises(ValueError, match="condition.task is 'sketch', must be"):
    shapes.ShapesReader(_config('sketch'), 'train')
  config = _config()
  config.data.maps = ('mask', 'depth')
  with pytest.raises(ValueError, match="maps is .*'depth'.* of edges, mask, i"):
    shapes.ShapesReader(config, 'train')
  config = _config('superres')
  config.data.image_size = 30
  with pytest.raises(ValueError, match='image_size is 30.*lr_factor = 4'):
    shapes.ShapesReader(config, 'train')
  config = _config('class')
  config.condition.num_classes = 23
  with pytest.raises(ValueError, match='num_classes is 23, must be at least'):
    data.create(config, 'train')
  config = _config('layout', level=3, max_objects=8)
  with pytest.raises(ValueError, match='max_objects must be at least 9.*got 8'):
    shapes.ShapesReader(config, 'train')
