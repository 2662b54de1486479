"""Whatever is asked for, the answer is values or one line, before tracing.

Requests of any values are made, and planned by small models of every task.
"""

import dataclasses
import functools

from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import systems
from pyramid_jax.conditioning import camera
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.pipeline import settings as settings_lib
from tests.helpers import configs
from tests.helpers import hostile
from tests.helpers import system_weights


NAMES = scenes.LABEL_NAMES
TASKS = ('text', 'layout', 'label', 'scene_graph', 'class', 'map', 'superres')
TASKS += ('inpaint',)
IMAGES = ('map', 'image', 'mask', 'sketch')


def asked(names=request_lib.NAMES):
  """Values of one to three fields of a request, of the right kind or not."""
  label = st.sampled_from(NAMES) | hostile.texts()
  place = hostile.numbers() | st.floats(-0.5, 1.5)
  boxes = [st.tuples(place, *(st.just(x) for x in (0.2, 0.9, 0.8)))]
  boxes += [st.tuples(*map(st.just, (0.1, 0.2, 0.9)), place)]
  box = st.one_of(boxes) | st.just((0.1, 0.2, 0.9, 0.8)) | hostile.things()
  thing = st.tuples(label, box) | st.fixed_dictionaries(
    {'label': label, 'box': box}
  )
  layout = st.lists(thing, max_size=9)
  relation = st.tuples(label, st.sampled_from(['left of', 'on']), label)
  graph = st.lists(relation.map(', '.join), max_size=3).map('; '.join)
  own = {
    **dict.fromkeys(IMAGES, hostile.images()),
    'layout': layout | st.lists(layout, max_size=3) | hostile.arrays(),
    'labels': st.lists(label, max_size=4),
    'label': label | st.integers(-2, 30) | st.lists(st.integers(), max_size=3),
    'graph': graph,
    'coarse_latent': hostile.arrays() | st.lists(hostile.arrays(), max_size=2),
    'shape': st.tuples(st.integers(-1, 40), hostile.numbers()),
    'windows': st.tuples(hostile.numbers(), hostile.numbers()),
    **{
      name: st.sampled_from(camera.ATTRIBUTES[name])
      for name in camera.ATTRIBUTES
    },
  }
  anything = hostile.things()
  of = lambda name: own[name] | anything if name in own else anything
  chosen = st.sets(st.sampled_from(names), min_size=1, max_size=3)
  return chosen.flatmap(
    lambda some: st.fixed_dictionaries(
      {name: of(name) for name in sorted(some)}
    )
  )


def refused(call):
  """Returns what a call returns, None where it refuses with one line."""
  try:
    return call()
  except errors.UserError as error:
    said = error
  assert str(said).isprintable()
  assert 0 < len(str(said)) < 2100
  assert said.code in (errors.USAGE, errors.DATA, errors.MISSING)
  return None


def is_whole(tree):
  """Whether every number of a tree is finite, and no array is of objects."""
  arrays = [np.asarray(x) for x in jax.tree.leaves(tree)]
  return all(
    x.dtype.kind in 'biufSU' and (x.dtype.kind != 'f' or np.isfinite(x).all())
    for x in arrays
  )


@functools.cache
def config_of(task):
  config = configs.of_task(task).copy_and_resolve_references()
  config.condition.also = 'camera' if task == 'class' else ''
  return config.lock()


def check_conditions(task, values):
  """The rows of a request are finite arrays, or it is refused."""
  request = refused(lambda: request_lib.Request(**values))
  if request is None:
    return
  config = config_of(task)
  given = refused(lambda: conditions.read(request, config, NAMES))
  if given is not None:
    assert is_whole(given.rows)
    assert given.strength is None or 0 < given.strength <= 1
  changed = refused(lambda: settings_lib.with_request(config, request))
  if changed is not None:
    sample = changed.sample.to_dict()
    assert is_whole([x for x in sample.values() if not isinstance(x, str)])


def of_tasks():
  """A task, and values of inputs that it takes or of any."""
  inputs = lambda task: conditions.inputs(config_of(task)) + conditions.EDITS
  return st.sampled_from(TASKS).flatmap(
    lambda task: st.tuples(
      st.just(task), asked(inputs(task)) | asked(inputs(task)) | asked()
    )
  )


@hostile.examples(60, given=of_tasks())
def test_conditions_are_values_or_refused(given):
  check_conditions(*given)


@pytest.mark.rounds
@hostile.examples(hostile.ROUNDS, given=of_tasks())
def test_conditions_are_values_or_refused_in_many_rounds(given):
  check_conditions(*given)


MODELS = {
  'classes': (
    'diffit_shapes.py:debug',
    {'data__image_size': 16, 'network__window': 4},
  ),
  'layouts': ('frido_shapes.py:layout,debug', {}),
  'bands': ('ladm_shapes.py:debug', {}),
}


@functools.cache
def pipe_of(model):
  """Returns a model without values: plans need none."""
  file, fields = MODELS[model]
  config = configs.load(file, sample__steps=2, **fields)
  system = systems.create(config)
  mesh = mesh_lib.create(config.mesh, jax.devices()[:1])
  weights = system_weights.shapes_of(system)
  return pipeline.Pipeline(system, weights, mesh, config, NAMES)


def check_plan(model, values):
  """A plan has finite values only, or there is none."""
  pipe = pipe_of(model)
  values = {k: v for k, v in values.items() if k in (*pipe.requests, 'image')}
  plan = refused(
    lambda: pipe.plan(pipe._request(values.pop('prompt', None), values))
  )
  if plan is None:
    return
  assert 1 <= plan.count < 2**32
  assert is_whole(plan.rows(np.arange(2)))
  assert 0 <= plan.settings.seed < 2**63
  assert is_whole(plan.settings.extent.start)
  spec = dataclasses.asdict(plan.settings.spec)
  spec['churn'].pop('high')  # without a bound it is infinite
  assert is_whole([x for x in jax.tree.leaves(spec) if not isinstance(x, str)])


@hostile.examples(25, values=asked())
def test_plans_are_values_or_refused(values):
  check_plan('classes', values)


@pytest.mark.rounds
@hostile.examples(
  hostile.ROUNDS, model=st.sampled_from(list(MODELS)), values=asked()
)
def test_plans_are_values_or_refused_in_many_rounds(model, values):
  check_plan(model, values)
