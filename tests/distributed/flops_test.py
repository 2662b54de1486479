"""Counts of operations against counts by hand, XLA's and those of gradients."""

from flax import linen as nn
import jax
from jax import lax
from jax.experimental import pallas
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import flops
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.networks import dit
from pyramid_jax.networks import latent_diffit
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import attention
from pyramid_jax.training import step as step_lib


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_product():
  assert flops.count(jnp.matmul, shape(5, 7), shape(7, 11)) == 2 * 5 * 7 * 11


def test_a_batched_product():
  pair = shape(3, 5, 7), shape(3, 7, 11)
  assert flops.count(jnp.matmul, *pair) == 2 * 3 * 5 * 7 * 11


@pytest.mark.parametrize('strides', [1, 2])
def test_a_convolution(strides):
  def convolve(x, kernel):
    return affine.convolve(x, kernel, strides, ((1, 1), (1, 1)))

  side = 8 // strides
  found = flops.count(convolve, shape(2, 8, 8, 3), shape(3, 3, 3, 5))
  assert found == 2 * 2 * side * side * 9 * 3 * 5


def test_a_grouped_convolution():
  def convolve(x, kernel):
    return lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=4,
    )

  found = flops.count(convolve, shape(1, 5, 5, 8), shape(1, 1, 2, 12))
  assert found == 2 * 25 * 2 * 12


def test_a_transposed_convolution_does_not_count_zeros():
  layer = nn.ConvTranspose(4, (2, 2), (2, 2))
  x = shape(1, 8, 8, 3)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)
  assert flops.count(layer.apply, params, x) == 2 * 64 * 4 * 3 * 4


def test_attention():
  q, k = shape(2, 16, 4, 8), shape(2, 10, 4, 8)
  found = flops.count(attention.dot_product_attention, q, k, k)
  assert found == 2 * 2 * (2 * 4 * 16 * 10 * 8)


def test_the_flash_kernel_counts_as_plain_attention():
  q = shape(1, 1024, 2, 64)
  flash = lambda q: attention._flash_attention(q, q, q, None, 1.0)
  plain = lambda q: attention._matmul_attention(q, q, q, None, 1.0)
  assert flops.count(flash, q) == flops.count(plain, q)
  loss = lambda function: lambda p: ({'a': function(p['a']).sum()}, ())
  found = [flops.of_training(loss(f), {'a': q}) for f in (flash, plain)]
  assert found == [3 * flops.count(plain, q)] * 2


def test_a_kernel_counts_for_every_block():
  def kernel(a, b, out):
    out[...] = a[...] @ b[...]

  def product(a, b):
    return pallas.pallas_call(
      kernel,
      grid=(4,),
      in_specs=[
        pallas.BlockSpec((2, 7), lambda i: (i, 0)),
        pallas.BlockSpec((7, 5), lambda i: (0, 0)),
      ],
      out_specs=pallas.BlockSpec((2, 5), lambda i: (i, 0)),
      out_shape=jax.ShapeDtypeStruct((8, 5), jnp.float32),
    )(a, b)

  assert flops.count(product, shape(8, 7), shape(7, 5)) == 2 * 8 * 7 * 5


ONE = 2 * 4**3  # of a product of 4 x 4 matrices
X = shape(4, 4)


@pytest.mark.parametrize(
  ('function', 'products'),
  [
    (jax.checkpoint(lambda x: x @ x), 1),
    (jax.jit(lambda x: x @ x), 1),
    (lambda x: lax.scan(lambda c, _: (c @ x, c @ x @ x), x, None, 5)[0], 5),
    (lambda x: lax.scan(lambda c, _: (c @ x, c @ x @ x), x, None, 5), 15),
    (lambda x: lax.map(lambda i: x @ x * i, jnp.arange(3.0)), 3),
    (lambda x: lax.fori_loop(0, 6, lambda _, c: c @ x, x), 6),
    (lambda x: lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ x, x), 1),
    (lambda x: lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x), 2),
    (lambda x: (x @ x, x)[1], 0),  # the product is not needed
  ],
)
def test_programs_within_programs(function, products):
  assert flops.count(function, X) == products * ONE


def test_every_device_counts_its_part():
  mesh = mesh_lib.pure_data()
  rows, whole = jax.sharding.PartitionSpec('data'), jax.sharding.PartitionSpec()
  split = jax.shard_map(
    lambda x, w: x @ w, mesh=mesh, in_specs=(rows, whole), out_specs=rows
  )
  assert mesh.size == 8
  assert flops.count(split, shape(16, 4), X) == 2 * 16 * 4 * 4


