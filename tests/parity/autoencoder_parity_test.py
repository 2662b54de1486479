"""The shared blocks against single-scale autoencoders of latent diffusion."""

import jax
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan as family
from pyramid_jax.networks import autoencoder
from pyramid_jax.networks.layers import quantizer
from tests.parity import verify


FIELDS = ('ch', 'ch_mult', 'num_res_blocks', 'attn_resolutions', 'resolution')


def _nhwc(x):
  return np.moveaxis(x, 1, -1)


def _pointwise(state, name, x):
  """A 1x1 convolution of (B, H, W, C), outside of the blocks under test."""
  kernel = state[f'{name}.weight'][:, :, 0, 0]
  return x @ kernel.T + state[f'{name}.bias']


def _apply(module, prefix, state, x):
  template = jax.eval_shape(module.init, jax.random.key(0), x)['params']
  params, report = mapping.to_flax(state, template, family.rename, prefix)
  report.require_complete()
  assert not report.unused
  with jax.default_matmul_precision('highest'):
    return np.asarray(jax.jit(module.apply)({'params': params}, x))


def _fields(case):
  config = case.config['ddconfig']
  fields = {name: config[name] for name in FIELDS}
  return {k: tuple(v) if np.iterable(v) else v for k, v in fields.items()}


@pytest.mark.parametrize(
  ('file', 'latent', 'decoded'),
  [
    ('ldm_autoencoder_kl_a.npz', 'in/z', 'dec_z'),
    ('ldm_vq_b.npz', 'out/quant', 'dec'),
  ],
)
def test_encoder_and_decoder_reproduce_recorded_outputs(
  golden, file, latent, decoded
):
  case = verify.read_case(golden(file))
  config = case.config['ddconfig']
  encoder = autoencoder.Encoder(
    **_fields(case),
    z_channels=config['z_channels'],
    double_z=config['double_z'],
  )
  decoder = autoencoder.Decoder(**_fields(case), out_ch=config['out_ch'])
  part, name = latent.split('/')
  z = _nhwc({'in': case.inputs, 'out': case.expected}[part][name])

  h = _apply(encoder, 'encoder.', case.state, _nhwc(case.inputs['x']))
  image = _apply(
    decoder,
    'decoder.',
    case.state,
    _pointwise(case.state, 'post_quant_conv', z),
  )

  name = 'moments' if config['double_z'] else 'prequant'
  for got, key in (
    (_pointwise(case.state, 'quant_conv', h), name),
    (image, decoded),
  ):
    error = verify.error(np.moveaxis(got, -1, 1), case.expected[key])
    assert error < case.tolerance, key


@pytest.mark.parametrize('file', ['ldm_vq_a.npz', 'ldm_vq_b.npz'])
def test_quantiser_reproduces_recorded_outputs(golden, file):
  case = verify.read_case(golden(file))
  book = case.state['quantize.embedding.weight']
  module = quantizer.VectorQuantizer(*book.shape)

  entries, codes, loss = jax.jit(module.apply)(
    {'params': {'embedding': book}}, _nhwc(case.expected['prequant'])
  )

  np.testing.assert_array_equal(codes, case.expected['indices'])
  np.testing.assert_allclose(entries, _nhwc(case.expected['quant']), atol=1e-6)
  np.testing.assert_allclose(loss, case.expected['emb_loss'][0], rtol=1e-5)
