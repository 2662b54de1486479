"""Images are asked for with values, and depend on nothing but their number."""

import contextlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import systems
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import painter
from tests.helpers import system_weights


NAMES = scenes.LABEL_NAMES


def tiny(devices):
  """Returns a small model of classes with random weights."""
  config = configs.load(
    'diffit_shapes.py:debug',
    data__image_size=16,
    network__window=4,
    sample__steps=2,
    sample__solver='euler',
  )
  system = systems.create(config)
  mesh = mesh_lib.create(config.mesh, jax.devices()[:devices])
  weights = jax.device_put(
    system_weights.weights_of(system), mesh_lib.replicated(mesh)
  )
  return pipeline.Pipeline(system, weights, mesh, config, NAMES)


@pytest.fixture(scope='module')
def pipe():
  return tiny(devices=1)


def made_by(pipe, count, batch_size, first=0, **values):
  """Returns images and latents, and the classes that were drawn."""
  request = pipe.request(count=count, seed=3, **values)
  batches = list(pipe.stream(request, first, batch_size))
  join = lambda get: np.concatenate([get(made) for made in batches])
  np.testing.assert_array_equal(join(lambda m: m.numbers), range(first, count))
  return (
    join(lambda m: m.images),
    join(lambda m: m.scales[-1]),
    join(lambda m: m.rows['class']),
  )


def same(got, want):
  """Compares images within one grey level in 99.9 %, latents within 1e-4."""
  difference = np.abs(got[0].astype(int) - want[0].astype(int))
  assert (difference <= 1).mean() >= 0.999
  np.testing.assert_allclose(got[1], want[1], atol=1e-4)
  np.testing.assert_array_equal(got[2], want[2])


def test_an_image_depends_on_its_number_alone(pipe):
  many = made_by(pipe, count=50, batch_size=16)
  assert many[0].shape == (50, 16, 16, 3)
  assert np.abs(many[1][1:] - many[1][:-1]).max((1, 2, 3)).min() > 0.1
  few = tuple(x[:5] for x in many)
  same(made_by(pipe, count=5, batch_size=16), few)
  same(made_by(pipe, count=5, batch_size=4), few)
  same(made_by(pipe, count=5, batch_size=1), few)
  same(made_by(pipe, count=5, batch_size=4, first=3), [x[3:5] for x in many])
  all_devices = tiny(devices=8)
  same(made_by(all_devices, count=50, batch_size=16), many)
  same(made_by(all_devices, count=5, batch_size=4), few)


def test_classes_are_drawn_from_seed_and_number(pipe):
  classes = made_by(pipe, count=50, batch_size=16)[2]
  assert 12 < len(set(classes)) <= len(NAMES) - 1
  assert classes.min() >= 1
  # The order of seeds and numbers is not confused.
  other = pipe.plan(pipe.request(count=50, seed=4)).rows(np.arange(50))['class']
  assert (other != classes).mean() > 0.8
  plan = pipe.plan(pipe.request(count=1, seed=3))
  np.testing.assert_array_equal(plan.rows(np.arange(50))['class'], classes)
  drawn = plan.rows(np.arange(24_000))['class']
  counts = np.bincount(drawn, minlength=25)[1:]
  assert counts.min() > 850  # 1,000 of each, deviation 31
  assert counts.max() < 1150


@contextlib.contextmanager
def compilations(caplog):
  """Collects the names of what is compiled."""
  found = []
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    yield found
  lines = (record.getMessage() for record in caplog.records)
  found += [line for line in lines if 'XLA compilation' in line]


def test_another_request_compiles_nothing(pipe, caplog):
  with compilations(caplog) as found:
    pipe(label='red circle', count=3, guidance=3.0)
  assert found  # they are seen
  for other in (
    {'label': 'blue square'},
    {'label': [3, 'green cross']},
    {'label': 7, 'seed': 2**40},
    {'label': 7, 'guidance': 1.5},
    {},
  ):
    with compilations(caplog) as found:
      pipe(**{'count': 3, 'guidance': 3.0, **other})
    assert found == []


