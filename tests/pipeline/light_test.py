"""The light of a panorama."""

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.networks.layers import tone_curves
from pyramid_jax.pipeline import light
from tests.helpers import configs
from tests.helpers import written_run


def test_a_turn_of_the_panorama_is_a_turn_of_its_light(tmp_path):
  config = configs.load('hdr.py:debug', data__image_size=16)
  written_run.write(tmp_path / 'hdr', config, extra={})
  image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
  found = light.radiance(tmp_path / 'hdr', image)
  assert found.shape == (20, 40, 3)
  dark = image.max(-1) < 240
  want = tone_curves.from_srgb(image / 255, np)
  np.testing.assert_allclose(found[dark], want[dark], atol=1e-4)
  assert np.abs(found - want)[~dark].max() > 0.1  # what the weights add
  # Windows are eight columns apart, so they show the same of both.
  turned = light.radiance(tmp_path / 'hdr', np.roll(image, 8, axis=1))
  np.testing.assert_allclose(turned, np.roll(found, 8, axis=1), rtol=1e-4)
  ladm = configs.load('ladm_shapes.py:none,debug')
  written_run.write(tmp_path / 'ladm', ladm)
  with pytest.raises(errors.UserError, match="'ladm', must be one of 'hdr'"):
    light.radiance(tmp_path / 'ladm', image)
