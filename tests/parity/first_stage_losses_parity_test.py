"""The first stage's losses against the official code."""

import dataclasses

import numpy as np
import pytest

from tests.parity import families
from tests.parity import verify


@pytest.fixture
def case(golden):
  return verify.read_case(golden('ldm_vq_loss.npz'))


def with_options(case, **options):
  return dataclasses.replace(case, config={**case.config, **options})


@pytest.fixture
def kl_case(golden):
  return verify.read_case(golden('ldm_kl_loss.npz'))


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_recorded_kl_losses_and_gradients_are_reproduced(kl_case):
  rows = verify.compare(verify.run(kl_case), kl_case, 1e-5)
  assert len(rows) == 29
  assert [row for row in rows if not row.ok] == []


@pytest.mark.turns(3, group='recorded cases')
def test_kl_options(kl_case):
  """Other weights, the other adversarial loss, a parameter of its own."""
  case = dataclasses.replace(
    with_options(
      kl_case,
      perceptual_weight=0.0,
      kl_weight=0.25,
      disc_factor=0.5,
      disc_loss='vanilla',
    ),
    state={**kl_case.state, 'logvar': np.float32([-0.7])},
  )
  out = verify.run(case)
  pixels = np.abs(case.inputs['inputs'] - case.inputs['reconstructions'])
  nll = (pixels / np.exp(-0.7) - 0.7).sum() / 2
  np.testing.assert_allclose(out['after/gen/nll_loss'], nll, 1e-5)
  mean, logvar = np.split(case.inputs['moments'], 2, 1)
  kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum() / 2
  np.testing.assert_allclose(out['after/gen/kl_loss'], kl, 1e-5)
  np.testing.assert_allclose(
    out['after/gen_loss'],
    nll + 0.25 * kl + 0.5 * out['after/gen/d_weight'] * out['after/gen/g_loss'],
    rtol=1e-5,
  )
  assert out['before/gen/disc_factor'] == 0
  assert 0 < out['after/disc_loss'] < 5


@pytest.mark.turns(3, group='recorded cases')
def test_kl_loss_starts_from_the_initial_log_variance(kl_case):
  case = with_options(kl_case, logvar_init=0.3, perceptual_weight=0.0)
  state = {k: v for k, v in case.state.items() if k != 'logvar'}
  out = verify.run(dataclasses.replace(case, state=state))
  np.testing.assert_allclose(out['after/gen/logvar'], 0.3, rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'pixel_loss': 'l2'}, r'of LPIPSWithDiscriminator: .*pixel_loss'),
    ({'codebook_weight': 1.0}, 'codebook_weight'),
    ({'disc_loss': 'wasserstein'}, "disc_loss is 'wasserstein'"),
  ],
)
def test_unsupported_kl_options(kl_case, options, message):
  with pytest.raises(families.Unsupported, match=message):
    verify.run(with_options(kl_case, **options))


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.slow
def test_recorded_losses_and_gradients_are_reproduced(case):
  rows = verify.compare(verify.run(case), case, 1e-5)
  assert len(rows) == 29
  assert [row for row in rows if not row.ok] == []


@pytest.mark.turns(3, group='recorded cases')
def test_options(case):
  """Other weights and the other adversarial loss, by hand."""
  case = with_options(
    case,
    perceptual_weight=0.0,
    codebook_weight=0.25,
    disc_factor=0.5,
    disc_loss='vanilla',
  )
  out = verify.run(case)
  pixels = np.abs(case.inputs['inputs'] - case.inputs['reconstructions'])
  np.testing.assert_allclose(out['after/gen/nll_loss'], pixels.mean(), 1e-5)
  assert out['after/gen/p_loss'] == 0
  np.testing.assert_allclose(
    out['after/gen_loss'],
    pixels.mean()
    + 0.25 * case.inputs['codebook_loss'].mean()
    + 0.5 * out['after/gen/d_weight'] * out['after/gen/g_loss'],
    rtol=1e-5,
  )
  assert out['before/gen/disc_factor'] == 0
  assert out['before/disc_loss'] == 0
  assert 0 < out['after/disc_loss'] < 5


@pytest.mark.turns(3, group='recorded cases')
def test_condition_of_the_discriminator(case):
  """A condition is put beside the image; of weight zero it does nothing."""
  weight = case.state['discriminator.main.0.weight']
  wide = np.concatenate([weight, np.zeros_like(weight)], 1)
  conditional = dataclasses.replace(
    with_options(
      case, perceptual_weight=0.0, disc_conditional=True, disc_in_channels=6
    ),
    state={**case.state, 'discriminator.main.0.weight': wide},
    inputs={**case.inputs, 'cond': case.inputs['inputs'] ** 2},
  )
  want = verify.run(with_options(case, perceptual_weight=0.0))
  got = verify.run(conditional)
  for name in ('after/gen_loss', 'after/disc_loss', 'before/gen/g_loss'):
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5)
  assert got['after/disc_grad_first_conv'].shape == (8, 6, 4, 4)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'pixel_loss': 'l3'}, "pixel_loss is 'l3', must be one of"),
    ({'perceptual_loss': 'dists'}, 'perceptual_loss'),
    ({'disc_loss': 'wasserstein'}, "disc_loss is 'wasserstein'"),
    ({'disc_conditional': True}, 'must come together'),
    ({'logvar_init': 0.0}, r"inputs .*: \['logvar_init'\]"),
  ],
)
def test_unsupported_options(case, options, message):
  with pytest.raises(families.Unsupported, match=message):
    verify.run(with_options(case, **options))