def painted(monkeypatch, task, names=NAMES, **fields):
  """Returns a pipeline of a task whose program is trivial."""
  monkeypatch.setattr(system_lib, 'generate', painter.paint)
  config = configs.of_task(task).copy_and_resolve_references()
  with config.unlocked():
    for name, value in fields.pop('config', {}).items():
      section, field = name.split('.')
      config[section][field] = value
  mesh = mesh_lib.create(config.mesh)
  system = painter.make(**fields)
  return pipeline.Pipeline(system, None, mesh, config, names)


@pytest.mark.parametrize(
  ('task', 'first', 'others'),
  [
    ('text', {'prompt': 'a red circle'}, [{'prompt': ''}, {'prompt': 'red'}]),
    (
      'layout',
      {'layout': [('red circle', (0.1, 0.1, 0.4, 0.4))]},
      [{'layout': [('blue square', (0, 0, 1, i / 3)) for i in (1, 2, 3)]}],
    ),
    (
      'scene_graph',
      {'graph': 'red circle, left of, blue square'},
      [
        {
          'graph': 'red circle A, left of, blue square; blue square, above,'
          ' red circle B; red circle B, left of, red circle A'
        }
      ],
    ),
    (
      'label',
      {'labels': 'red circle'},
      [{'labels': ['red circle', 'blue square', 'red circle']}],
    ),
  ],
)
def test_conditions_of_any_length_have_one_program(
  monkeypatch, caplog, task, first, others
):
  pipe = painted(monkeypatch, task)
  pipe(count=2, **first)
  for other in others:
    with compilations(caplog) as found:
      images = pipe(count=2, seed=5, **other)
    assert images.shape == (2, 32, 32, 3)
    assert found == []


def test_values_become_rows(monkeypatch):
  pipe = painted(monkeypatch, 'layout')
  boxes = [('red circle', (0.1, 0.2, 0.3, 0.4)), ('blue square', [0, 0, 1, 1])]
  dicts = [{'label': name, 'box': box} for name, box in boxes]
  rows = [
    next(pipe.stream(pipe.request(layout=layout, count=1))).rows
    for layout in (boxes, dicts, [boxes])
  ]
  np.testing.assert_allclose(rows[0]['boxes'][0, 0], [0.1, 0.2, 0.3, 0.4])
  for other in rows[1:]:
    for name, want in rows[0].items():
      np.testing.assert_array_equal(other[name], want)
  # One image for each of several values, which serve in turn beyond.
  two = pipe.request(layout=[boxes, boxes[:1]])
  (made,) = pipe.stream(two)
  assert made.rows['n_boxes'].tolist() == [2, 1]
  five = pipe.request(layout=[boxes, boxes[:1]], count=5)
  counts = [made.rows['n_boxes'].tolist() for made in pipe.stream(five)]
  assert counts == [[2, 1, 2, 1], [2]]
  assert len(pipe(layout=boxes)) == 6  # config.sample.count

  pipe = painted(monkeypatch, 'text')
  image = Image.new('RGB', (32, 32), (255, 0, 0))
  asked = {'image': [image, np.zeros((32, 32, 3), np.uint8)], 'strength': 1}
  (made,) = pipe.stream(pipe.request('a circle', **asked))
  assert made.rows['caption'].tolist() == [b'a circle'] * 2
  assert made.images[0].reshape(-1, 3).tolist() == [[255, 0, 0]] * 1024
  assert made.images[1].max() == 0
  mask = np.zeros((32, 32), bool)
  mask[:16] = True
  images = pipe('a circle', image=image, mask=mask, strength=0.5, count=1)
  assert (images[0, 16:] == (255, 0, 0)).all()  # what is known is put back
  assert (images[0, :16] == (191, 64, 64)).all()
  with pytest.raises(errors.UserError, match='for 2 and 3 images'):
    pipe(['a', 'b', 'c'], **asked)
  masks = np.stack([mask, ~mask])
  (made,) = pipe.stream(pipe.request('a', image=image, mask=masks))
  assert made.rows['inpaint_mask'].shape == (2, 32, 32)
  for wrong in (np.zeros((3, 32, 32), np.uint8), 7):
    with pytest.raises(errors.UserError, match='image: an array'):
      pipe.request('a', image=wrong, strength=0.5)
  with pytest.raises(errors.UserError, match='image is an empty array'):
    pipe.request('a', image=np.zeros((0, 8, 8, 3), np.uint8), strength=0.5)


