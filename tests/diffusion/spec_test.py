import math

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
# What every generative system has in `config.sample`.
COMMON = {
  'solver': 'ddim',
  'steps': 7,
  'spacing': 'auto',
  'guidance': 1.0,
  'guidance_interval': (),
}


def config(variance=None, **sample):
  diffusion = {} if variance is None else {'variance': variance}
  return ConfigDict({'sample': {**COMMON, **sample}, 'diffusion': diffusion})


def read(**fields):
  return spec_lib.from_config(config(**fields))


def test_what_a_system_does_not_have_is_the_default():
  assert read() == spec_lib.SamplerSpec(steps=(7,))


@pytest.mark.parametrize(
  ('given', 'want'),
  [
    ({'solver': 'ddpm'}, {'solver': 'ddpm'}),
    ({'steps': 3}, {'steps': (3,)}),
    ({'steps': (3, 5)}, {'steps': (3, 5)}),
    ({'spacing': 'log_snr'}, {'spacing': 'log_snr'}),
    ({'variance': 'learned_range'}, {'variance': 'learned_range'}),
    ({'eta': 0.5}, {'eta': 0.5}),
    ({'temperature': 0.9}, {'temperature': 0.9}),
    ({'discretization': 'vp'}, {'discretization': 'vp'}),
    ({'rho': 5.0}, {'rho': 5.0}),
    ({'sigma_min': 0.01}, {'sigma_min': 0.01}),
    ({'sigma_max': 50.0}, {'sigma_max': 50.0}),
    ({'windows': (8, 4)}, {'windows': (8, 4)}),
  ],
)
def test_each_field_reaches_the_spec(given, want):
  assert read(**given) == spec_lib.SamplerSpec(**{'steps': (7,), **want})


def test_churn_has_no_upper_bound_unless_one_is_given():
  fields = {'churn': 40.0, 'churn_min': 0.05, 'churn_noise': 1.003}
  want = {'amount': 40.0, 'low': 0.05, 'noise': 1.003}
  assert read(**fields).churn == edm_timesteps.Churn(**want, high=math.inf)
  bounded = read(**fields, churn_max=30.0).churn
  assert bounded == edm_timesteps.Churn(**want, high=30.0)


def test_guidance_of_scale_1_is_none():
  fields = {'guidance_interval': (0.2, 0.8), 'guidance_power': 4.0}
  assert read(guidance=1.0, **fields).guidance is None
  assert read(guidance=1, guidance_parts=(0.5, 1.0)).guidance is None
  assert read(guidance=0.0).guidance == classifier_free.Guidance(0.0)


@pytest.mark.parametrize(
  ('given', 'want'),
  [
    ({}, {}),
    ({'guidance_interval': (0.2, 0.8)}, {'interval': (0.2, 0.8)}),
    ({'guidance_channels': 3}, {'channels': 3}),
    ({'guidance_channels': 0, 'guidance_power': 0.0}, {}),
    ({'guidance_power': 4.0}, {'power': 4.0}),
    ({'guidance_parts': (1.0,)}, {}),
    ({'guidance_parts': (0.5,)}, {'scale': 2.7}),
  ],
)
def test_each_field_of_guidance(given, want):
  got = read(guidance=4.4, **given).guidance
  assert got == classifier_free.Guidance(**{'scale': 4.4, **want})


def test_parts_of_the_scale_are_of_the_stages():
  spec = read(guidance=3.0, guidance_parts=(0.0, 0.5, 1.0))
  scales = [float(spec.guidance_of(stage).scale) for stage in range(3)]
  assert scales == [1.0, 2.0, 3.0]
  spec.check_guidance(4, 3)
  with pytest.raises(ValueError, match='has 3 values, must be .* or 2, coarse'):
    spec.check_guidance(4, 2)
  one = read(guidance=3.0, guidance_parts=(0.5,))
  one.check_guidance(4, 2)
  assert [one.guidance_of(stage).scale for stage in range(2)] == [2.0, 2.0]


