"""How the fields of guidance reach the stages of each system."""

import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from tests.helpers import configs
from tests.helpers import system_weights


FILES = {
  'frido': ('frido_shapes.py:debug', 2),
  'ldm': ('ldm_shapes.py:class,debug', 1),
  'latent_diffit': ('diffit_latent_shapes.py:debug', 1),
  'diffit': ('diffit_shapes.py:class,debug', 1),
  'ladm': ('ladm_shapes.py:class,debug', 3),
}


def load(name, values):
  return configs.load(FILES[name][0], **values)


def guidance_of_stages(name, spec):
  """Returns the guidance of the segments of each stage, None without."""
  system = systems.create(load(name, {}))
  system.check_spec(spec)
  stages = system.stages(
    system_weights.shapes_of(system),
    system.example_condition(),
    (1, system.image_size, system.image_size),
    spec,
  )
  denoisers = [[s.denoise for s in stage.segments] for stage in stages]
  assert len(stages) == FILES[name][1]
  return [
    [getattr(denoise, 'guidance', None) for denoise in stage]
    for stage in denoisers
  ]


@pytest.mark.parametrize('name', ['frido', 'ldm', 'latent_diffit'])
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
def test_channels_and_power(name, values, want):
  config = load(name, {'sample.guidance': '3', **values})
  got = guidance_of_stages(name, spec_lib.from_config(config))
  assert got == [[classifier_free.Guidance(3.0, **want)]] * FILES[name][1]


@pytest.mark.parametrize('name', sorted(FILES))
def test_an_interval_leaves_steps_without_guidance(name):
  values = {
    'sample.guidance': '3',
    'sample.guidance_interval': '0.1,0.7',
    'sample.steps': '10',
  }
  got = guidance_of_stages(name, spec_lib.from_config(load(name, values)))
  found = [each for stage in got for each in stage]
  assert None in found
  want = classifier_free.Guidance(3.0, (0.1, 0.7))
  assert {each for each in found if each} == {want}


@pytest.mark.parametrize('name', sorted(FILES))
def test_a_scale_of_1_builds_no_null_half(name):
  spec = spec_lib.from_config(load(name, {'sample.guidance': '1'}))
  assert spec.guidance is None
  assert guidance_of_stages(name, spec) == [[None]] * FILES[name][1]


def test_each_stage_has_a_part_of_the_scale():
  values = {'sample.guidance': '3', 'sample.guidance_parts': '0.0,0.5,1.0'}
  config = load('ladm', values)
  got = guidance_of_stages('ladm', spec_lib.from_config(config))
  scales = [guidance.scale for (guidance,) in got]
  np.testing.assert_array_equal(scales, [1.0, 2.0, 3.0])


def test_parts_of_another_number_of_stages_are_refused():
  values = {'sample.guidance': '3', 'sample.guidance_parts': '0.0,1.0'}
  config = load('ladm', values)
  system = systems.create(config)
  with pytest.raises(ValueError, match='has 2 values, must be one number or 3'):
    system.check_spec(spec_lib.from_config(config))