def of_training(loss, trained, *frozen):
  return flops.of_training(
    lambda params, *rest: ({'a': jnp.sum(loss(params['a'], *rest))}, ()),
    {'a': trained},
    *frozen,
  )


@pytest.mark.parametrize(
  ('loss', 'products'),
  [
    (lambda w, x: x @ w, 2),  # nothing asks for the gradient by x
    (lambda w, x: x @ w @ w, 5),
    (lambda w, x: x @ x + w, 1),  # a frozen network
    (lambda w, x: (x + w) @ x, 2),  # the gradient passes through one
    (lambda w, x: w @ w, 3),
    (lambda w, x: lax.stop_gradient(w @ w) * w, 1),
    (lambda w, x: x @ (w > 0).astype(float) + w, 1),
    (lambda w, x: jax.checkpoint(lambda w: w @ w)(w), 3),
    (lambda w, x: lax.cond(x[0, 0] > 0, lambda: w @ w, lambda: x @ w), 3),
    (lambda w, x: lax.scan(lambda c, _: (c @ w, ()), w, None, 4)[0], 12),
    # Only what is carried on is trained: x is active from the second step on.
    (lambda w, x: lax.scan(lambda c, _: (c @ x + w, ()), x, None, 4)[0], 8),
    (lambda w, x: lax.scan(lambda c, _: (c, c @ w), x, None, 4)[1], 8),
  ],
)
def test_gradients_cost_what_they_need(loss, products):
  assert of_training(loss, X, X) == products * ONE


def test_each_loss_has_its_own_parameters():
  def losses(params, x):
    fake = x @ params['generator']
    fixed = lax.stop_gradient(params['critic'])
    return {
      'generator': jnp.sum(fake @ fixed),  # 1 forward, 1 back
      'critic': jnp.sum(lax.stop_gradient(fake) @ params['critic']),  # 1, 1
    }, {'unused': x}

  params = {'generator': X, 'critic': X}
  assert flops.of_training(losses, params, X) == (2 + 2 + 2) * ONE


# arXiv:2212.09748, table 4, and facebookresearch/DiT: README.md.
@pytest.mark.parametrize(
  ('network', 'side', 'published'),
  [
    (dit.DiT(), 32, 118.64),
    (dit.DiT(input_size=64), 64, 524.60),
    # The paper (arXiv:2312.02139, table 9) has 114: without q k and w v.
    (latent_diffit.LatentDiffiT(), 32, 118.5),
  ],
)
def test_published_numbers(network, side, published):
  inputs = shape(1, side, side, 4), shape(1), jax.ShapeDtypeStruct((1,), int)
  params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  found = flops.count(network.apply, params, *inputs)
  # Papers count a multiplication and its addition as one.
  np.testing.assert_allclose(found / 2e9, published, rtol=0.001)


class Small(nn.Module):
  """A convolution, attention and two layers."""

  @nn.compact
  def __call__(self, x):
    x = affine.Conv(features=128, padding=0)(x)
    x = nn.silu(x).reshape(x.shape[0], -1, 2, 64)
    x = attention.dot_product_attention(x, x, x).reshape(x.shape[0], -1)
    return affine.Linear(features=64)(nn.silu(affine.Linear(features=256)(x)))


def test_xla_counts_as_much():
  model, x = Small(), shape(2, 18, 18, 16)
  params = jax.eval_shape(model.init, jax.random.key(0), x)
  compiled = jax.jit(model.apply).lower(params, x).compile()
  found = compiled.cost_analysis()
  found = found[0] if isinstance(found, list) else found
  np.testing.assert_allclose(
    flops.count(model.apply, params, x), found['flops'], rtol=0.03
  )


def test_a_step_counts_as_its_gradients():
  model, x = Small(), shape(2, 18, 18, 16)
  params = jax.eval_shape(model.init, jax.random.key(0), x)
  losses = lambda p, x: ({'a': model.apply(p['a'], x).sum()}, ())
  found = flops.of_training(losses, {'a': params}, x)
  gradients = lambda p, x: step_lib.gradients(lambda p: losses(p, x), p)
  assert found == flops.count(gradients, {'a': params}, x)