def test_only_the_scale_is_traced():
  spec = read(guidance=3.0, guidance_interval=(0.2, 0.8), eta=0.5)
  assert jax.tree.leaves(spec) == [3.0]
  assert jax.tree.leaves(read()) == []
  other = read(guidance=2.0, guidance_interval=(0.2, 0.8), eta=0.5)
  assert jax.tree.structure(other) == jax.tree.structure(spec)
  noisy = read(guidance=3.0, guidance_interval=(0.2, 0.8), eta=0.6)
  assert jax.tree.structure(noisy) != jax.tree.structure(spec)


def test_settings_of_the_solver_reach_it():
  solver = read(solver='ddim', eta=0.5, temperature=0.9).make_solver()
  assert solver == solvers.create('ddim', eta=0.5, temperature=0.9)
  solver = read(solver='ddpm', variance='learned_range').make_solver()
  assert solver == solvers.create('ddpm', variance='learned_range')
  solver = read(solver='heun', churn=5.0).make_solver()
  assert solver == solvers.create('heun', churn=5.0)


@pytest.mark.parametrize('solver', solvers.SOLVERS)
def test_auto_is_the_spacing_of_the_solver(solver):
  (got,) = read(solver=solver, steps=5).chain_levels(CHAIN)
  want = timesteps.spaced_levels(CHAIN, 5, solvers.SPACINGS[solver])
  np.testing.assert_array_equal(got.time, want.time)


def test_spacing_rho_and_steps_reach_the_levels_of_a_chain():
  spec = read(spacing='karras', rho=3.0, steps=(4, 6))
  for got, steps in zip(spec.chain_levels(CHAIN, 2), (4, 6), strict=True):
    want = timesteps.spaced_levels(CHAIN, steps, 'karras', 3.0)
    np.testing.assert_array_equal(got.sigma, want.sigma)
    plain = timesteps.spaced_levels(CHAIN, steps, 'karras')
    assert not np.array_equal(got.sigma, plain.sigma)


def test_settings_reach_the_levels_of_continuous_time():
  settings = {'discretization': 've', 'rho': 5.0, 'sigma_min': 0.01}
  got = read(**settings, sigma_max=50.0, churn=40.0).edm_timesteps()
  churn = edm_timesteps.Churn(amount=40.0)
  assert got == edm_timesteps.EdmTimesteps(
    **settings, sigma_max=50.0, churn=churn
  )
  plain = read().edm_timesteps()
  assert plain == edm_timesteps.EdmTimesteps()
  assert read(spacing='log_snr').edm_timesteps().discretization == 'log_snr'
  karras = read(spacing='karras', discretization='vp').edm_timesteps()
  assert karras.discretization == 'edm'


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: read(solver='rk4').make_solver(), "'rk4' is not one of"),
    (lambda: read(steps=(1, 2)).steps_of(1), '2 values, must be one number,'),
    (lambda: read(steps=(1, 2)).steps_of(3), '2 values, .* one number or 3'),
    (
      lambda: read(churn=5.0).chain_levels(CHAIN),
      'churn is 5.0, must be 0 on a discrete chain',
    ),
    (
      lambda: read(spacing='official').edm_timesteps(),
      "'official', must be one of auto, karras, log_snr",
    ),
    (lambda: read(churn=-1.0), 'churn amount is -1.0, must be at least 0'),
    (
      lambda: read(guidance=2.0, guidance_power=-1.0),
      'guidance power is -1.0, must be above 0',
    ),
  ],
)
def test_what_cannot_be_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_more_guided_channels_than_there_are():
  spec = read(guidance=3.0, guidance_channels=5)
  spec.check_guidance(5, 1)
  with pytest.raises(ValueError, match='channels is 5, must be at most 4'):
    spec.check_guidance(4, 1)
