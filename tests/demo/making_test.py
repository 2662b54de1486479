"""Images of a form are those of the pipeline, stage by stage."""

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax import systems
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.demo import controls as controls_lib
from pyramid_jax.demo import examples
from pyramid_jax.demo import form
from pyramid_jax.demo import making
from pyramid_jax.demo import page
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.pipeline import rows as rows_lib
from tests.helpers import configs
from tests.helpers import demo_page
from tests.helpers import system_weights


@pytest.fixture(scope='module')
def model():
  config = configs.load(
    'ladm_shapes.py:layout,debug', data__image_size=16, sample__steps=1
  )
  system = systems.create(config)
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  weights = jax.device_put(
    system_weights.weights_of(system), mesh_lib.replicated(mesh)
  )
  pipe = pipeline.Pipeline(system, weights, mesh, config, scenes.LABEL_NAMES)
  return making.Model(pipe=pipe, controls=controls_lib.of(pipe, 'ladm'))


def test_controls_follow_from_what_a_model_takes(model):
  controls = model.controls
  assert controls.takes == ('layout', 'image', 'mask', 'strength')
  assert controls.needs == ('layout',)
  assert controls.tools == ('boxes', 'mask')
  assert controls.labels == tuple(scenes.LABEL_NAMES[1:])
  assert controls.own_steps in controls.steps
  assert controls.stages == ('4x4', '8x8', '16x16')
  assert (controls.edits, controls.sketch, controls.size) == (True, False, 16)


def test_images_are_those_of_the_pipeline(model, tmp_path):
  pipe, controls = model.pipe, model.controls
  making.compile_programs(model)
  drawn = {'boxes': [demo_page.box(), demo_page.box('blue square')]}
  values = demo_page.values(canvas=drawn, count=2, steps=None, guidance=None)
  asked = form.read(values, controls, tmp_path)
  first, *states = making.make(model, asked)
  assert not first.is_compiling
  assert [state.done for state in states] == [1, 2, 3, 4, 5, 6]
  assert {state.total for state in states} == {6}
  last = states[-1].images
  assert [image.is_whole for image in states[3].images] == [True, False]
  shapes = [stage.shape for stage in last[0].stages]
  assert shapes == [(4, 4, 3), (8, 8, 3), (16, 16, 3)]
  assert last[0].condition[0].shape == (240, 240, 3)
  wanted = pipe(layout=drawn['boxes'], count=2, seed=7)
  found = np.stack([image.stages[-1] for image in last])
  np.testing.assert_allclose(found.astype(int), wanted.astype(int), atol=1)
  coarse = pipe(layout=drawn['boxes'], count=2, seed=7, last_scale=0)
  found = np.stack([image.stages[0] for image in last])
  np.testing.assert_allclose(found.astype(int), coarse.astype(int), atol=1)


def test_answers_are_lines_whatever_is_sent(model, tmp_path):
  tab = page.Tab(model=model, samples=(), uploads=tmp_path)
  for values, words in (
    ({'canvas': {'boxes': [demo_page.box('purple')]}}, 'purple'),
    ({'canvas': {'boxes': [demo_page.box(corners=[float('nan')] * 4)]}}, 'nan'),
    ({'canvas': {'boxes': [demo_page.box()] * 9}}, '9 objects were asked'),
    ({'canvas': None}, 'draw a box'),
  ):
    named = demo_page.values(**values)
    sent = [named.get(name) for name in form.fields(model.controls)]
    *_, (status, results, _) = page.answers(tab, sent)
    assert 'role="alert"' in status
    assert words in status
    assert results == ''
  *_, (status, _, _) = page.answers(tab, [1, 2])  # of another form
  assert page._BUG in status


def test_examples_are_of_the_validation_data(model, tmp_path):
  found = examples.of(model.pipe, model.controls)
  assert len(found) == examples.COUNT
  rows = rows_lib.of_split(model.pipe.config, 'val', 1, scenes.LABEL_NAMES)(
    np.zeros(1, int)
  )
  boxes = found[0]['canvas']['boxes']
  assert len(boxes) == rows['n_boxes'][0]
  assert boxes[0]['label'] == scenes.LABEL_NAMES[rows['labels'][0, 0]]
  np.testing.assert_allclose(boxes[0]['box'], rows['boxes'][0, 0], atol=1e-3)
  assert boxes[0]['label'] in examples.title(found[0])
  for values in found:
    asked = form.read(demo_page.values(**values), model.controls, tmp_path)
    model.pipe.plan(asked.request)


def test_examples_are_made_without_data():
  controls = demo_page.controls(takes=('labels', 'sketch'), tools=('sketch',))
  found = examples.of(demo_page.pipe(), controls)
  assert [x['labels'] for x in found] == [
    'red circle, blue square',
    'blue square, red circle',
  ]
  assert all(x['canvas']['sketch'] for x in found)
  assert examples.title({}) == 'a sketch'


def test_graphs_of_examples_are_read_back():
  triples = np.array([[0, 1, 1], [1, 3, 2], [-1, -1, -1], [0, 0, 1]])
  names = ('padding', 'cat', 'dog')
  rows = {
    'labels': np.array([[1, 2, 1, 0]]),
    'n_boxes': np.array([3]),
    'triples': triples[None],
  }
  values = examples._of_rows(rows, ('graph',), names)
  assert values['graph'] == 'cat, left of, dog; dog, above, cat B'


@pytest.mark.parametrize(
  ('needs', 'edits', 'names'),
  [
    (('prompt',), True, ['prompt']),
    (('image', 'mask'), False, ['image', 'mask']),
    (('image',), False, ['image']),
    (('graph',), True, ['graph']),
  ],
)
def test_the_plainest_request_has_what_is_needed(needs, edits, names):
  controls = demo_page.controls(needs=needs, edits=edits)
  asked = examples.neutral(controls, demo_page.pipe())
  given = asked.request.given(('prompt', 'image', 'mask', 'graph'))
  assert given == names
  if 'image' in names:
    side = 32 if 'mask' in names else 8
    assert asked.request.image.shape == (side, side, 3)


def test_a_refused_request_is_no_image(model):
  request = pipeline.Request(layout=[('red circle', (0, 0, 1, 1))], count=1)
  asked = form.Asked(request=request, sketch=None, record={})
  bad = pipeline.Request(prompt='a')
  with pytest.raises(errors.UserError, match='prompt is no condition'):
    next(making.make(model, form.Asked(request=bad, sketch=None, record={})))
  assert next(making.make(model, asked)).total == 3
