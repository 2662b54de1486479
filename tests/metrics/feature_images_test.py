"""What becomes of images before networks see them, and CMMD.

Recorded: torchvision's Resize and CenterCrop as openai/CLIP has them,
sayakpaul/cmmd-pytorch (io_util.py, distance.py), torch's interpolate as
NVlabs/edm2 calls it, and torch-fidelity's bilinear resize; made 28 px.
"""

import pathlib

import numpy as np
import pytest

from pyramid_jax.evaluation import feature_networks
from pyramid_jax.metrics import cmmd
from pyramid_jax.metrics import feature_sets
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import squares
from pyramid_jax.networks import vgg
from pyramid_jax.networks import vision_transformer


RECORDED = np.load(
  pathlib.Path(__file__).with_name('recorded') / 'feature_images.npz'
)
SIZES = ('40x61', '57x33', '20x20', '28x28', '29x40')


# Odd numbers of pixels around the square as well.
@pytest.mark.parametrize('size', [*SIZES, '28x41', '43x28'])
def test_squares_are_those_of_the_reference_code(size):
  images = RECORDED[f'images/{size}'][None]
  for name, prepare in (('clip', squares.of_clip), ('cmmd', squares.of_cmmd)):
    got = prepare(28)(images)
    np.testing.assert_array_equal(got[0], RECORDED[f'{name}_images/{size}'])


@pytest.mark.parametrize('size', SIZES)
def test_inputs_that_programs_make(size, monkeypatch):
  monkeypatch.setattr(feature_networks, 'DINO_SIDE', 28)
  monkeypatch.setattr(vgg, 'SIDE', 28)
  images = RECORDED[f'images/{size}'][None]
  for name, make in (
    ('edm2', feature_networks.dino_input),
    ('tf1', feature_networks.vgg_input),
  ):
    want = vision_transformer.scaled(
      RECORDED[f'{name}_images/{size}'], vision_transformer.IMAGENET_SCALING
    )
    np.testing.assert_allclose(make(images)[0], want, atol=3e-5)


def test_scaling():
  x = np.full((1, 1, 1, 3), 255, np.uint8)
  mean, deviation = map(np.array, vision_transformer.CLIP_SCALING)
  got = vision_transformer.scaled(x, vision_transformer.CLIP_SCALING)
  np.testing.assert_allclose(got[0, 0, 0], (1 - mean) / deviation, rtol=1e-6)


def test_cmmd_is_that_of_the_reference_code(monkeypatch):
  x, y = RECORDED['cmmd/x'], RECORDED['cmmd/y']
  got = cmmd.distance(x, y)
  np.testing.assert_allclose(got, RECORDED['cmmd/value'], rtol=1e-9)
  monkeypatch.setattr(cmmd, '_TILE', 7)
  np.testing.assert_allclose(cmmd.distance(x, y), got, rtol=1e-9)
  kernel = lambda a, b: np.exp(-((a - b) ** 2).sum() / 200)
  mean = lambda p, q: np.mean([[kernel(a, b) for b in q] for a in p])
  want = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert abs(cmmd.distance(x, x)) < 1e-9
  with pytest.raises(ValueError, match='of the same length'):
    cmmd.distance(x, y[:, 1:])


@pytest.mark.parametrize('keep', [0, 5])
def test_sets_of_features_are_merged_and_restored(keep):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (9, 4, 4, 3), np.uint8)
  features = rng.normal(size=(9, 3)).astype(np.float32)
  of = lambda rows: feature_sets.FeatureSet.of_images(
    images[rows], features[rows], rows, keep
  )
  first, second = of(np.array([1, 3, 4, 8])), of(np.array([0, 2, 5, 6, 7]))
  restored = feature_sets.FeatureSet.of_totals(second.totals, second.kept)
  found = first.merge(restored)
  assert found.count == 9
  assert found.contents == of(np.arange(9)).contents
  if keep:
    assert found.moments is None
    np.testing.assert_array_equal(found.features, features[:5])
  else:
    assert not len(found.features)
    want = frechet.moments(features)
    np.testing.assert_allclose(found.moments.mean, want.mean, rtol=1e-12)
    np.testing.assert_allclose(found.moments.scatter, want.scatter, rtol=1e-9)


@pytest.mark.parametrize('length', [1.0, 4.0])
def test_cmmd_is_the_mean_over_all_pairs(monkeypatch, length):
  monkeypatch.setattr(cmmd, '_TILE', 11)
  random = np.random.RandomState(2)
  x, y = random.randn(40, 6), random.randn(31, 6) + 0.2
  x, y = (length * z / np.linalg.norm(z, axis=1)[:, None] for z in (x, y))

  def mean(a, b):
    apart = np.square(a[:, None] - b[None]).sum(-1)
    return np.expm1(-apart / (2 * cmmd.SIGMA**2)).mean()

  want = cmmd.SCALE * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
  assert want > 0.1
  np.testing.assert_allclose(cmmd.distance(x, y), want, rtol=1e-9)
