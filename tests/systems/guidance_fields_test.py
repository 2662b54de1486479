"""How the fields of guidance reach the stages of each system."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
import system_weights

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import guidance


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
BATCH = {
  'class': jnp.ones(2, jnp.int32),
  'boxes': jnp.zeros((2, 4, 4)),
  'labels': jnp.ones((2, 4), jnp.int32),
  'n_boxes': jnp.ones(2, jnp.int32),
}


@pytest.mark.parametrize(
  ('file', 'stages'),
  [
    ('frido_shapes.py:debug', 2),
    ('ldm_shapes.py:class,debug', 1),
    ('diffit_latent_shapes.py:debug', 1),
  ],
)
@pytest.mark.parametrize(
  ('values', 'want'),
  [
    ({}, {'channels': None, 'power': None}),
    (
      {'sample.guidance_channels': '3', 'sample.guidance_power': '4'},
      {'channels': 3, 'power': 4.0},
    ),
  ],
)
def test_channels_and_power(monkeypatch, file, stages, values, want):
  config = config_lib.load(f'{CONFIGS}/{file}')
  config_lib.override(config, {'sample.guidance': '3', **values})
  system = systems.create(config)
  guide, told = guidance.classifier_free, []

  def spy(stage, scale, *args, **kwargs):
    told.append((scale, {name: kwargs[name] for name in want}))
    return guide(stage, scale, *args, **kwargs)

  monkeypatch.setattr(guidance, 'classifier_free', spy)

  def build(weights):
    condition = system.condition(weights, BATCH)
    assert len(system.stages(weights, condition, (2, 32, 32))) == stages
    return ()

  jax.eval_shape(build, system_weights.shapes_of(system))
  assert told == [(3.0, want)] * stages
