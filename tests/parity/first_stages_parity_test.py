"""The KL and VQ autoencoders against numbers of the official code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan as names
from tests.helpers import official_fill
from tests.parity import families
from tests.parity import verify
from tests.parity.families import autoencoder as family


FILES = (
  'ldm_autoencoder_kl_a.npz',
  'ldm_autoencoder_kl_b.npz',
  'ldm_vq_a.npz',
  'ldm_vq_b.npz',
)
KL_TINY = {
  'ddconfig': {
    'ch': 32,
    'ch_mult': [1, 2, 2],
    'num_res_blocks': 2,
    'attn_resolutions': [],
    'resolution': 16,
    'in_channels': 3,
    'out_ch': 3,
    'z_channels': 4,
    'double_z': True,
    'dropout': 0.0,
  },
  'embed_dim': 4,
}
VQ_TINY = {
  'ddconfig': {
    **KL_TINY['ddconfig'],
    'ch_mult': [1, 2],
    'num_res_blocks': 1,
    'attn_resolutions': [8],
    'z_channels': 3,
    'double_z': False,
  },
  'embed_dim': 3,
  'n_embed': 32,
}


def build(config):
  return (family.build_vq if 'n_embed' in config else family.build_kl)(config)


def template(config, side=16):
  module = build(config)
  image = jnp.zeros((1, side, side, 3))
  return jax.eval_shape(module.init, jax.random.key(0), image)['params']


def shapes(config, side=16):
  return official_fill.official_shapes(template(config, side), names.rename)


def sine_case(config, noise=False):
  """A case without recorded outputs: the weights and inputs of the formula."""
  inputs = {'x': official_fill.sine((2, 3, 16, 16))}
  if noise:
    inputs['noise'] = official_fill.sine((2, 4, 4, 4), 0.2)
  return families.Case(
    family=family.VQ if 'n_embed' in config else family.KL,
    config=config,
    state=official_fill.sine_state(shapes(config)),
    inputs=inputs,
    expected={},
    tolerance=1e-4,
  )


def check(got, mean, std, first):
  got = got.astype(np.float64)
  np.testing.assert_allclose(got.mean(), mean, atol=1e-5)
  np.testing.assert_allclose(got.std(), std, atol=1e-5)
  np.testing.assert_allclose(got.ravel()[:4], first, atol=1e-5)


@pytest.mark.turns(3, group='recorded cases')
@pytest.mark.parametrize('file', FILES)
def test_recorded_outputs_are_reproduced(golden, file):
  case = verify.read_case(golden(file))
  rows = verify.compare(verify.run(case), case, case.tolerance)
  assert len(rows) == len(case.expected) >= 7
  assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize('file', FILES)
def test_conversion_there_and_back_is_exact(golden, file):
  case = verify.read_case(golden(file))
  params, report = mapping.to_flax(
    case.state, template(case.config, 32), names.rename
  )
  back = mapping.to_official(params, names.rename)
  assert report.complete
  assert not report.unused
  assert back.keys() == case.state.keys()
  for key, value in case.state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.turns(3, group='recorded cases')
def test_kl_filled_by_the_formula():
  out = verify.run(sine_case(KL_TINY, noise=True))
  assert out['moments'].shape == (2, 8, 4, 4)
  check(
    out['moments'],
    0.0638400,
    0.2420450,
    (0.1009741, 0.0645384, 0.0856555, 0.0978806),
  )
  # Between processors, float32 differs by 1.1e-5 of these sums.
  np.testing.assert_allclose(out['kl'], (2.5285470, 3.5913594), rtol=2e-5)
  check(
    out['recon_from_mean'],
    0.0187219,
    0.1935393,
    (0.0380206, 0.0205571, 0.0186372, 0.0178321),
  )
  np.testing.assert_allclose(
    out['sample'],
    out['mean'] + out['std'] * official_fill.sine((2, 4, 4, 4), 0.2),
    atol=1e-6,
  )
  assert np.abs(out['recon_from_sample'] - out['recon_from_mean']).max() > 0.01


@pytest.mark.turns(3, group='recorded cases')
def test_vq_filled_by_the_formula():
  case = sine_case(VQ_TINY)
  out = verify.run(case)
  assert out['prequant'].shape == (2, 3, 8, 8)
  check(
    out['prequant'],
    0.0740734,
    0.1796423,
    (0.2454541, 0.2210100, 0.1676503, 0.1233817),
  )
  codes = [20] + [9] * 7 + [20] * 8
  assert out['indices'].ravel()[:16].tolist() == codes
  np.testing.assert_allclose(out['emb_loss'], 0.0291032, rtol=1e-5)
  check(
    out['dec'],
    0.0236197,
    0.1835043,
    (-0.0810286, -0.1276425, -0.1535833, -0.0386497),
  )
  case = dataclasses.replace(
    case, inputs={**case.inputs, 'latent_in': out['prequant']}
  )
  out = verify.run(case)
  np.testing.assert_allclose(out['interface_dec'], out['dec'], atol=1e-6)
  check(
    out['interface_dec_noquant'],
    0.0298984,
    0.1704814,
    (-0.0493663, -0.0817249, -0.1239192, 0.0042868),
  )


def test_official_keys_of_the_small_models():
  assert len(shapes(KL_TINY)) == 200
  assert len(shapes(VQ_TINY)) == 155
  assert shapes(VQ_TINY)['quantize.embedding.weight'] == (32, 3)
  assert shapes(KL_TINY)['quant_conv.weight'] == (8, 8, 1, 1)


def test_remapped_codes():
  used = np.array([9, 3, 20], np.int32)
  case = sine_case(VQ_TINY)
  plain = verify.run(case)['indices']
  used = np.unique(plain)[::-1].astype(np.int32)
  case = dataclasses.replace(
    case,
    config={**VQ_TINY, 'remap': 'used.npy', 'sane_index_shape': True},
    state={**case.state, 'quantize.used': used},
  )
  np.testing.assert_array_equal(used[verify.run(case)['indices']], plain)
  case = dataclasses.replace(
    case, state={**case.state, 'quantize.used': used[:-1]}
  )
  with pytest.raises(families.Unsupported, match=r'remap of the codes \[\d+\]'):
    verify.run(case)


def changed(config, **changes):
  return {**config, 'ddconfig': {**config['ddconfig'], **changes}}


def test_options_reach_the_networks():
  bare = shapes(changed(KL_TINY, resamp_with_conv=False, attn_type='none'))
  assert not [k for k in bare if 'sample.conv' in k or 'attn' in k]
  linear = shapes(changed(KL_TINY, use_linear_attn=True))
  assert linear['encoder.mid.attn_1.to_qkv.weight'] == (192, 64, 1, 1)
  assert 'encoder.mid.attn_1.to_qkv.bias' not in linear
  out = verify.run(sine_case(changed(KL_TINY, tanh_out=True)))
  plain = verify.run(sine_case(KL_TINY))
  np.testing.assert_allclose(
    out['recon_from_mean'], np.tanh(plain['recon_from_mean']), atol=1e-6
  )
  module = family.build_vq({**VQ_TINY, 'beta': 0.5, 'legacy': False})
  assert (module.beta, module.legacy) == (0.5, False)


@pytest.mark.parametrize(
  ('config', 'words'),
  [
    (changed(KL_TINY, give_pre_end=True), 'give_pre_end'),
    (changed(KL_TINY, double_z=False), 'double_z = False; supported: True'),
    (changed(VQ_TINY, double_z=True), 'double_z = True; supported: False'),
    (changed(VQ_TINY, channels=3), 'channels'),
    ({**KL_TINY, 'learn_logvar': True}, 'AutoencoderKL.*learn_logvar'),
    ({**VQ_TINY, 'quantizer': 'gumbel'}, 'VQModel.*quantizer'),
  ],
)
def test_unsupported_options_are_refused(config, words):
  with pytest.raises(families.Unsupported, match=words):
    build(config)


def test_incomplete_state_is_refused():
  case = sine_case(KL_TINY)
  state = {k: v for k, v in case.state.items() if k != 'quant_conv.bias'}
  with pytest.raises(ValueError, match=r'quant_conv\.bias \(8,\) is missing'):
    verify.run(dataclasses.replace(case, state=state))
