import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import first_stages


DDCONFIG = {
  'ch': 32,
  'ch_mult': (1, 1, 1),
  'num_res_blocks': 1,
  'resolution': 16,
  'z_channels': 5,
}


def _kl(**changes):
  return first_stages.AutoencoderKL(ddconfig=DDCONFIG | changes, embed_dim=3)


def _vq(**changes):
  return first_stages.VQModel(
    ddconfig=DDCONFIG | changes, embed_dim=3, n_embed=20
  )


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _filled(module, image):
  shapes = jax.eval_shape(module.init, jax.random.key(0), image)['params']
  rng = np.random.default_rng(0)
  draw = lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32)
  return {'params': jax.tree.map(draw, shapes)}


@pytest.fixture(scope='module', params=[_kl, _vq])
def bound(request):
  module = request.param()
  image = _normal(1, 2, 16, 8, 3)
  return module.bind(_filled(module, image)), image


def test_latents_and_images_have_their_shapes(bound):
  module, image = bound
  out = module(image)
  assert [z.shape for z in module.encode(image)] == [(2, 4, 2, 3)]
  assert out['reconstruction'].shape == image.shape
  assert out['reconstruction'].dtype == jnp.float32
  if 'codes' in out:
    assert out['codes'][0].shape == (2, 4, 2)
    assert out['codebook_losses'][0].shape == ()
  else:
    assert out['kl'].shape == (2,)


def test_training_path_is_encode_then_decode(bound):
  module, image = bound
  noise = _normal(2, 2, 4, 2, 3)
  out = module(image, noise)
  zs = module.encode(image, noise)
  np.testing.assert_allclose(out['latents'][0], zs[0], atol=1e-6)
  np.testing.assert_allclose(
    out['reconstruction'], module.decode(zs), atol=1e-5
  )
  features = module.decode_features(zs)
  np.testing.assert_allclose(
    module.last_conv(features), module.decode(zs), atol=1e-6
  )


def test_noise_moves_a_latent_by_its_deviation():
  module = _kl()
  image = _normal(1, 1, 8, 8, 3)
  module = module.bind(_filled(module, image))
  mean, logvar = module.posterior(image)
  assert np.any(np.abs(logvar) > 1e-3)
  noise = _normal(2, 1, 2, 2, 3)
  np.testing.assert_array_equal(module.encode(image)[0], mean)
  np.testing.assert_allclose(
    module.encode(image, noise)[0],
    mean + np.exp(0.5 * np.asarray(logvar)) * noise,
    rtol=1e-5,
  )


def test_log_variances_are_clamped():
  mean, logvar = first_stages.split_moments(jnp.array([[1.0, 2, -99, 99]]))
  np.testing.assert_array_equal(mean, [[1, 2]])
  np.testing.assert_array_equal(logvar, [[-30, 20]])


def test_divergence_of_one_gaussian_by_hand():
  mean, logvar = jnp.full((2, 1, 1, 1), 3.0), jnp.full((2, 1, 1, 1), np.log(4))
  want = 0.5 * (9 + 4 - 1 - np.log(4))
  np.testing.assert_allclose(
    first_stages.divergence(mean, logvar), [want, want], rtol=1e-6
  )
  zero = jnp.zeros((1, 2, 2, 3))
  np.testing.assert_array_equal(first_stages.divergence(zero, zero), [0])


def test_a_decoder_quantises_unless_told_not_to():
  module = _vq()
  image = _normal(1, 2, 8, 8, 3)
  module = module.bind(_filled(module, image))
  zs = [_normal(3, 2, 2, 2, 3)]
  entries, codes, _ = module.quantize(zs[0])
  np.testing.assert_allclose(
    entries, module.quantize.embedding[codes], atol=1e-6
  )
  decoded = module.decode(zs)
  np.testing.assert_allclose(
    decoded, module.decode([entries], quantize=False), atol=1e-5
  )
  assert np.abs(decoded - module.decode(zs, quantize=False)).max() > 1e-3


@pytest.mark.parametrize(
  ('attn_type', 'names'),
  [
    ('vanilla', {'norm', 'q', 'k', 'v', 'proj_out'}),
    ('linear', {'to_qkv', 'to_out'}),
    ('none', set()),
  ],
)
def test_attention_types(attn_type, names):
  module = _kl(attn_type=attn_type)
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )
  middle = shapes['params']['encoder']['mid']
  assert set(middle.get('attn_1', {})) == names


@pytest.mark.parametrize(
  ('module', 'message'),
  [
    (_kl(double_z=False), 'double_z is False, must be True in AutoencoderKL'),
    (_vq(double_z=True), 'double_z is True, must be False in VQModel'),
    (_kl(attn_type='flash'), "attn_type is 'flash', allowed"),
    (_kl(in_channels=1), r'must have 1 channels, got shape \(1, 8, 8, 3\)'),
  ],
)
def test_wrong_fields_are_named(module, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_wrong_latents_are_named(bound):
  module, image = bound
  with pytest.raises(ValueError, match='needed one latent of 3 channels'):
    module.decode([_normal(0, 1, 2, 2, 4)])
  with pytest.raises(ValueError, match=r'got shapes \[\]'):
    module.decode([])
  if isinstance(module, first_stages.AutoencoderKL):
    with pytest.raises(ValueError, match='noise must have the shape'):
      module.encode(image, _normal(0, 1, 2, 2, 3))
