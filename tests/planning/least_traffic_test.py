"""Bytes that programs must move, counted by hand."""

import jax
import jax.numpy as jnp

from pyramid_jax.distributed import flops
from pyramid_jax.planning import least_traffic


ROWS, INNER, OUTER, PARTS = 32, 24, 40, 4
X = jax.ShapeDtypeStruct((ROWS, INNER), jnp.bfloat16)
KERNEL = jax.ShapeDtypeStruct((INNER, OUTER), jnp.bfloat16)
# A device has its share of the rows, and all of the kernel.
ONE = 2 * (ROWS // PARTS * (INNER + OUTER) + INNER * OUTER)


def test_a_product_reads_its_sides_and_writes_its_result():
  measure = least_traffic.measure([KERNEL], PARTS)
  assert flops.count(jnp.matmul, X, KERNEL, measure=measure) == ONE


def test_a_gradient_does_so_for_each_side_that_has_one():
  def losses(params, x):
    y = x @ params['a'] @ params['b']
    return {'g': y.astype(jnp.float32).sum()}, None

  back = jax.ShapeDtypeStruct((OUTER, INNER), jnp.bfloat16)
  params = {'g': {'a': KERNEL, 'b': back}}
  found = flops.of_training(
    lambda params, x: losses(params['g'], x),
    params,
    X,
    measure=least_traffic.measure(params, PARTS),
  )
  assert found == (2 + 3) * ONE  # the input has no gradient


def test_a_layer_of_a_scan_is_a_weight():
  def walk(x, kernels):
    return jax.lax.scan(lambda x, k: (x @ k, None), x, kernels)[0]

  kernels = jax.ShapeDtypeStruct((3, INNER, INNER), jnp.bfloat16)
  measure = least_traffic.measure([kernels], PARTS)
  layer = 2 * (ROWS // PARTS * 2 * INNER + INNER * INNER)
  assert flops.count(walk, X, kernels, measure=measure) == 3 * layer


def test_logits_of_attention_move_nothing():
  def attention(q, k, v):
    logits = jnp.einsum('btd,bsd->bts', q, k)
    return jnp.einsum('bts,bsd->btd', jax.nn.softmax(logits), v)

  rows = jax.ShapeDtypeStruct((8, 64, 16), jnp.bfloat16)
  measure = least_traffic.measure([], 8)
  found = flops.count(attention, rows, rows, rows, measure=measure)
  assert found == 4 * 2 * 64 * 16
