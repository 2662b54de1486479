"""Sampling and training loss of Frido against the official code."""

import dataclasses

import jax
import numpy as np
import pytest

from pyramid_jax.interop.families import unet as names
from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import frido_diffusion as family
from tests.parity.families import pyunet as pyunet_family


SAMPLERS = (
  'frido_sampler_ddim_2s.npz',
  'frido_sampler_ddim_2s_cfg2_eta1.npz',
  'frido_sampler_ddim_3s.npz',
  'frido_sampler_plms_2s.npz',
)
LOSS = 'frido_training_loss_2s.npz'

UNET = {
  'model_channels': 32,
  'channel_mult': [1, 2],
  'num_res_blocks': 1,
  'attention_resolutions': [2],
  'num_head_channels': 32,
  'context_dim': 48,
  'split_embed_dim_list': [4, 4],
  'image_size': 16,
  'in_channels': 8,
  'out_channels': 8,
  'num_stage': 2,
  'use_split_head': True,
  'use_SPADE_norm': True,
  'use_spatial_transformer': True,
}
CHAIN = {
  'timesteps': 1000,
  'beta_schedule': 'linear',
  'linear_start': 0.0015,
  'linear_end': 0.0155,
}


def failures(case, tolerance):
  rows = verify.compare(verify.run(case), case, tolerance)
  assert len(rows) == len(case.expected)
  return [row for row in rows if not row.ok]


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
@pytest.mark.parametrize('file', SAMPLERS)
def test_recorded_samples_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  assert failures(case, 1e-5) == []


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_recorded_losses_and_gradients_are_reproduced(golden):
  case = verify.read_case(golden(LOSS))
  assert failures(case, 2e-5) == []


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_other_options_of_the_loss(golden):
  """Squared error, other weights, other mix: by hand from the outputs."""
  case = verify.read_case(golden(LOSS))
  options = {
    'loss_type': 'l2',
    'noise_mix_ratio': 0.3,
    'stage_loss_ratio': [0.2, 0.7],
  }
  case = dataclasses.replace(
    case, config={**case.config, **options}, expected={}
  )
  out = verify.run(case)
  noise, clean = case.inputs['noise'], case.inputs['x_start']
  losses = []
  for s in range(2):
    error = noise[:, 4 * s : 4 * s + 4] - out[f'model_output_{s}']
    losses.append((error**2).mean())
    np.testing.assert_allclose(out[f'loss_{s}'], losses[s], rtol=1e-5)
  known = 0.7 * clean[:, :4] + 0.3 * noise[:, :4]
  np.testing.assert_allclose(out['x_noisy_1'][:, :4], known, atol=1e-6)
  total = 0.2 * losses[0] + 0.7 * losses[1]
  np.testing.assert_allclose(out['total'], total, rtol=1e-5)


def filled_state():
  x = np.zeros((1, 16, 16, 8), np.float32)
  context = np.zeros((1, 7, 48), np.float32)
  template = jax.eval_shape(
    lambda key: pyunet_family.build(UNET).init(
      key, x, np.zeros(1), context, stage=0
    ),
    jax.random.key(0),
  )['params']
  shapes = official_fill.official_shapes(template, names.rename)
  return {k: official_fill.tensor(k, s) for k, s in shapes.items()}


def filled_case(kind, with_state=True):
  """The sampler rows of the reference table, from filled weights."""
  config = {
    'unet_config': UNET,
    'diffusion': CHAIN,
    'embed_dim_list': [4, 4],
    'num_stage': 2,
    'sampler': {'kind': kind, 'S': 5, 'unconditional_guidance_scale': 1.5},
  }
  state = filled_state() if with_state else {}
  return families.Case(
    family='frido.sampler',
    config=config,
    state=state,
    inputs={
      'noise_T': official_fill.inputs('x_T', (2, 8, 16, 16)),
      'context': official_fill.inputs('context', (2, 7, 48)),
      'unconditional_context': official_fill.inputs('uncond', (2, 7, 48)),
    },
    expected={},
    tolerance=1e-3,
  )


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
@pytest.mark.parametrize(
  ('kind', 'first', 'mean', 'std', 'total'),
  [
    ('ddim', (1.150799, 1.150799, 2.521071), -0.1708498, 9.321752, 30056.193),
    ('plms', (1.647252, 1.647252, 3.411523), -0.1448027, 9.273512, 29807.080),
  ],
)
def test_rows_of_the_reference_table(kind, first, mean, std, total):
  out = verify.run(filled_case(kind))
  got = out['latent'].astype(np.float64)
  np.testing.assert_allclose(got.ravel()[[0, 1, 2]], first, atol=1e-4)
  np.testing.assert_allclose(got.mean(), mean, rtol=1e-4)
  np.testing.assert_allclose(got.std(), std, rtol=1e-5)
  np.testing.assert_allclose(np.abs(got).sum(), total, rtol=1e-5)
  np.testing.assert_array_equal(out['ddim_timesteps'], [1, 201, 401, 601, 801])
  np.testing.assert_allclose(out['ddim_alphas'][0], 0.99699563, rtol=1e-6)
  np.testing.assert_allclose(out['ddim_alphas_prev'][0], 0.9985, rtol=1e-6)


@pytest.mark.parametrize(
  ('section', 'change', 'message'),
  [
    ('sampler', {'kind': 'ddpm'}, "sampler 'ddpm'; supported: ddim, plms"),
    ('sampler', {'kind': 'plms', 'eta': 1.0}, 'eta'),
    ('sampler', {'S': 300}, '300 sampling steps'),
    ('sampler', {'eta': 0.5}, 'eta = 0.5 without recorded noise'),
    ('sampler', {'quantize_x0': True}, r"sampler: \['quantize_x0'\]"),
    ('diffusion', {'beta_schedule': 'sigmoid'}, "'sigmoid' is not one of"),
    ('diffusion', {'given_betas': []}, 'given_betas'),
    ('', {'v_posterior': 0.1}, 'v_posterior = 0.1; supported: 0.0'),
    ('', {'parameterization': 'v'}, "parameterization 'v'"),
    ('', {'embed_dim_list': [3, 5]}, 'does not agree'),
    ('unet_config', {'use_split_head': False}, 'use_split_head = False'),
    ('unet_config', {'magic': 1}, 'magic'),
  ],
)
def test_unsupported_options(section, change, message):
  case = filled_case('ddim', with_state=False)
  config = dict(case.config)
  if section:
    config[section] = {**config[section], **change}
  else:
    config |= change
  with pytest.raises(families.Unsupported, match=message):
    family.run(dataclasses.replace(case, config=config))


def test_unknown_input_is_refused():
  case = filled_case('ddim', with_state=False)
  inputs = {**case.inputs, 'x_T': case.inputs['noise_T']}
  with pytest.raises(families.Unsupported, match=r"inputs \['x_T'\]"):
    family.run(dataclasses.replace(case, inputs=inputs))
