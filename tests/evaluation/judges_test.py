"""Scores by functions that the user names."""

import json

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.evaluation import judges
from pyramid_jax.metrics import states
from tests.helpers import configs
from tests.helpers import painter


SOURCE = '''
import numpy as np

def nothing(images):
  return [{'boxes': [], 'scores': [], 'labels': []}] * len(images)

def few(images):
  return nothing(images)[1:]

def unequal(images):
  return [{'boxes': [[0, 0, 1, 1]], 'scores': [], 'labels': []}] * len(images)

def half(images):
  """Finds the left half, which some call a cat."""
  h, w = images.shape[1:3]
  box = {'boxes': [[0, 0, w / 2, h]], 'scores': [1], 'labels': ['cat']}
  return [box] * len(images)

half.names = ('cat',)

def brightest(images):
  return images.mean((1, 2))

def flat(images):
  return images.mean((1, 2, 3))

value = 3
'''
NAMES = ('', 'cat', 'dog')


@pytest.fixture
def module(tmp_path, monkeypatch):
  (tmp_path / 'judging.py').write_text(SOURCE)
  monkeypatch.syspath_prepend(str(tmp_path))
  return 'judging'


def config_of(task, **fields):
  config = configs.of_task(task).copy_and_resolve_references()
  values = {f'evaluate.{name}': value for name, value in fields.items()}
  return configs.change(config.unlock(), values).lock()


def layouts(count, boxes, labels):
  return {
    'boxes': np.tile(np.float32(boxes), (count, 1, 1)),
    'labels': np.tile(labels, (count, 1)),
    'n_boxes': np.full(count, len(labels)),
  }


def test_a_detector_in_batches(module):
  """The category that it does not know is not asked for."""
  found = judges.find(config_of('layout', detector=f'{module}:half'), NAMES)
  assert found.keys() == {'detector'}
  measure = found['detector']
  assert measure.judge.label.startswith('judging:half (sha256 ')
  images = np.zeros((4, 8, 8, 3), np.uint8)
  examples = layouts(4, [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], [1, 2])
  examples['boxes'][3, 0] = 0.9, 0, 1, 1  # not where it is found
  start = states.PerImage(measure=measure)
  whole = start
  for rows in ([2, 3], [0, 1]):
    batch = states.Batch(
      places=np.array(rows),
      images=images[rows],
      examples={name: x[rows] for name, x in examples.items()},
      real=images[rows[:1]],
    )
    whole = whole.merge(start.update(batch))
  rows = {row.name: row for row in whole.finish()}
  assert rows.keys() == {'layout_ap', 'layout_ap50', 'layout_ap75'}
  for row in rows.values():  # precision 1 up to a recall of 3/4
    np.testing.assert_allclose(row.score.value, 76 / 101)
    assert (row.score.n, row.ceiling.value, row.ceiling.n) == (4, 1, 2)


def test_a_classifier(module):
  measure = judges.find(
    config_of('class', classifier=f'{module}:brightest'), NAMES
  )['classifier']
  images = np.zeros((4, 8, 8, 3), np.uint8)
  images[np.arange(4), ..., [0, 1, 2, 2]] = 200
  batch = states.Batch(
    places=np.arange(4),
    images=images,
    examples={'class': np.array([1, 2, 3, 1])},
  )
  rows = {
    row.name: row.score
    for row in states.PerImage(measure=measure).update(batch).finish()
  }
  assert rows['classifier_acc'].value == 0.75
  assert rows['classifier_acc_5'].value == 1


def test_a_classifier_sees_the_objects_of_layouts(module):
  measure = judges.find(
    config_of('layout', classifier=f'{module}:brightest'), NAMES
  )['classifier']
  images = np.zeros((2, 8, 8, 3), np.uint8)
  images[:, :, :4, 0] = images[:, :, 4:, 1] = 200  # red, then green
  examples = layouts(2, [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], [1, 2])
  examples['labels'][1] = 2
  examples['n_boxes'][1] = 1
  batch = states.Batch(places=np.arange(2), images=images, examples=examples)
  rows = states.PerImage(measure=measure).update(batch).finish()
  np.testing.assert_allclose(rows[0].score.value, 2 / 3)


