"""Respaced diffusion of ADM and DiT against the official code."""

import dataclasses

import numpy as np
import pytest

from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify


FILES = (
  'adm_diffusion_dit_50.npz',
  'adm_diffusion_guided_50.npz',
  'adm_diffusion_guided_ddim25_cosine.npz',
)


@pytest.mark.parametrize('file', FILES)
def test_recorded_runs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  rows = verify.compare(verify.run(case), case, 1e-4)
  assert len(rows) == len(case.expected)
  assert [row for row in rows if not row.ok] == []


def make_case(channels=6, loop=0, **config):
  fill = official_fill.inputs
  inputs = {
    'x': fill('x', (2, 3, 4, 4)),
    'x_start': fill('x_start', (2, 3, 4, 4)),
    'noise': fill('noise', (2, 3, 4, 4)),
    'model_output': fill('model_output', (2, channels, 4, 4)),
    't': np.array([0, 3], np.int32),
  }
  if loop:
    inputs['x_T'] = fill('x_T', (1, 3, 4, 4))
    inputs['loop_noise'] = fill('loop_noise', (loop, 1, 3, 4, 4))
  return families.Case(
    family='adm.diffusion',
    config=config,
    state={},
    inputs=inputs,
    expected={},
    tolerance=1e-4,
  )


def tables(kept, length):
  """The short chain of a linear one, by hand in float64."""
  betas = np.linspace(0.1 / length, 20 / length, length)
  bar = np.cumprod(1 - betas)[kept]
  before = np.append(1, bar[:-1])
  beta = 1 - bar / before
  small = beta * (1 - before) / (1 - bar)
  return bar, before, beta, small


def test_fixed_variances_and_a_predicted_image():
  """Options that no recorded case has, from the formulas of DDPM."""
  kept = [0, 7, 14, 15, 20, 24, 29]  # 3 and 4 in parts of 15
  bar, before, beta, small = tables(kept, 30)
  case = make_case(
    kind='guided',
    channels=3,
    steps=30,
    timestep_respacing='3,4',
    predict_xstart=True,
    rescale_timesteps=True,
  )
  for is_small in (True, False):
    config = {**case.config, 'sigma_small': is_small}
    out = verify.run(dataclasses.replace(case, config=config))
    np.testing.assert_array_equal(out['timestep_map'], kept)
    np.testing.assert_allclose(
      out['model_timesteps'], [0, 15 * 1000 / 30], rtol=1e-6
    )
    x0 = case.inputs['model_output']
    np.testing.assert_allclose(out['noclip/pred_xstart'], x0, rtol=1e-6)
    for row, t in enumerate((0, 3)):
      mean = beta[t] * np.sqrt(before[t]) / (1 - bar[t]) * x0[row]
      mean = mean + case.inputs['x'][row] * (1 - before[t]) * np.sqrt(
        1 - beta[t]
      ) / (1 - bar[t])
      np.testing.assert_allclose(
        out['noclip/mean'][row], mean, rtol=1e-4, atol=1e-5
      )
      variance = small[t] if is_small else (small[1], *beta[1:])[t]
      log = np.log(small[1] if t == 0 else variance)
      np.testing.assert_allclose(
        out['clip/variance'][row], variance, rtol=1e-5, atol=1e-12
      )
      np.testing.assert_allclose(out['clip/log_variance'][row], log, rtol=1e-5)
    error = (x0 - case.inputs['x_start']) ** 2
    np.testing.assert_allclose(
      out['loss/mse'], error.mean((1, 2, 3)), rtol=1e-5
    )
    np.testing.assert_array_equal(out['loss/loss'], out['loss/mse'])
    assert 'loss/vb' not in out


def test_the_bound_alone():
  case = make_case(kind='dit', diffusion_steps=40, timestep_respacing='ddim20')
  plain = verify.run(case)
  config = {**case.config, 'use_kl': True}
  bound = verify.run(dataclasses.replace(case, config=config))
  np.testing.assert_allclose(
    bound['loss/loss'], 20 * plain['loss/vb'], rtol=1e-5
  )
  assert 'loss/mse' not in bound
  config = {**case.config, 'rescale_learned_sigmas': True}
  rescaled = verify.run(dataclasses.replace(case, config=config))
  np.testing.assert_allclose(
    rescaled['loss/vb'], 0.02 * plain['loss/vb'], rtol=1e-5
  )


def test_loops_equal_their_formulas():
  """Every step of DDIM and of DDPM by hand, without a learned variance."""
  config = {'kind': 'guided', 'steps': 30, 'timestep_respacing': '6'}
  case = make_case(3, loop=6, **config)
  out = verify.run(case)
  bar, before, beta, _ = tables(out['timestep_map'], 30)

  def eps(x, time):
    moved = np.roll(x, 1, axis=1)
    return np.tanh(0.8 * x) + 0.2 * np.sin(6 * time / 1000) * moved

  x = case.inputs['x_T'].astype(float)
  ancestral = x
  for step, j in enumerate(range(5, -1, -1)):
    time = out['timestep_map'][j]
    noise = eps(x, time)
    x0 = (x - np.sqrt(1 - bar[j]) * noise) / np.sqrt(bar[j])
    x = np.sqrt(before[j]) * x0 + np.sqrt(1 - before[j]) * noise
    np.testing.assert_allclose(
      out['ddim_sample_loop/x'][step], x, rtol=1e-4, atol=1e-4
    )
    noise = eps(ancestral, time)
    mean = ancestral - beta[j] / np.sqrt(1 - bar[j]) * noise
    ancestral = mean / np.sqrt(1 - beta[j])  # DDPM, algorithm 2
    if j:  # fixed_large
      drawn = case.inputs['loop_noise'][step]
      ancestral = ancestral + np.sqrt(beta[j]) * drawn
    np.testing.assert_allclose(
      out['p_sample_loop/x'][step], ancestral, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'kind': 'ddpm'}, "kind 'ddpm'; known"),
    ({'kind': 'dit', 'steps': 10}, r"unknown arguments: \['steps'\]"),
    ({'kind': 'dit', 'noise_schedule': 'cosine'}, "'squaredcos_cap_v2'"),
    ({'kind': 'guided', 'noise_schedule': 'quad'}, "'quad'; known"),
    ({'kind': 'guided', 'timestep_respacing': 'ddim60'}, 'no whole stride'),
    ({'kind': 'guided', 'timestep_respacing': '2000'}, 'cannot keep 2000'),
  ],
)
def test_what_we_lack_is_said(config, message):
  case = dataclasses.replace(make_case(), config=config)
  with pytest.raises(families.Unsupported, match=message):
    verify.run(case)
