import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import affine


@pytest.mark.parametrize(
  ('fields', 'size'),
  [
    ({}, (8, 6)),
    ({'kernel_size': 1}, (8, 6)),
    ({'strides': 2, 'padding': 1}, (4, 3)),
    ({'strides': 2, 'padding': ((0, 1), (0, 1))}, (4, 3)),
    ({'kernel_size': 4, 'strides': 2, 'padding': 1}, (4, 3)),
    ({'kernel_size': 4, 'padding': 1}, (7, 5)),
  ],
)
def test_sizes(fields, size):
  module = affine.Conv(5, **fields)
  x = jnp.zeros((2, 8, 6, 3))

  y, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)

  assert y.shape == (2, *size, 5)


@pytest.mark.parametrize(
  ('padding', 'first_input_row'), [(1, -1), (((0, 1), (0, 1)), 0)]
)
def test_strided_padding_decides_which_pixels_meet_the_kernel(
  padding, first_input_row
):
  x = np.arange(64.0, dtype=np.float32).reshape(1, 8, 8, 1)
  module = affine.Conv(1, strides=2, padding=padding, use_bias=False)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[0, 0] = 1  # picks the first pixel under the kernel

  y = module.apply({'params': {'kernel': kernel}}, x)

  want = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  start = 1 + first_input_row
  np.testing.assert_array_equal(
    y, want[:, start : start + 8 : 2, start : start + 8 : 2]
  )


def test_default_initialisation_is_uniform_to_the_root_of_fan_in():
  x = jnp.zeros((1, 4, 4, 16))

  params = affine.Conv(64).init(jax.random.key(0), x)['params']

  bound = (9 * 16) ** -0.5
  for leaf in ('kernel', 'bias'):
    values = np.abs(params[leaf])
    assert values.max() <= bound
    assert values.max() > 0.9 * bound
  std = np.std(params['kernel'])
  np.testing.assert_allclose(std, bound / 3**0.5, rtol=0.03)


def test_symmetric_uniform_fills_both_sides():
  values = affine.symmetric_uniform(0.5)(jax.random.key(0), (1000,))

  assert -0.5 <= values.min() < -0.45
  assert 0.45 < values.max() <= 0.5


def test_element_types():
  x = jnp.zeros((1, 4, 4, 2))
  module = affine.Conv(3, dtype=jnp.bfloat16)

  y, variables = module.init_with_output(jax.random.key(0), x)

  assert y.dtype == jnp.bfloat16
  assert variables['params']['kernel'].dtype == jnp.float32


@pytest.mark.parametrize('size', [(2, 2), (1, 3), (1, 1)])
def test_maps_of_a_few_pixels_are_convolved_like_larger_ones(size):
  x = jax.random.normal(jax.random.key(0), (3, *size, 5))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 4))
  # The same map in the corner of a larger one, with the zeros made explicit.
  larger = jnp.pad(x, ((0, 0), (1, 5), (1, 5), (0, 0)))

  with jax.default_matmul_precision('highest'):
    got = affine.convolve(x, kernel, 1, ((1, 1), (1, 1)))
    want = affine.convolve(larger, kernel, 1, ((0, 0), (0, 0)))

  np.testing.assert_allclose(got, want[:, : size[0], : size[1]], atol=1e-5)


@pytest.mark.parametrize(
  ('k', 'strides', 'padding'),
  [
    (3, 1, ((1, 1), (1, 1))),
    (3, 2, ((1, 1), (1, 1))),
    (3, 2, ((0, 1), (0, 1))),
    (4, 2, ((1, 1), (1, 1))),
    (2, 2, ((0, 0), (0, 0))),
    (1, 1, ((0, 0), (0, 0))),
  ],
)
def test_the_gradient_is_the_usual_one(k, strides, padding):
  x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
  kernel = jax.random.normal(jax.random.key(1), (k, k, 3, 5))

  def gradient(convolve):
    total = lambda *args: jnp.sin(convolve(*args, strides, padding)).sum()
    return jax.jit(jax.grad(total, (0, 1)))(x, kernel)

  got, want = gradient(affine.convolve), gradient(convolve_by_xla)
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def convolve_by_xla(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (strides, strides),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@pytest.mark.parametrize(
  'layer',
  [affine.Linear(8, dtype=jnp.bfloat16), affine.Conv(8, dtype=jnp.bfloat16)],
)
def test_gradients_of_parameters_are_sums_in_float32(layer):
  x = jnp.ones((301, 2, 2, 4))
  variables = layer.init(jax.random.key(0), x)
  total = lambda v, x: layer.apply(v, x).astype(jnp.float32).sum()

  got = jax.grad(total)(variables, x)['params']

  # 1204 and 301 need more digits than bfloat16 has.
  np.testing.assert_array_equal(got['bias'], np.full(8, 1204.0))
  if got['kernel'].ndim == 2:
    np.testing.assert_array_equal(got['kernel'], np.full((4, 8), 1204.0))
  else:
    np.testing.assert_array_equal(got['kernel'][1, 1], np.full((4, 8), 1204.0))
    np.testing.assert_array_equal(got['kernel'][0, 0], np.full((4, 8), 301.0))


def test_what_recomputes_activations_may_keep_products():
  layer = affine.Linear(8, dtype=jnp.bfloat16)
  x = jnp.ones((3, 8))
  variables = layer.init(jax.random.key(0), x)

  def products(policy):
    walk = lambda v: layer.apply(v, jnp.sin(layer.apply(v, x)))
    total = lambda v: jax.checkpoint(walk, policy=policy)(v).sum()
    return str(jax.make_jaxpr(jax.grad(total))(variables)).count('dot_general')

  keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  nothing = jax.checkpoint_policies.nothing_saveable
  assert products(keep) == 6  # two, and four of their gradients
  assert products(nothing) == 7


def test_within_a_loop_gradients_keep_the_fast_layout():
  x = jnp.ones((1, 8, 8, 4))
  kernel = jnp.ones((3, 3, 4, 4))

  def text(convolve):
    total = lambda x, k: jnp.sin(convolve(x, k, 1, ((1, 1), (1, 1)))).sum()
    step = lambda x, k: (x - jax.grad(total)(x, k), None)
    walk = lambda x, k: jax.lax.scan(lambda x, _: step(x, k), x, length=3)[0]
    return jax.jit(walk).lower(x, kernel).compile().as_text()

  assert 'b01f_01oi->b01f' not in text(affine.convolve)
  assert 'b01f_01io->b01f' in text(affine.convolve)
