import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import attention


def _qkv(t=5, s=3, heads=2, dim=8, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = ((2, t, heads, dim), (2, s, heads, dim), (2, s, heads, dim))
  return [
    jax.random.normal(k, shape, dtype)
    for k, shape in zip(keys, shapes, strict=True)
  ]


def _numpy_attention(q, k, v, bias=0.0, scale=None):
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  logits = np.einsum('bthd,bshd->bhts', q, k) * scale + bias
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('bhts,bshd->bthd', weights, v)


@pytest.mark.parametrize('scale', [None, 1.0])
def test_equals_the_formula(scale):
  q, k, v = _qkv()
  with jax.default_matmul_precision('highest'):
    got = attention.dot_product_attention(q, k, v, scale=scale)
  np.testing.assert_allclose(
    got, _numpy_attention(q, k, v, scale=scale), atol=1e-6
  )


def test_bias_hides_the_future():
  q, k, v = _qkv(t=4, s=4)
  bias = np.where(np.tril(np.ones((4, 4))), 0.0, -1e9)
  with jax.default_matmul_precision('highest'):
    got = attention.dot_product_attention(q, k, v, bias=jnp.asarray(bias))
  np.testing.assert_allclose(got, _numpy_attention(q, k, v, bias), atol=1e-6)
  np.testing.assert_allclose(got[:, 0], v[:, 0], atol=1e-6)


def test_softmax_is_float32_in_bfloat16():
  q, k, v = _qkv(dtype=jnp.bfloat16)
  jaxpr = str(jax.make_jaxpr(attention.dot_product_attention)(q, k, v))
  assert 'f32[2,2,5,3] = exp' in jaxpr
  assert 'bf16[2,2,5,3] = exp' not in jaxpr
  assert attention.dot_product_attention(q, k, v).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'implementation': 'flash'}, 'implementation'),
    ({'k': jnp.zeros((2, 3, 1, 8))}, 'k, v'),
    (
      {'k': jnp.zeros((2, 3, 4, 8)), 'v': jnp.zeros((2, 3, 4, 8))},
      'token axis',
    ),
  ],
)
def test_refuses(change, message):
  arguments = dict(zip('qkv', _qkv(), strict=True)) | change
  with pytest.raises(ValueError, match=message):
    attention.dot_product_attention(**arguments)