def test_a_photograph_that_is_cropped_is_said(monkeypatch, caplog):
  pipe = painted(monkeypatch, 'text')
  photo = np.zeros((20, 40, 3), np.uint8)
  with caplog.at_level(logging.WARNING, 'absl'):
    pipe.request('a', image=photo, strength=0.5)
  (line,) = [r.getMessage() for r in caplog.records]
  assert 'image is 40 x 20 px; it is cropped' in line


def test_what_a_model_takes(monkeypatch, pipe):
  assert pipe.requests[:6] == (
    *('label', 'image', 'mask', 'strength', 'split', 'count'),
  )
  assert {'seed', 'steps', 'guidance', 'solver', 'churn'} <= set(pipe.requests)
  assert {'last_scale', 'shape', 'prompt', 'sketch'}.isdisjoint(pipe.requests)
  assert pipe.stages == ('16x16',)
  wide = painted(monkeypatch, 'superres', any_shape=True, stage_count=3)
  assert set(wide.requests) >= {'image', 'sketch', 'shape', 'last_scale'}
  assert {'mask', 'strength'}.isdisjoint(wide.requests)


def test_an_empty_prompt_is_the_empty_caption(monkeypatch):
  pipe = painted(monkeypatch, 'text')
  (made,) = pipe.stream(pipe.request('', count=2))
  assert made.rows['caption'].tolist() == [b'', b'']
  (absent,) = pipe.stream(pipe.request(count=2))
  assert b'' not in absent.rows['caption']  # those of the test split


def test_requests_that_are_refused(pipe):
  def refused(**values):
    with pytest.raises(errors.UserError) as error:
      pipe.request(**values)
    assert '\n' not in str(error.value)
    return str(error.value)

  assert 'prompt is no condition of the task' in refused(prompt='a circle')
  assert 'which takes label' in refused(layout=[])
  assert 'sketch needs a predictor' in refused(sketch='a.png')
  assert 'shape is no input of the system' in refused(shape=(8, 8))
  assert 'last_scale is no input of this model' in refused(last_scale=0)
  assert 'colour is no input of this model' in refused(colour='red')
  assert "label='': is empty" in refused(label='')
  assert 'label=[]: is empty' in refused(label=[])
  assert 'numbers are 1..24' in refused(label=25)
  assert 'count=0: must be' in refused(count=0)
  assert 'count=True' in refused(count=True)
  assert 'count=2.0' in refused(count=2.0)
  assert 'seed=-1: must be a whole number in [0, 92' in refused(seed=-1)
  assert 'seed=9223372036854775808' in refused(seed=2**63)
  assert 'guidance=inf: must be a finite number' in refused(
    guidance=float('inf')
  )
  assert 'guidance=nan: must be a finite number' in refused(
    guidance=float('nan')
  )
  assert 'guidance=-1.0: must be in [0, 1000]' in refused(guidance=-1)
  assert "guidance='2': must be a float" in refused(guidance='2')
  assert 'strength=nan: must lie' in refused(strength=float('nan'))
  assert 'steps=0: must be in [1, 1000000]' in refused(steps=0)
  assert '2 values, must be one number' in refused(steps=(2, 3))
  assert "solver='fast': must be one of" in refused(solver='fast')
  assert 'guidance_interval=(0.8, 0.2): must be' in refused(
    guidance_interval=[0.8, 0.2]
  )
  black = np.zeros((16, 16, 3), np.uint8)
  message = refused(label=1, image=black, strength=0.1)
  assert 'strength 0.1 of 2 steps leaves none' in message
  with pytest.raises(errors.UserError, match=r'first=9: must lie in \[0, 2\]'):
    pipe.stream(pipe.request(count=2), first=9)


