"""Scores by Inception features, on a stand-in for the features."""

import jax
import numpy as np
import pytest

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import inception_reference
from pyramid_jax.metrics import inception_score
from pyramid_jax.metrics import precision_recall
from pyramid_jax.metrics import states
from pyramid_jax.networks import inception as network_lib
from tests.helpers import inception_weights


def _pictures(count, seed=0, side=8):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _features(images):
  """A few numbers of each image, in place of the network's."""
  flat = images.reshape(len(images), -1) / 255
  turn = np.random.default_rng(9).normal(size=(flat.shape[1], 20))
  y = np.round(np.tanh(flat @ turn / 4), 4)  # BLAS rounds as batches are long
  return network_lib.Outputs(
    pool=y[:, :6] + 1000,
    spatial=y[:, 6:10],
    logits=3 * y[:, 10:],
    logits_unbiased=3 * y[:, 10:] + 0.5 * y[:, :10],
  )


def _batches(images, size):
  numbers = np.arange(len(images))
  return [
    (numbers[i : i + size], images[i : i + size])
    for i in range(0, len(images), size)
  ]


def _collect(images, size, **options):
  options = {'keep': 25, 'split_size': 16} | options
  found = inception.collect(_features, _batches(images, size), **options)
  return inception.whole(found)[0]


def test_scores_are_those_of_all_features_at_once():
  ours, real = _pictures(50, 1), _pictures(40, 2)
  reference = inception.reference_of(_collect(real, 7))
  got = inception.scores(_collect(ours, 9), reference)
  a, b = _features(ours), _features(real)
  precision, recall = precision_recall.precision_recall(
    b.pool[:25], a.pool[:25]
  )
  want = {
    'fid_tf1_50': frechet.feature_distance(a.pool, b.pool),
    'sfid_tf1_50': frechet.feature_distance(a.spatial, b.spatial),
    'inception_score_50': inception_score.over_splits(
      inception_score.split_sums(a.logits_unbiased, np.arange(50), 16)
    ).value,
    'precision_50': precision[0],
    'recall_50': recall[0],
  }
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(got[name].value, value, rtol=1e-6, err_msg=name)
  assert {name: score.n for name, score in got.items()} == {
    'fid_tf1_50': 50,
    'sfid_tf1_50': 50,
    'inception_score_50': 50,
    'precision_50': 25,
    'recall_50': 25,
  }
  assert np.isnan(got['fid_tf1_50'].low)


def test_batches_and_order_do_not_matter():
  images = _pictures(50)
  want = _collect(images, 50)
  batches = _batches(images, 7)[::-1]
  batches.insert(3, (np.zeros(0, int), images[:0]))
  (got,) = inception.collect(_features, batches, keep=25, split_size=16)
  np.testing.assert_array_equal(got.features, want.features)
  np.testing.assert_array_equal(got.places, np.arange(25))
  for a, b in ((got.pool, want.pool), (got.spatial, want.spatial)):
    assert a.count == b.count == 50
    np.testing.assert_allclose(a.mean, b.mean)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-6, atol=1e-9)
  assert [got.splits[n][0] for n in range(4)] == [16, 16, 16, 2]
  np.testing.assert_allclose(
    inception_score.split_scores(got.splits),
    inception_score.split_scores(want.splits),
  )


def test_a_set_has_no_distance_from_itself():
  one = _collect(_pictures(50), 10)
  got = inception.scores(one, inception.reference_of(one))
  trace = np.trace(one.pool.covariance)
  assert abs(got['fid_tf1_50'].value) < 1e-6 * trace
  assert got['precision_50'].value == got['recall_50'].value == 1


def test_halves_make_a_whole():
  images = _pictures(51)
  even, odd = inception.collect(_features, _batches(images, 7), 25, 2)
  np.testing.assert_array_equal(odd.places, np.arange(1, 25, 2))
  want = frechet.moments(_features(images[::2]).pool)
  np.testing.assert_allclose(even.pool.scatter, want.scatter, rtol=1e-6)
  got, want = even.merge(odd), _collect(images, 51, split_size=5000)
  np.testing.assert_allclose(got.pool.scatter, want.pool.scatter, rtol=1e-6)
  np.testing.assert_array_equal(got.features, want.features)
  np.testing.assert_allclose(got.splits[0], want.splits[0])
  with pytest.raises(ValueError, match='too few images'):
    inception.whole(
      inception.collect(_features, _batches(images[:1], 7), 25, 2)
    )


def test_a_state_is_arrays():
  state = _collect(_pictures(20), 7)
  again = inception.State.of_totals(state.totals, state.kept)
  real = inception.reference_of(_collect(_pictures(30, 1), 30))
  assert inception.scores(again, real) == inception.scores(state, real)
  none = inception.State.of_totals(state.totals, states.Kept())
  assert none.features.shape == (0, 6)


def test_few_pictures_have_no_precision():
  few, many = _collect(_pictures(3), 3), _collect(_pictures(50, 1), 10)
  for ours, real in ((few, many), (many, few)):
    names = inception.scores(ours, inception.reference_of(real)).keys()
    assert {name.split('_')[0] for name in names} == {
      'fid',
      'sfid',
      'inception',
    }


def test_names_count_thousands():
  tiny = _collect(_pictures(2000, side=2), 500)
  names = inception.scores(tiny, inception.reference_of(tiny))
  assert 'fid_tf1_2k' in names


def test_nothing_to_score():
  with pytest.raises(ValueError, match='too few images'):
    inception.whole(inception.collect(_features, [], keep=1))


@pytest.fixture(scope='module')
def small():
  """A small network and its variables."""
  network = network_lib.InceptionV3(32)
  variables = inception_weights.variables(network)
  return network, variables


def test_features_do_not_depend_on_batches_or_devices(small):
  network, variables = small
  images = _pictures(6, side=20)
  mesh = mesh_lib.pure_data(jax.devices()[:4])
  x = jax.jit(network_lib.preprocess)(images)
  want = jax.jit(network.apply)(variables, x)
  assert np.ptp(want.pool, axis=0).max() > 1e-3
  extract = inception.extractor(  # six pictures: four, then two and two blank
    variables, 4, mesh, network
  )
  got = extract(images)
  assert isinstance(got.pool, np.ndarray)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_pictures_are_checked(small):
  network, variables = small
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  extract = inception.extractor(variables, 3, mesh, network)
  with pytest.raises(ValueError, match='uint8, got .* float32'):
    extract(np.zeros((2, 8, 8, 3), np.float32))


def test_pictures_of_a_reference_become_features():
  images = _pictures(30)
  reference = inception_reference.Reference(
    pool=frechet.fit(_features(images).pool), images=images
  )
  got = inception.with_features(reference, _features)
  assert got.images is None
  np.testing.assert_array_equal(got.features, _features(images).pool)
  assert inception.with_features(got, _features) is got


def test_missing_weights_are_one_line(tmp_path):
  file = tmp_path / 'weights.pth'
  for path, found in (('', 'it is not set'), (str(file), f'{file} is no file')):
    with pytest.raises(FileNotFoundError) as info:
      inception.require_weights(path, 'config.evaluate.inception')
    message = str(info.value)
    assert inception.FILE in message
    assert 'at config.evaluate.inception' in message
    assert found in message
    assert '\n' not in message
  file.write_bytes(b'')
  assert inception.require_weights(str(file), 'x') == file