@pytest.mark.parametrize(
  ('task', 'field', 'name', 'message', 'code'),
  [
    ('layout', 'detector', 'judging', 'must be MODULE:FUNCTION', errors.USAGE),
    ('layout', 'detector', 'not_there:x', 'PYTHONPATH', errors.MISSING),
    ('layout', 'detector', 'judging:x', 'no function x', errors.MISSING),
    ('layout', 'detector', 'judging:value', 'no function val', errors.MISSING),
    ('class', 'detector', 'judging:half', 'the tasks layout', errors.USAGE),
    ('text', 'classifier', 'judging:flat', 'the tasks class', errors.USAGE),
  ],
)
def test_functions_that_are_not_there(module, task, field, name, message, code):
  with pytest.raises(errors.UserError, match=message) as error:
    judges.find(config_of(task, **{field: name}), NAMES)
  assert str(error.value).startswith(f'config.evaluate.{field}={name}: ')
  assert '\n' not in str(error.value)
  assert error.value.code == code


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('few', 'must return 2 results in a list'),
    ('unequal', '1 boxes, 0 scores and 0 labels'),
    ('brightest', 'must return 2 results in a list'),
  ],
)
def test_detectors_that_return_something_else(module, name, message):
  measure = judges.find(
    config_of('layout', detector=f'{module}:{name}'), NAMES
  )['detector']
  batch = states.Batch(
    places=np.arange(2),
    images=np.zeros((2, 8, 8, 3), np.uint8),
    examples=layouts(2, [[0, 0, 1, 1]], [1]),
  )
  with pytest.raises(errors.UserError, match=message) as error:
    measure.of_images(batch)
  assert error.value.code == errors.DATA


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('flat', 'classes. numbers, got'),
    ('brightest', 'knows 3 classes, the data'),
  ],
)
def test_classifiers_that_return_something_else(module, name, message):
  measure = judges.find(
    config_of('class', classifier=f'{module}:{name}'), NAMES
  )['classifier']
  batch = states.Batch(
    places=np.arange(2),
    images=np.zeros((2, 8, 8, 3), np.uint8),
    examples={'class': np.array([1, 4])},
  )
  with pytest.raises(errors.UserError, match=message):
    measure.of_images(batch)


def test_a_run_has_them_in_its_table(module, monkeypatch, tmp_path):
  paint = lambda system, weights, keys, batch, *_: (batch['image'], [])
  painter.install(monkeypatch, generate=paint)
  config = config_of('layout', detector=f'{module}:nothing')
  evaluate.run(config, tmp_path, {})
  table = json.loads((tmp_path / 'samples' / 'scores.json').read_text())
  score = table['scores']['layout_ap']
  assert (score['value'], score['ceiling'], score['n']) == (0, 0, 10)
  assert 'detector judging:nothing (sha256 ' in table['about']
  assert jax.device_count() == 8


def test_saved_samples_are_judged(module, tmp_path):
  """By their saved layouts; with fewer conditions they are refused."""
  config = config_of('layout', detector=f'{module}:half')
  rows = layouts(5, [[0, 0, 0.5, 1]], [1])
  images = np.zeros((5, 32, 32, 3), np.uint8)
  np.savez(tmp_path / 'samples.npz', arr_0=images, **rows)
  (tmp_path / 'labels.json').write_text(json.dumps(NAMES))
  config = configs.change(
    config.copy_and_resolve_references().unlock(), {'data.name': 'coco'}
  )
  evaluate.run(config, tmp_path, {'samples': tmp_path / 'samples.npz'})
  table = json.loads((tmp_path / 'scores.json').read_text())
  score = table['scores']['layout_ap']
  assert (score['value'], score['n']) == (1, 5)
  assert 'detector judging:half (sha256 ' in table['about']
  np.savez(tmp_path / 'bare.npz', arr_0=images, caption=np.zeros(5))
  with pytest.raises(errors.UserError, match='no boxes, labels, n_boxes of'):
    evaluate.run(config, tmp_path, {'samples': tmp_path / 'bare.npz'})
