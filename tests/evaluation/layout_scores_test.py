"""SceneFID and diversity, by small networks in the place of the published."""

import itertools
import json

import jax
import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.commands import evaluate
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import diversity
from pyramid_jax.evaluation import merging
from pyramid_jax.evaluation import protocols
from pyramid_jax.evaluation import scene_fid
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import split_examples
from pyramid_jax.interop import parts
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import object_crops
from pyramid_jax.metrics import states
from pyramid_jax.networks import inception as network_lib
from pyramid_jax.networks import lpips
from tests.helpers import configs
from tests.helpers import inception_weights
from tests.helpers import painter


def extract(crops):
  """Returns (M, 5) sums of pixels."""
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(12, 5)) / 255
  small = crops[:, ::112, ::112].reshape(len(crops), 12)
  return (small @ kernel).astype(np.float32)


def batch_of(images, real, examples, places, fresh):
  return states.Batch(
    places=places,
    images=images[places],
    real=real[places[:fresh]],
    examples={name: x[places] for name, x in examples.items()},
  )


@pytest.fixture
def layouts():
  rng = np.random.default_rng(1)
  images, real = rng.integers(0, 256, (2, 12, 16, 16, 3), np.uint8)
  corners = np.sort(rng.uniform(size=(12, 4, 2, 2)), axis=2)
  examples = {
    'boxes': corners.reshape(12, 4, 4).astype(np.float32),
    'labels': rng.integers(0, 3, (12, 4)),
    'n_boxes': rng.integers(0, 5, 12),
  }
  examples['n_boxes'][5] = 0  # a layout without objects
  return images, real, examples


def start():
  return scene_fid.SceneFid(extractor=extract, variant='tf1', real='val')


def test_scene_fid_is_the_distance_of_the_crops(layouts):
  """In batches of any size, merged in any order, and from disk."""
  images, real, examples = layouts
  ours, _ = object_crops.of_images(images, examples)
  first = {name: x[:9] for name, x in examples.items()}
  theirs, _ = object_crops.of_images(real[:9], first)
  want = frechet.feature_distance(extract(ours), extract(theirs))
  values = []
  for cuts in ([], [1, 5, 6], [9]):
    pieces = [
      start().update(
        batch_of(images, real, examples, rows, int((rows < 9).sum()))
      )
      for rows in np.split(np.arange(12), cuts)
    ]
    pieces = [{'x': piece} for piece in reversed(pieces)]
    state = {'x': start()}
    for piece in pieces:
      saved = merging.restored(
        {'x': start()}, [merging.columns_of(piece)], merging.totals_of(piece)
      )
      state = {'x': state['x'].merge(saved['x'])}
    (row,) = state['x'].finish()
    assert row.name == f'scene_fid_tf1_{len(ours)}'
    assert row.reference.startswith(f'objects of val ({len(theirs)}), contents')
    values.append((row.score.value, row.ceiling.value, row.reference))
  np.testing.assert_allclose([x[0] for x in values], want, rtol=1e-6)
  np.testing.assert_allclose([x[1] for x in values], values[0][1], rtol=1e-6)
  assert len({x[2] for x in values}) == 1


def test_too_few_objects_have_no_scene_fid(layouts, caplog):
  images, real, examples = layouts
  examples = examples | {'n_boxes': np.zeros(12, int)}
  state = start().update(batch_of(images, real, examples, np.arange(4), 4))
  assert state.finish() == []
  assert 'SceneFID needs at least 2 objects' in caplog.text


def test_diversity_is_the_mean_over_all_pairs():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 4, 4, 3), np.uint8)
  measure = diversity.Diversity(
    distance=lambda a, b: np.abs(np.float64(a) - b).mean((1, 2, 3))
  )
  batch = states.Batch(
    places=np.arange(5),
    images=images,
    alike=[(1, images[[0, 1, 3]]), (4, images[[2, 4]])],
  )
  (row,) = states.PerImage(measure=measure).update(batch).finish()
  far = lambda i, j: np.abs(np.float64(images[i]) - images[j]).mean()
  three = np.mean([far(*x) for x in itertools.combinations([0, 1, 3], 2)])
  np.testing.assert_allclose(row.score.value, (three + far(2, 4)) / 2)
  assert (row.name, row.score.n) == ('diversity_vgg', 2)
  same = states.Batch(
    places=np.arange(5), images=images, alike=[(0, images[[2, 2]])]
  )
  assert states.PerImage(measure=measure).update(same).finish()[0].score == (
    type(row.score)(0.0, 0.0, 0.0, 1)
  )


def examples_of(count, size, length, each=3):
  config = configs.of_task('layout').copy_and_resolve_references()
  with config.unlocked():
    config.evaluate.batch_size = size
    config.evaluate.protocol = 'layout_x5'
  reader = data.create(config, 'test')
  reader_of = type(
    'Short',
    (),
    {
      '__len__': lambda self: length,
      '__getattr__': lambda self, name: getattr(reader, name),
    },
  )()
  protocol = protocols.Protocol(
    count=count,
    reference='conditions',
    scores=('x',),
    source='x',
    per_condition=each,
  )
  return split_examples.SplitExamples(
    config, reader_of, mesh_lib.create(config.mesh), count, False, protocol
  )


