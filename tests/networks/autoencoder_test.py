import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import autoencoder


def _shapes(module, *shape):
  """Returns the shapes of the output and of the parameters."""
  x = jnp.zeros(shape)
  y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
  return y.shape, variables['params']


def _count(params):
  return sum(x.size for x in jax.tree.leaves(params))


def _filled(module, x, seed=0):
  """Random parameters, so that no two branches are alike."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)['params']
  rng = np.random.default_rng(seed)
  draw = lambda s: np.asarray(0.2 * rng.standard_normal(s.shape), np.float32)
  return {'params': jax.tree.map(draw, shapes)}


@pytest.mark.parametrize(
  ('fields', 'image', 'latent'),
  [
    ({'ch_mult': (1, 2), 'double_z': False}, (16, 24), (8, 12, 5)),
    ({'ch_mult': (1, 1, 2)}, (16, 16), (4, 4, 10)),
    ({'ch_mult': (1,), 'num_res_blocks': 1}, (6, 5), (6, 5, 10)),
    ({'ch_mult': (1, 2), 'resamp_with_conv': False}, (8, 8), (4, 4, 10)),
  ],
)
def test_shapes(fields, image, latent):
  encoder = autoencoder.Encoder(ch=32, z_channels=5, **fields)
  fields.pop('double_z', None)
  decoder = autoencoder.Decoder(ch=32, out_ch=2, **fields)

  assert _shapes(encoder, 2, *image, 3)[0] == (2, *latent)
  assert _shapes(decoder, 2, *latent)[0] == (2, *image, 2)


@pytest.mark.parametrize(
  ('resolution', 'encoder_level', 'decoder_level'),
  # nominal resolutions 32 16 8; with 34 the encoder counts 34 17 8, the
  # decoder doubles up 8 16 32
  [(32, 1, 1), (34, None, 1), (64, 2, 2), (128, None, None)],
)
def test_attention_is_placed_by_nominal_resolution(
  resolution, encoder_level, decoder_level
):
  fields = {
    'ch': 32,
    'ch_mult': (1, 1, 1),
    'num_res_blocks': 1,
    'attn_resolutions': (16,),
    'resolution': resolution,
  }
  _, encoder = _shapes(autoencoder.Encoder(z_channels=4, **fields), 1, 8, 8, 3)
  _, decoder = _shapes(autoencoder.Decoder(**fields), 1, 2, 2, 4)

  for params, name, level in (
    (encoder, 'down', encoder_level),
    (decoder, 'up', decoder_level),
  ):
    found = [i for i in range(3) if 'attn_0' in params[f'{name}_{i}']]
    assert found == ([] if level is None else [level])
    assert 'attn_1' in params['mid_ms_0' if 'mid_ms_0' in params else 'mid']


# Sizes of published first stages, in millions, to the digits printed.
@pytest.mark.parametrize(
  ('fields', 'z', 'double_z', 'encoder_m', 'decoder_m'),
  [
    ({'ch_mult': (1, 2, 4)}, 3, False, 22.34, 32.96),
    ({'ch_mult': (1, 2, 4), 'attn_type': 'none'}, 3, False, 21.29, 31.91),
    ({'ch_mult': (1, 2, 4, 4)}, 4, True, 34.16, 49.49),
    (
      {'ch_mult': (1, 1, 2, 2, 4), 'attn_resolutions': (16,)},
      16,
      True,
      28.27,
      41.34,
    ),
  ],
)
def test_sizes_of_published_first_stages(
  fields, z, double_z, encoder_m, decoder_m
):
  encoder = autoencoder.Encoder(z_channels=z, double_z=double_z, **fields)

  _, encoder = _shapes(encoder, 1, 32, 32, 3)
  _, decoder = _shapes(autoencoder.Decoder(**fields), 1, 2, 2, z)

  assert round(_count(encoder) / 1e6, 2) == encoder_m
  assert round(_count(decoder) / 1e6, 2) == decoder_m


SMALL = {'ch': 32, 'ch_mult': (1, 1), 'num_res_blocks': 1}


def test_remat_changes_no_gradient():
  x = np.random.default_rng(0).standard_normal((1, 4, 4, 32)).astype('f')
  plain = autoencoder.Level(
    'vanilla', 0.0, jnp.float32, 'none', 'xla', 32, 1, None, True
  )
  remat = plain.clone(remat='full')
  params = _filled(plain, x)

  def gradient(module):
    return jax.grad(lambda params: (module.apply(params, x)[0] ** 2).sum())

  got = jax.jit(gradient(remat))(params)
  want = jax.jit(gradient(plain))(params)

  assert 'remat' in str(jax.make_jaxpr(gradient(remat))(params))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-4
    ),
    got,
    want,
  )


def test_bfloat16_stays_near_float32_and_returns_float32():
  x = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype('f')
  module = autoencoder.Encoder(**SMALL, z_channels=4)
  params = _filled(module, x)

  want = jax.jit(module.apply)(params, x)
  got = jax.jit(module.clone(dtype=jnp.bfloat16).apply)(params, x)

  assert got.dtype == jnp.float32
  assert np.any(got != want)
  # a few roundings to 8 bits, against outputs of magnitude max |want|
  np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())


def test_dropout_acts_where_a_random_stream_is_given():
  x = np.random.default_rng(0).standard_normal((1, 4, 4, 32)).astype('f')
  block = autoencoder.ResnetBlock(32, dropout=0.5)
  params = _filled(block, x)

  still = block.apply(params, x)
  shaken = block.apply(params, x, rngs={'dropout': jax.random.key(1)})

  no_dropout = autoencoder.ResnetBlock(32).apply(params, x)
  np.testing.assert_array_equal(still, no_dropout)
  assert np.abs(shaken - still).max() > 0.01


def test_the_last_convolution_can_be_called_apart():
  z = np.random.default_rng(0).standard_normal((1, 4, 4, 3)).astype('f')
  module = autoencoder.Decoder(**SMALL, tanh_out=True)
  params = _filled(module, z)

  features = module.apply(params, z, method='features')
  got = module.apply(params, features, method='last_conv')

  assert features.shape == (1, 8, 8, 32)
  np.testing.assert_allclose(got, module.apply(params, z), atol=1e-6)
  assert np.abs(got).max() <= 1


def test_sides_that_cannot_be_halved_are_named():
  module = autoencoder.Encoder(ch=32, ch_mult=(1, 1, 1), z_channels=4)
  with pytest.raises(ValueError, match=r'multiples of 4.*\(1, 8, 6, 3\)'):
    _shapes(module, 1, 8, 6, 3)


def test_unknown_attention_is_named():
  module = autoencoder.Decoder(**SMALL, attn_type='flash')
  with pytest.raises(ValueError, match="'flash', allowed: .*vanilla"):
    _shapes(module, 1, 4, 4, 3)


def test_linear_attention_by_hand():
  """Every position reads the sum of values weighted over all positions."""
  x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype('f')
  block = autoencoder.LinearAttnBlock()
  params = _filled(block, x)
  tree = params['params']

  q, k, v = np.split(
    x.reshape(6, 4) @ tree['to_qkv']['kernel'][0, 0], 3, axis=-1
  )
  k = np.exp(k) / np.exp(k).sum(0)
  want = q @ (k.T @ v) @ tree['to_out']['kernel'][0, 0]
  want = want + tree['to_out']['bias']

  np.testing.assert_allclose(
    block.apply(params, x).reshape(6, 4), want, atol=1e-5
  )
