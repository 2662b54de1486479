import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import norms


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _group_norm(x, groups, eps):
  """Group norm without its affine part, in float64."""
  x = np.asarray(x, np.float64)
  b, *space, c = x.shape
  grouped = x.reshape(b, -1, groups, c // groups)
  mean = grouped.mean((1, 3), keepdims=True)
  var = grouped.var((1, 3), keepdims=True)
  return ((grouped - mean) / np.sqrt(var + eps)).reshape(b, *space, c)


@pytest.mark.parametrize(
  ('shape', 'groups', 'offset'),
  [
    ((2, 5, 4, 64), 32, 0),
    ((2, 5, 4, 64), 32, 100),  # plain E[x^2] - E[x]^2 is off by 1e-3 here
    ((3, 7, 12), 4, -50),
    ((1, 1, 1, 32), 8, 3),
  ],
)
def test_group_norm_equals_float64(shape, groups, offset):
  x = _normal(0, *shape) + np.float32(offset)
  scale, bias = 1 + 0.1 * _normal(1, shape[-1]), _normal(2, shape[-1])
  module = norms.GroupNorm(1e-5, groups)

  apply = jax.jit(module.apply)
  got = apply({'params': {'scale': scale, 'bias': bias}}, x)

  want = _group_norm(x, groups, 1e-5) * scale + bias
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_group_norm_keeps_precision_where_the_first_row_is_unlike_the_rest():
  # the shift of the one-pass variance is taken from the first row
  x = _normal(0, 1, 64, 4, 32)
  x[:, 0] += 1000

  got = norms.group_norm(x, np.ones(32), np.zeros(32), 32, 1e-6)

  np.testing.assert_allclose(got, _group_norm(x, 32, 1e-6), atol=2e-4)


def test_group_norm_has_the_gradient_of_the_plain_form():
  x, weight = _normal(0, 2, 6, 5, 8) + 2, _normal(1, 2, 6, 5, 8)
  scale, bias = _normal(2, 8), _normal(3, 8)

  def plain(x, scale, bias):
    grouped = x.reshape(2, 30, 4, 2)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    var = (centred**2).mean((1, 3), keepdims=True)
    y = (centred / jnp.sqrt(var + 1e-5)).reshape(x.shape)
    return (weight * (y * scale + bias)).sum()

  def ours(x, scale, bias):
    return (weight * norms.group_norm(x, scale, bias, 4, 1e-5)).sum()

  got = jax.jit(jax.grad(ours, (0, 1, 2)))(x, scale, bias)

  want = jax.jit(jax.grad(plain, (0, 1, 2)))(x, scale, bias)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_group_norm_keeps_the_input_in_its_own_element_type():
  x = jnp.asarray(_normal(0, 2, 8, 8, 32), jnp.bfloat16)
  scale = jnp.ones(32)

  _, backward = jax.vjp(
    lambda x, s: norms.group_norm(x, s, scale, 8, 1e-5), x, scale
  )
  dx, _ = backward(jnp.ones(x.shape))

  kept = [leaf.dtype for leaf in jax.tree.leaves(backward) if leaf.ndim == 4]
  assert kept == [jnp.bfloat16]
  assert dx.dtype == jnp.bfloat16


def test_no_part_of_a_wide_copy_is_read():
  # A TPU would write all of the copy, twice the bytes of the map.
  x, scale = jnp.zeros((2, 8, 8, 32), jnp.bfloat16), jnp.ones(32)
  traced = jax.make_jaxpr(lambda x: norms.group_norm(x, scale, scale, 8, 1e-5))(
    x
  )
  inner = traced.jaxpr.eqns[0].params['call_jaxpr']
  slices = [e for e in inner.eqns if 'slice' in e.primitive.name]
  assert [e.invars[0].aval.dtype for e in slices] == [jnp.bfloat16]


def test_group_norm_of_bfloat16_has_float32_statistics():
  x = jnp.asarray(_normal(0, 1, 64, 64, 32) + 4, jnp.bfloat16)
  module = norms.GroupNorm(1e-6, dtype=jnp.bfloat16)
  variables = module.init(jax.random.key(0), x)

  got = module.apply(variables, x)

  assert got.dtype == jnp.bfloat16
  assert variables['params']['scale'].dtype == jnp.float32
  want = _group_norm(np.asarray(x, np.float32), 32, 1e-6)
  # rounding to bfloat16's 8 significant bits
  np.testing.assert_allclose(
    np.asarray(got, np.float32), want, rtol=2**-8, atol=1e-5
  )


def test_group_norm_names_channels_that_cannot_be_split():
  with pytest.raises(ValueError, match='48 channels .* num_groups = 32'):
    norms.GroupNorm(1e-5).init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))


def test_layer_norm_equals_float64():
  x = _normal(0, 2, 7, 24) + 30
  scale, bias = _normal(1, 24), _normal(2, 24)

  got = norms.LayerNorm().apply({'params': {'scale': scale, 'bias': bias}}, x)

  x64 = np.asarray(x, np.float64)
  want = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(
    x64.var(-1, keepdims=True) + 1e-5
  )
  np.testing.assert_allclose(got, want * scale + bias, atol=1e-5)


def _conv3x3(x, kernel, bias):
  """A 3x3 convolution with zero padding, written out."""
  b, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  out = np.zeros((b, h, w, kernel.shape[-1]))
  for i in range(3):
    for j in range(3):
      out += padded[:, i : i + h, j : j + w] @ kernel[i, j]
  return out + bias


def test_gated_norm_scales_and_shifts_by_convolutions_of_the_map():
  x, cond = _normal(0, 2, 4, 6, 64), _normal(1, 2, 8, 12, 5)
  module = norms.GatedNorm(1e-5, hidden=16)
  with jax.default_matmul_precision('highest'):
    variables = jax.jit(module.init)(jax.random.key(0), x, cond)
    got = jax.jit(module.apply)(variables, x, cond)

  p = jax.tree.map(np.asarray, variables['params'])
  conv = lambda x, name: _conv3x3(x, p[name]['kernel'], p[name]['bias'])
  hidden = np.maximum(conv(cond[:, ::2, ::2], 'mlp_shared_0'), 0)
  normalised = _group_norm(x, 32, 1e-5)
  want = normalised * (1 + conv(hidden, 'mlp_gamma')) + conv(hidden, 'mlp_beta')
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_gated_norm_without_a_map_is_its_group_norm():
  x, cond = _normal(0, 1, 4, 4, 32), _normal(1, 1, 4, 4, 3)
  module = norms.GatedNorm(1e-6)
  params = module.init(jax.random.key(0), x, cond)['params']

  got = module.apply({'params': params}, x)

  want = norms.GroupNorm(1e-6).apply({'params': params['param_free_norm']}, x)
  np.testing.assert_array_equal(got, want)


def test_gated_norm_reuses_a_cached_gate_exactly():
  x, cond = _normal(0, 1, 4, 4, 32), _normal(1, 1, 4, 4, 3)
  module = norms.GatedNorm(1e-6)
  params = module.init(jax.random.key(0), x, cond)['params']

  _, cache = module.apply({'params': params}, 2 * x, cond, mutable=['cache'])
  got = module.apply({'params': params, **cache}, x, np.zeros_like(cond))

  want = module.apply({'params': params}, x, cond)
  np.testing.assert_array_equal(got, want)