@pytest.mark.parametrize(
  ('count', 'size', 'length'), [(18, 6, 50), (17, 7, 50), (30, 8, 4), (3, 9, 1)]
)
def test_a_batch_has_all_images_of_a_condition(count, size, length):
  found = examples_of(count, size, length)
  batches = [found.places(step) for step in range(found.steps)]
  assert sorted(np.concatenate(batches)) == list(range(count))
  fresh = [x[: found.fresh(x)] for x in batches]
  assert np.concatenate(fresh).tolist() == list(range(found.distinct))
  pairs = 0
  for step, places in enumerate(batches):
    assert (np.diff(places) > 0).all()
    filled = found.filled(step)
    assert len(filled) == found.size
    assert filled[: len(places)].tolist() == places.tolist()
    for rows in found.alike(step):
      assert len(set(places[rows] % found.distinct)) == 1
      assert len(rows) <= 3
      pairs += len(rows) * (len(rows) - 1) // 2
  turns, examples = np.divmod(np.arange(count), found.distinct)
  _, sizes = np.unique([examples, turns // 3], axis=1, return_counts=True)
  assert pairs == (sizes * (sizes - 1) // 2).sum() > 0


def test_a_batch_smaller_than_a_condition_is_refused():
  with pytest.raises(errors.UserError, match='layout_x5 needs at least 3'):
    examples_of(12, 2, 9)


@pytest.fixture
def weights(monkeypatch, tmp_path):
  network = inception_weights.Small()
  monkeypatch.setattr(network_lib, 'InceptionV3', lambda: network)
  inception = tmp_path / 'inception.safetensors'
  parts.write('inception', inception, inception_weights.variables(network))
  slices = tuple((4, indices) for _, indices in lpips.SLICES)
  monkeypatch.setattr(lpips, 'SLICES', slices)
  image = np.zeros((1, 32, 32, 3), np.float32)
  params = jax.jit(lpips.LPIPS().init)(jax.random.key(0), image, image)
  perceptual = tmp_path / 'lpips.safetensors'
  parts.write('lpips', perceptual, params['params'])
  return inception, perceptual


def test_the_table_of_layouts_has_both(weights, monkeypatch, tmp_path):
  painter.install(monkeypatch)
  config = configs.of_task('layout').copy_and_resolve_references()
  values = {
    'evaluate.protocol': 'layout_x5',
    'evaluate.count': 20,
    'evaluate.batch_size': 12,
    'evaluate.inception': weights[0],
    'evaluate.lpips': weights[1],
  }
  configs.change(config.unlock(), values)
  evaluate.run(config.lock(), tmp_path, {})
  table = json.loads((tmp_path / 'samples' / 'scores.json').read_text())
  scores = table['scores']
  (name,) = [x for x in scores if x.startswith('scene_fid')]
  assert scores[name]['value'] > 0 <= scores[name]['ceiling']
  assert int(name.rpartition('_')[2]) % 5 == 0
  assert scores['diversity_vgg']['n'] == 4
  assert scores['diversity_vgg']['value'] > 0.01
  assert scores['fid_tf1_20']['reference'].count('(4 images)') == 1
  assert 'lacks' not in table['about']
  assert 'SceneFID of crops of 224 px' in table['about']

  # The same images in batches of another size, each seen once.
  with config.unlocked():
    config.evaluate.batch_size = 7
  evaluate.run(config, tmp_path, {})
  again = json.loads((tmp_path / 'samples' / 'scores.json').read_text())
  assert again['scores'].keys() == scores.keys()
  for key, score in again['scores'].items():
    np.testing.assert_allclose(
      score['value'], scores[key]['value'], rtol=1e-4, atol=1e-6, err_msg=key
    )


def test_copies_of_one_image_are_not_diverse():
  config = configs.of_task('layout').copy_and_resolve_references()
  reader = data.create(config, 'test')
  mesh = mesh_lib.create(config.mesh)
  pipe = pipeline.Pipeline(painter.make(), None, mesh, config)
  protocol = protocols.PROTOCOLS['layout_x5']
  evaluation = scoring.Evaluation(
    pipe, config, reader, count=10, bounds=False, protocol=protocol
  )
  measure = type(
    'Measure',
    (),
    {
      'distance': staticmethod(
        lambda a, b: np.abs(np.float64(a) - b).mean((1, 2, 3))
      ),
      'weights': 'x',
    },
  )()
  evaluation.add_diversity(measure)

  def of_condition(batch, numbers):
    shade = (numbers % evaluation.examples.distinct).astype(np.uint8)
    return np.tile(shade[:, None, None, None], (1, 32, 32, 3)), []

  scores = {row.name: row.score for row in evaluation(of_condition)}
  assert (scores['diversity_vgg'].value, scores['diversity_vgg'].n) == (0, 2)


def test_images_of_a_condition_have_its_real_image():
  found = examples_of(9, 6, 3)
  real = np.zeros((9, 32, 32, 3), np.uint8)
  for step in range(found.steps):
    places = found.places(step)
    real[places] = found.at(step).real[: len(places)]
  assert (real[0] != real[1]).any()
  np.testing.assert_array_equal(real, np.resize(real[:3], real.shape))