def missing_data(monkeypatch, task, **config):
  values = {'data.name': 'coco', 'data.root': '/none', 'data.year': 2017}
  return painted(monkeypatch, task, config=values | config)


def test_no_data_are_read_where_none_are_needed(monkeypatch):
  pipe = missing_data(monkeypatch, 'none')
  (made,) = pipe.stream(pipe.request(count=3))
  assert made.rows == {}
  assert made.images.shape == (3, 32, 32, 3)
  pipe = missing_data(monkeypatch, 'class')
  (made,) = pipe.stream(pipe.request(count=3))
  assert made.rows.keys() == {'class'}
  pipe = missing_data(monkeypatch, 'class', **{'condition.also': 'camera'})
  (made,) = pipe.stream(pipe.request(count=3))
  assert made.rows['pitch'].tolist() == [0, 0, 0]  # not known
  pipe = missing_data(monkeypatch, 'label')
  assert len(pipe(labels='red circle', count=2)) == 2
  pipe = missing_data(monkeypatch, 'layout')
  assert len(pipe(layout=[('red circle', (0, 0, 1, 1))], count=2)) == 2
  with pytest.raises(errors.UserError) as error:
    pipe(count=2)
  assert error.value.code == errors.MISSING
  assert str(error.value).startswith(
    "give layout: the task 'layout' needs a condition, and the test split is"
    ' not there (/none'
  )
  with pytest.raises(errors.UserError, match='/none'):
    pipe.request(split='val')


def test_a_split_on_demand(pipe):
  (made,) = pipe.stream(pipe.request(split='val', count=2, seed=1))
  assert made.rows['boxes'].shape[0] == 2
  with pytest.raises(errors.UserError, match=r"split is 'value', must be one"):
    pipe.request(split='value')
  with pytest.raises(errors.UserError, match='split=val is for requests wit'):
    pipe.request(split='val', label=1)


def test_a_cascade_makes_batch_by_batch(monkeypatch):
  small = painted(monkeypatch, 'class', config={'data.image_size': 8})
  values = {'condition.also': 'superres', 'sample.batch_size': 3}
  large = painted(monkeypatch, 'class', config=values)
  ramp = jnp.linspace(-1, 1, 8)[:, None]

  def generate(system, weights, keys, batch, *others):
    scales = [jnp.zeros((len(keys), 1))]
    if 'lr_image' not in batch:
      draw = lambda key: jax.random.uniform(key, (8, 8, 3)) * ramp[..., None]
      return jax.vmap(draw)(keys), scales
    return painter.paint(system, weights, keys, batch, *others)[0], scales

  monkeypatch.setattr(system_lib, 'generate', generate)
  pipe = small.with_upsampler(large)
  made = list(pipe.stream(pipe.request(label=[4, 5], count=7)))
  assert [len(part.images) for part in made] == [4, 3]
  whole = np.concatenate([part.images for part in made])
  before = np.concatenate([part.small.images for part in made])
  assert whole.shape == (7, 32, 32, 3)
  np.testing.assert_array_equal(whole[:, ::4, ::4], before)
  np.testing.assert_array_equal(before, small(label=[4, 5], count=7))
  np.testing.assert_array_equal(made[1].rows['lr_image'], made[1].small.images)
  assert made[1].rows['class'].tolist() == [4, 5, 4]
  assert made[1].small.rows.keys() == {'class'}
  assert len(made[1].scales[0]) == 3
  assert 'last_scale' not in pipe.requests

  # The second model alone takes the class, beside its image.
  none = painted(monkeypatch, 'none', config={'data.image_size': 8})
  values = {'condition.also': 'class'}
  pipe = none.with_upsampler(painted(monkeypatch, 'superres', config=values))
  assert 'label' in pipe.requests
  made = next(pipe.stream(pipe.request(label=7, count=2)))
  assert made.rows['class'].tolist() == [7, 7]
  with pytest.raises(errors.UserError, match='class 25 is not known'):
    pipe.request(label=25)
