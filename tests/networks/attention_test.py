import types

import jax
from jax.experimental.pallas import tpu as pltpu
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
    ({'implementation': 'fast'}, "'fast', allowed: auto, xla, cudnn, flash"),
    ({'implementation': 'flash'}, 'runs on tpu, this is cpu'),
    ({'implementation': 'cudnn'}, 'runs on gpu, this is cpu'),
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


def _shapes(t=1024, s=1024, dim=64, dtype=jnp.bfloat16):
  q = jax.ShapeDtypeStruct((2, t, 4, dim), dtype)
  k = jax.ShapeDtypeStruct((2, s, 4, dim), dtype)
  return q, k, k


@pytest.mark.parametrize(
  ('asked', 'platform', 'shapes', 'more', 'expected'),
  [
    ('auto', 'cpu', {}, {}, 'xla'),
    ('auto', 'gpu', {'t': 64, 's': 77}, {'capability': 8.0}, 'cudnn'),
    ('auto', 'gpu', {'dim': 128}, {'capability': 9.0}, 'cudnn'),
    ('auto', 'gpu', {'dtype': jnp.float16}, {'capability': 9.0}, 'cudnn'),
    ('auto', 'gpu', {'dtype': jnp.float32}, {'capability': 9.0}, 'xla'),
    ('auto', 'gpu', {'dim': 136}, {'capability': 9.0}, 'xla'),
    ('auto', 'gpu', {'dim': 36}, {'capability': 9.0}, 'xla'),
    ('auto', 'gpu', {}, {'capability': 7.5}, 'xla'),
    ('auto', 'gpu', {}, {'capability': 9.0, 'has_bias': True}, 'xla'),
    ('xla', 'gpu', {}, {'capability': 9.0}, 'xla'),
    ('cudnn', 'gpu', {}, {'capability': 9.0}, 'cudnn'),
    ('cudnn', 'gpu', {'dim': 576}, {'capability': 9.0}, 'xla'),
    ('auto', 'tpu', {}, {}, 'flash'),
    ('auto', 'tpu', {'dtype': jnp.float32}, {}, 'flash'),
    ('auto', 'tpu', {'t': 512, 's': 512}, {}, 'xla'),
    ('flash', 'tpu', {'t': 512, 's': 512}, {}, 'flash'),
    ('flash', 'tpu', {'s': 77}, {}, 'xla'),
    ('flash', 'tpu', {'dim': 192}, {}, 'xla'),
    ('flash', 'tpu', {'dim': 256}, {}, 'flash'),
    ('flash', 'tpu', {}, {'has_bias': True}, 'xla'),
    ('xla', 'tpu', {}, {}, 'xla'),
  ],
)
def test_choice_of_the_kernel(asked, platform, shapes, more, expected):
  arguments = _shapes(**shapes)
  assert attention.choose(asked, platform, *arguments, **more) == expected


def test_the_flash_kernel_gets_what_it_takes(monkeypatch):
  # The kernel itself, interpreted, and chosen as on the platform it is for.
  monkeypatch.setattr(attention, 'choose', lambda *_, **__: 'flash')
  q, k, v = _qkv(t=128, s=256, heads=1, dim=32)
  with pltpu.force_tpu_interpret_mode():
    got = attention.dot_product_attention(q, k, v, scale=0.3)
  np.testing.assert_allclose(
    got, _numpy_attention(q, k, v, scale=0.3), atol=1e-5
  )


def test_the_cudnn_kernel_gets_what_it_takes(monkeypatch):
  monkeypatch.setattr(attention, 'choose', lambda *_, **__: 'cudnn')
  taken = {}

  def kernel(q, k, v, **kwargs):
    taken.update(kwargs)
    return _numpy_attention(q, k, v, scale=kwargs['scale'])

  fake = types.SimpleNamespace(dot_product_attention=kernel)
  monkeypatch.setattr(attention.jax, 'nn', fake)
  q, k, v = _qkv()
  got = attention.dot_product_attention(q, k, v, scale=0.3)
  monkeypatch.undo()
  assert taken == {'scale': 0.3, 'implementation': 'cudnn'}
  np.testing.assert_allclose(
    got, _numpy_attention(q, k, v, scale=0.3), atol=1e-5
  )
