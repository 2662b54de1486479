import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import song_unet
from pyramid_jax.networks.layers import resampling


B, SIDE = 2, 8
TINY = {
  'model_channels': 8,
  'channel_mult': (1, 2),
  'num_blocks': 1,
  'attn_resolutions': (4,),
  'dropout': 0.0,
}
NCSNPP = {
  'embedding_type': 'fourier',
  'channel_mult_noise': 2,
  'encoder_type': 'residual',
  'resample_filter': (1, 3, 3, 1),
}
CIFAR = {'augment_dim': 9, 'channel_mult': (2, 2, 2)}


def _network(**options):
  return song_unet.SongUNet(**TINY | options)


def _inputs(side=SIDE):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(B, side, side, 3)).astype(np.float32)
  return x, np.float32([-0.3, 0.4])


def _shapes(network, side=SIDE):
  init = lambda: network.init(jax.random.key(0), *_inputs(side))
  return jax.eval_shape(init)


def _random(network):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: (0.3 * rng.normal(size=s.shape)).astype(np.float32),
    _shapes(network),
  )


def _apply(network, variables, **kwargs):
  with jax.default_matmul_precision('highest'):
    apply = jax.jit(lambda v: network.apply(v, *_inputs(), **kwargs))
    return jax.tree.map(np.asarray, apply(variables))


# The reference counts no frequencies of NCSN++, which are not trained.
@pytest.mark.parametrize(
  ('options', 'side', 'count'),
  [
    (CIFAR, 32, 55_733_891),
    (CIFAR | {'num_classes': 10}, 32, 55_735_299),
    (CIFAR | {'channel_mult': (1, 2, 2, 2)}, 64, 61_805_571),
    (CIFAR | NCSNPP, 32, 56_397_827),
  ],
)
def test_parameters_of_the_reference(options, side, count):
  variables = _shapes(song_unet.SongUNet(**options), side)
  assert sum(s.size for s in jax.tree.leaves(variables['params'])) == count
  has_buffers = 'embedding_type' in options
  assert ('buffers' in variables) == has_buffers


@pytest.mark.parametrize('taps', [(1, 1), (1, 3, 3, 1), (1, 2, 4, 4, 2, 1)])
def test_filters_are_those_of_the_definition(taps):
  weights = np.float64(taps) / sum(taps)
  padding = (len(taps) - 1) // 2
  x = np.random.default_rng(0).normal(size=(6,))
  padded = np.pad(x, padding)
  half = [
    weights @ padded[2 * i : 2 * i + len(taps)]
    for i in range((len(padded) - len(taps)) // 2 + 1)
  ]
  # A transposed convolution: every old pixel adds its copy of the filter.
  full = np.zeros(2 * len(x) + len(taps))
  for i, value in enumerate(x):
    full[2 * i : 2 * i + len(taps)] += 2 * weights * value
  double = full[padding : padding + 2 * len(x)]
  image = np.float32(np.outer(x, x))[None, :, :, None]
  got = resampling.filtered_half(image, taps, padding)[0, :, :, 0]
  np.testing.assert_allclose(got, np.outer(half, half), atol=1e-6)
  got = resampling.filtered_double(image, taps)[0, :, :, 0]
  np.testing.assert_allclose(got, np.outer(double, double), atol=1e-5)


def test_tmsa_without_its_weights_is_the_plain_attention():
  variables = _random(_network(tmsa=True))
  rest, found = {}, 0
  for name, block in variables['params'].items():
    rest[name] = dict(block)
    if 'attn' not in block:
      continue
    found += 1
    table, temb = 'relative_position_bias_table', 'qkv_temb'
    attention = dict(block['attn'])
    for leaf in jax.tree.leaves([attention.pop(table), attention.pop(temb)]):
      leaf[:] = 0
    rest[name]['attn'] = attention
  assert found == 3  # encoder, bottleneck, decoder
  got = _apply(_network(tmsa=True), variables)
  np.testing.assert_allclose(
    got, _apply(_network(), {'params': rest}), atol=1e-5
  )
  moved = _random(_network(tmsa=True))
  assert np.abs(_apply(_network(tmsa=True), moved) - got).max() > 1e-3


@pytest.mark.turns(3, group='networks')
def test_frequencies_are_of_the_variables():
  network = _network(**NCSNPP)
  variables = _random(network)
  assert variables['buffers']['freqs'].shape == (8,)
  want = _apply(network, variables)
  moved = {**variables, 'buffers': {'freqs': variables['buffers']['freqs'] + 1}}
  assert np.abs(_apply(network, moved) - want).max() > 1e-3
  drawn = network.init(jax.random.key(0), *_inputs())['buffers']['freqs']
  assert 4 < np.std(drawn) < 40  # 16


def test_features_by_their_names():
  network = _network()
  variables = _random(network)
  names = ('enc_8x8_block0', 'dec_4x4_block1')
  out, found = _apply(network, variables, features=names)
  assert {name: f.shape for name, f in found.items()} == {
    'enc_8x8_block0': (B, 8, 8, 8),
    'dec_4x4_block1': (B, 4, 4, 16),
  }
  np.testing.assert_array_equal(out, _apply(network, variables))


@pytest.mark.parametrize('options', [{}, NCSNPP])
def test_result_is_float32_whatever_the_activations_are(options):
  network = _network(**options, dtype=jnp.bfloat16)
  shape = jax.eval_shape(
    lambda v: network.apply(v, *_inputs()), _shapes(network)
  )
  assert shape.shape == (B, 8, 8, 3)
  assert shape.dtype == np.float32


@pytest.mark.parametrize(
  ('options', 'side', 'message'),
  [
    ({'encoder_type': 'none'}, 8, "'none', allowed: standard, skip, residual"),
    ({'resample_filter': (1, 2, 1)}, 8, r'\(1, 2, 1\) must be an even number'),
    ({'model_channels': 6}, 8, 'model_channels = 6 .* must be a multiple of 4'),
    ({'num_blocks': 0}, 8, 'num_blocks = 0 must be positive'),
    ({}, 7, 'images of 7 x 7 do not fit.*multiples of 2 for 2 levels'),
  ],
)
def test_refuses(options, side, message):
  with pytest.raises(ValueError, match=message):
    _shapes(_network(**options), side)
