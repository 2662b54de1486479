"""Backgrounds are told apart between and behind the objects."""

import numpy as np
import pytest

from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.data.synthetic import scenes
from tests.helpers import shapes_renderer


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('level', [0, 3])
def test_real_pictures(level, size):
  spec = scenes.sample(0, np.arange(150), level)
  images = shapes_renderer.render(spec, size)['image']
  kinds = map_scores.background_kinds(images)
  assert (kinds == spec.background).mean() >= 0.99
  random = np.random.RandomState(0)
  noisy = images + 10 * random.standard_normal(images.shape)
  noisy = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
  assert (map_scores.background_kinds(noisy) == spec.background).mean() >= 0.97
  chance = np.roll(kinds, 1) == spec.background
  assert 0.1 < chance.mean() < 0.45


def test_a_picture_without_ground():
  image = np.zeros((1, 16, 16, 3), np.uint8)
  image[..., 0] = 255
  assert map_scores.background_kinds(image).tolist() == [0]


@pytest.mark.parametrize('sign', [-1, 1])
def test_both_diagonals_are_alike(sign):
  x, y = np.meshgrid(*[(np.arange(32) + 0.5) / 32] * 2)
  wave = 128 + 18 * np.sin(2 * np.pi * 4 * (x + sign * y))
  image = np.repeat(np.round(wave)[None, ..., None], 3, -1).astype(np.uint8)
  checks = scenes.BACKGROUNDS.index('checks')
  assert map_scores.background_kinds(image).tolist() == [checks]
