import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from pyramid_jax.networks import msvqgan


def _model(scales=2, levels=2, **fields):
  common = {'ch': 32, 'num_res_blocks': 1, 'resolution': 16}
  return msvqgan.MSVQGAN(
    **{
      'edconfig': {
        **common,
        'ch_mult': (1,) * levels,
        'z_channels': (3,) * scales,
      },
      'ddconfig': {
        **common,
        'ch_mult': (1,) * (levels + 1 - scales),
        'z_channels': 5,
      },
      'embed_dim': (3,) * scales,
      'n_embed': tuple(range(20, 20 + scales)),
      'shared_ch': 32,
      'shared_num_res_blocks': 1,
      **fields,
    }
  )


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope='module')
def model():
  """A model of two scales, its parameters, and latents on their grids."""
  module = _model()
  image = jnp.zeros((1, 8, 4, 3))
  shapes = jax.eval_shape(module.init, jax.random.key(0), image)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32), shapes
  )
  latents = [_normal(0, 2, 4, 2, 3), _normal(1, 2, 8, 4, 3)]
  return module, {'params': params}, latents


@pytest.mark.parametrize('scales', [1, 2, 3])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_shapes(scales, dtype):
  module = _model(scales, levels=3, dtype=dtype)
  image = jnp.zeros((2, 16, 8, 3))

  out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)

  assert out['reconstruction'].shape == image.shape
  assert out['reconstruction'].dtype == jnp.float32
  assert out['features'].shape == (2, 16, 8, 32)
  assert len(out['codes']) == len(out['codebook_losses']) == scales
  for i, (latent, codes) in enumerate(
    zip(out['latents'], out['codes'], strict=True)
  ):
    side = 4 * 2**i
    assert latent.shape == (2, side, side // 2, 3)
    assert latent.dtype == jnp.float32
    assert codes.shape == (2, side, side // 2)
    assert codes.dtype == jnp.int32
  assert all(loss.shape == () for loss in out['codebook_losses'])


def test_config_dict_gives_the_same_module():
  module = _model(2)
  fields = {
    name: dict(value) if isinstance(value, dict) else value
    for name, value in vars(module).items()
    if name in ('edconfig', 'ddconfig', 'embed_dim', 'n_embed')
  }
  config = ml_collections.ConfigDict(fields)

  again = msvqgan.MSVQGAN(
    **config.to_dict(), shared_ch=32, shared_num_res_blocks=1
  )

  assert again == module


def test_decode_takes_a_scale_on_its_own_or_on_the_fine_grid(model):
  module, variables, (coarse, fine) = model
  decode = jax.jit(lambda zs: module.apply(variables, zs, method='decode'))

  own = decode([coarse, fine])
  repeated = decode([coarse.repeat(2, 1).repeat(2, 2), fine])

  np.testing.assert_allclose(repeated, own, atol=1e-5)
  assert own.shape == (2, 8, 4, 3)


def test_decode_looks_up_every_position_of_the_fine_grid(model):
  module, variables, (_, fine) = model
  free = _normal(2, 2, 8, 4, 3)

  entries, codes, _ = module.apply(variables, [free, fine], method='quantize')
  decode = jax.jit(
    lambda zs, quantize: module.apply(variables, zs, quantize, method='decode'),
    static_argnums=1,
  )

  assert codes[0].shape == (2, 8, 4)
  books = [variables['params'][f'ms_quantize_{i}']['embedding'] for i in (0, 1)]
  for entry, code, book in zip(entries, codes, books, strict=True):
    np.testing.assert_allclose(entry, book[code], atol=1e-6)
  np.testing.assert_allclose(
    decode([free, fine], True), decode(entries, False), atol=1e-5
  )
  assert np.any(decode([free, fine], True) != decode([free, fine], False))


def test_the_last_convolution_can_be_called_apart(model):
  module, variables, latents = model

  apply = jax.jit(module.apply, static_argnames='method')

  features = apply(variables, latents, method='decode_features')
  got = apply(variables, features, method='last_conv')

  want = apply(variables, latents, method='decode')
  np.testing.assert_allclose(got, want, atol=1e-6)
  # linear in the kernel: what the adaptive weight relies on
  conv = variables['params']['decoder']['conv_out']
  assert conv['kernel'].shape == (3, 3, features.shape[-1], 3)


def test_training_path_is_encode_quantise_decode(model):
  module, variables, _ = model
  image = _normal(3, 2, 8, 4, 3)

  def parts(image):
    latents = module.apply(variables, image, method='encode')
    entries, codes, losses = module.apply(variables, latents, method='quantize')
    decoded = module.apply(variables, entries, False, method='decode')
    return latents, codes, losses, decoded

  latents, codes, losses, decoded = jax.jit(parts)(image)
  out = jax.jit(module.apply)(variables, image)

  np.testing.assert_allclose(out['reconstruction'], decoded, atol=1e-5)
  np.testing.assert_allclose(out['codebook_losses'], losses, rtol=1e-5)
  for s in range(2):
    np.testing.assert_allclose(out['latents'][s], latents[s], atol=1e-5)
    np.testing.assert_array_equal(out['codes'][s], codes[s])


def test_gradients_reach_every_parameter(model):
  module, variables, _ = model
  image = _normal(3, 1, 8, 4, 3)

  def loss(params):
    out = module.apply({'params': params}, image)
    error = jnp.abs(out['reconstruction'] - image).mean()
    return error + sum(out['codebook_losses'])

  gradients = jax.jit(jax.grad(loss))(variables['params'])

  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(gradient).all()
    name = jax.tree_util.keystr(path)
    # With one channel a group, a shift in front of a group norm cancels, and
    # a softmax ignores what all keys share.
    shifts = "'bias'" in name and (
      "conv1'" in name or "conv_in'" in name or "['k']" in name
    )
    if not shifts:
      assert np.any(gradient != 0), name


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'n_embed': (8,)}, r'one entry a scale.*\(8,\)'),
    (
      {
        'edconfig': {'ch': 32, 'ch_mult': (1,), 'z_channels': (3, 3)},
      },
      r'between 1 and 1 scales',
    ),
  ],
)
def test_scales_that_do_not_agree_are_named(fields, words):
  module = _model(2, **fields)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
  ('shapes', 'words'),
  [
    ([(1, 4, 4, 3)], r'\(3, 3\) channels'),
    ([(1, 4, 4, 3), (1, 8, 8, 4)], r'\(3, 3\) channels.*\(1, 8, 8, 4\)'),
    ([(1, 3, 4, 3), (1, 8, 8, 3)], r'multiple of every other.*\(1, 3, 4, 3\)'),
  ],
)
def test_latents_that_do_not_fit_are_named(model, shapes, words):
  module, variables, _ = model
  with pytest.raises(ValueError, match=words):
    module.apply(variables, [np.zeros(s) for s in shapes], method='decode')
