"""Samplers and training loss of LDM against the official code."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import ldm_samplers as family


SAMPLERS = (
  'ldm_ddim_s20.npz',
  'ldm_ddim_s20_eta1.npz',
  'ldm_ddim_s50_cfg3.npz',
  'ldm_plms_s20.npz',
  'ldm_plms_s50_cfg3.npz',
  'ldm_ddpm_t40.npz',
)


def failures(case, tolerance):
  rows = verify.compare(verify.run(case), case, tolerance)
  assert len(rows) == len(case.expected)
  return [row for row in rows if not row.ok]


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
@pytest.mark.parametrize('file', SAMPLERS)
def test_recorded_runs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  assert failures(case, 1e-4) == []


def edited(case, section='', inputs=None, **changes):
  """A recorded case with other arguments."""
  config = json.loads(json.dumps(dict(case.config)))
  (config[section] if section else config).update(changes)
  return dataclasses.replace(
    case, config=config, inputs={**case.inputs, **(inputs or {})}
  )


@pytest.fixture
def ancestral(golden):
  return verify.read_case(golden('ldm_ddpm_t40.npz'))


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_other_options_of_the_loss(ancestral):
  """Absolute error, weights, log variance, x0: by hand from the outputs."""
  changes = {
    'loss_type': 'l1',
    'l_simple_weight': 0.6,
    'original_elbo_weight': 0.2,
    'logvar_init': 0.3,
    'parameterization': 'x0',
    'clip_denoised': False,
  }
  out = verify.run(edited(ancestral, 'diffusion', **changes))
  error = np.abs(out['model_output'] - ancestral.inputs['x_start'])
  error = error.mean((1, 2, 3))
  bar = out['alphas_cumprod']
  weights = 0.5 * np.sqrt(bar) / (2 - bar)
  weights[0] = weights[1]
  np.testing.assert_allclose(out['lvlb_weights'], weights, rtol=1e-6)
  vlb = (weights[ancestral.inputs['t']] * error).mean()
  np.testing.assert_allclose(out['loss_simple'], error.mean(), rtol=1e-5)
  np.testing.assert_allclose(out['loss_vlb'], vlb, rtol=1e-5)
  gamma = (error / np.exp(0.3) + 0.3).mean()
  np.testing.assert_allclose(out['loss_gamma'], gamma, rtol=1e-5)
  np.testing.assert_allclose(out['loss'], 0.6 * gamma + 0.2 * vlb, rtol=1e-5)
  key = 'grad/out.2.bias'  # of a bias behind all else: the mean of the slopes
  assert out[key].shape == (3,)
  # x0 is what the network says: the first step is the posterior's mean.
  step = out['posterior_mean_coef1'][39] * out['pred_x0'][0]
  step += out['posterior_mean_coef2'][39] * ancestral.inputs['x_T']
  deviation = np.exp(0.5 * out['posterior_log_variance_clipped'][39])
  step += deviation * ancestral.inputs['noise'][0]
  np.testing.assert_allclose(out['x_t'][1], step, rtol=1e-4, atol=1e-4)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_shorter_ancestral_chain(ancestral):
  noise = ancestral.inputs['noise'][:7]
  case = edited(ancestral, 'sampler', {'noise': noise}, timesteps=7)
  out = verify.run(case)
  assert out['x_t'].shape[0] == 8
  # Seven steps end clean: the last one adds no noise.
  np.testing.assert_allclose(out['x_t'][7], out['pred_x0'][6], rtol=1e-5)


@pytest.mark.slow
def test_quadratic_levels_and_temperature(golden):
  case = verify.read_case(golden('ldm_ddim_s20_eta1.npz'))
  changes = {'S': 4, 'ddim_discretize': 'quad', 'temperature': 0.5}
  noise = case.inputs['noise'][:4]
  out = verify.run(edited(case, 'sampler', {'noise': noise}, **changes))
  times = ((np.linspace(0, np.sqrt(800), 4)) ** 2).astype(int) + 1
  np.testing.assert_array_equal(out['ddim_timesteps'], times)
  bar = out['alphas_cumprod'].astype(np.float64)
  now, before = bar[times], np.append(bar[0], bar[times[:-1]])
  sigma = np.sqrt((1 - before) / (1 - now) * (1 - now / before))
  np.testing.assert_allclose(out['ddim_sigmas'], sigma, rtol=1e-5)
  # The first step, from its own estimate of the clean state.
  x, x0 = case.inputs['x_T'], out['pred_x0'][0]
  eps = (x - np.sqrt(now[-1]) * x0) / np.sqrt(1 - now[-1])
  want = np.sqrt(before[-1]) * x0 + 0.5 * sigma[-1] * noise[0]
  want = want + np.sqrt(1 - before[-1] - sigma[-1] ** 2) * eps
  np.testing.assert_allclose(out['x_t'][1], want, rtol=1e-3, atol=1e-3)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_masks_keep_what_is_known(golden):
  case = verify.read_case(golden('ldm_ddim_s20.npz'))
  mask = np.zeros((2, 1, 8, 8), np.float32)
  mask[..., :4] = 1
  x0 = official_fill.inputs('x0', (2, 3, 8, 8))
  noise = official_fill.inputs('mask_noise', (5, 2, 3, 8, 8))
  inputs = {'mask': mask, 'x0': x0, 'mask_noise': noise}
  out = verify.run(edited(case, 'sampler', inputs, S=5))
  free = verify.run(edited(case, 'sampler', S=5))
  assert np.abs(out['x0'] - free['x0']).max() > 1
  # The last step starts from the known part at the noise of its level.
  bar = out['ddim_alphas'][0], out['ddim_alphas_prev'][0]
  known = np.sqrt(bar[0]) * x0 + np.sqrt(1 - bar[0]) * noise[4]
  clean = out['pred_x0'][4]
  eps = (known - np.sqrt(bar[0]) * clean) / np.sqrt(1 - bar[0])
  want = np.sqrt(bar[1]) * clean + np.sqrt(1 - bar[1]) * eps
  np.testing.assert_allclose(
    out['x_t'][5][..., :4], want[..., :4], rtol=1e-3, atol=2e-3
  )


UNET = {
  'image_size': 8,
  'in_channels': 3,
  'out_channels': 3,
  'model_channels': 32,
  'num_res_blocks': 1,
  'attention_resolutions': [2],
  'channel_mult': [1, 2],
  'num_head_channels': 16,
}


def plain(name='ldm.ddim', **config):
  """A case that is refused before its weights are looked at."""
  return families.Case(
    family=name,
    config={
      'unet_config': UNET,
      'diffusion': {'timesteps': 1000},
      'conditioning_key': None,
      'sampler': {} if name == 'ldm.ddpm' else {'S': 5},
      **config,
    },
    state={},
    inputs={'x_T': np.zeros((1, 3, 8, 8), np.float32)},
    expected={},
    tolerance=1e-3,
  )


@pytest.mark.parametrize(
  ('case', 'message'),
  [
    (plain(sampler={'S': 5, 'magic': 1}), "unknown arguments: .'magic'"),
    (plain(sampler={'S': 5, 'noise_dropout': 0.1}), 'noise_dropout = 0.1'),
    (plain(sampler={'S': 5, 'quantize_x0': True}), 'quantize_x0 = True'),
    (plain(conditioning_key='clip'), "conditioning_key 'clip'"),
    (plain(parameterization='v'), "parameterization 'v'"),
    (plain(unet_config={**UNET, 'magic': 1}), 'magic'),
    (plain(diffusion={'given_betas': []}), 'given_betas'),
    (plain('ldm.ddpm', sampler={'S': 5}), "unknown arguments: .'S'"),
  ],
)
def test_unsupported_options(case, message):
  with pytest.raises(families.Unsupported, match=message):
    family.run(case)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'S': 300}, '300 sampling steps'),
    ({'eta': 0.5}, 'eta = 0.5 without recorded noise'),
    ({'ddim_discretize': 'cubic'}, "ddim_discretize 'cubic'"),
  ],
)
def test_unsupported_options_of_the_sampler(golden, changes, message):
  case = verify.read_case(golden('ldm_ddim_s20.npz'))
  with pytest.raises(families.Unsupported, match=message):
    family.run(edited(case, 'sampler', **changes))
  if 'eta' in changes:
    case = verify.read_case(golden('ldm_plms_s20.npz'))
    noise = {'noise': np.zeros((20, 2, 3, 8, 8), np.float32)}
    with pytest.raises(families.Unsupported, match='plms needs eta = 0'):
      family.run(edited(case, 'sampler', noise, **changes))


@pytest.mark.slow
def test_inputs_that_lack_or_are_too_many(golden):
  case = verify.read_case(golden('ldm_ddim_s20_eta1.npz'))
  inputs = {k: v for k, v in case.inputs.items() if k != 'context'}
  with pytest.raises(KeyError, match='context'):
    family.run(dataclasses.replace(case, inputs=inputs))
  with pytest.raises(families.Unsupported, match=r"inputs \['x_start_2'\]"):
    family.run(edited(case, inputs={'x_start_2': np.zeros(1)}))
