"""Images of a form are those of the pipeline, stage by stage."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as PILImage
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
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import demo_page
from tests.helpers import painter
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


def two_stages(system, weights, keys, batch, spec, edit=None, extent=None):
  """Paints noise in two stages, the second of which shows the first."""
  del system, weights, batch, spec
  draw = lambda key, stage, side: jax.random.uniform(
    jax.random.fold_in(key, stage), (side, side, 3), minval=-1
  )
  scales = list(extent.start)
  last = 1 if extent.last is None else extent.last
  for stage in range(len(scales), last + 1):
    fresh = jax.vmap(lambda key, n=stage: draw(key, n, 4 << n))(keys)
    scales.append(fresh)
  image = jnp.repeat(jnp.repeat(scales[0], 2, 1), 2, 2)
  if last == 1:
    image = 0.5 * image + 0.5 * scales[1]
  if edit is not None:
    image = edit.image[:, :8, :8] * edit.strength
  return image, scales


@pytest.fixture
def painted(monkeypatch):
  """Returns a model of two stages that needs no program worth the name."""
  monkeypatch.setattr(system_lib, 'generate', two_stages)
  system = painter.make(stage_count=2, beta=(1.0, 0.5))
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  config = configs.of_task('layout')
  pipe = pipeline.Pipeline(system, {}, mesh, config, scenes.LABEL_NAMES)
  return making.Model(pipe=pipe, controls=controls_lib.of(pipe, 'painted'))


def test_stages_come_one_after_the_other(painted, tmp_path):
  values = demo_page.values(count=2, steps=None, guidance=None)
  asked = form.read(values, painted.controls, tmp_path)
  first, *states = making.make(painted, asked)
  assert first.is_compiling
  assert [(x.done, x.total) for x in states] == [(i, 4) for i in range(1, 5)]
  layout = values['canvas']['boxes']
  sketch = form.drawn_sketch([form._NO_SKETCH])
  given = {'layout': layout, 'count': 2, 'seed': 7, 'sketch': sketch}
  for stage in (0, 1):
    found = [image.stages[stage] for image in states[-1].images]
    wanted = painted.pipe(**given, last_scale=stage)
    np.testing.assert_array_equal(np.stack(found), wanted)
  assert not next(making.make(painted, asked)).is_compiling


def test_an_edit_is_made_in_one_go(painted, tmp_path):
  PILImage.new('RGB', (32, 32), (200, 200, 200)).save(tmp_path / 'a.png')
  file = {'path': str(tmp_path / 'a.png')}
  values = demo_page.values(steps=None, guidance=None, image=file)
  asked = form.read(values, painted.controls, tmp_path)
  *_, last = making.make(painted, asked)
  assert (last.done, last.total) == (1, 1)
  assert len(last.images[0].stages) == 1
  assert last.images[0].condition[-1].shape == (32, 32, 3)  # what is edited


def test_the_strength_of_a_sketch_is_a_row(painted, tmp_path):
  drawn = {'boxes': [demo_page.box()], 'sketch': [demo_page.stroke(0.1, 0.9)]}
  values = demo_page.values(
    steps=None, guidance=None, canvas=drawn, sketch_strength=2.0
  )
  asked = form.read(values, painted.controls, tmp_path)
  rows = making._plan(painted, asked).rows(np.arange(3))
  np.testing.assert_array_equal(rows['sketch_beta'], [[2.0, 1.0]] * 3)


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
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
    named = demo_page.values(steps=None, **values)
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
    asked = form.read(
      demo_page.values(steps=None, **values), model.controls, tmp_path
    )
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
