import types

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
import numpy as np
import pytest

from pyramid_jax import placement
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


def _mesh(platform, *sizes):
  """Returns a mesh of devices that are not here."""
  return AbstractMesh(
    (*sizes, *(1,) * (3 - len(sizes))),
    placement.AXES,
    (AxisType.Auto,) * 3,
    abstract_device=AbstractDevice('any', None, platform),
  )


def _shapes(t=1024, s=1024, heads=4, dim=64, dtype=jnp.bfloat16, rows=2):
  q = jax.ShapeDtypeStruct((rows, t, heads, dim), dtype)
  k = jax.ShapeDtypeStruct((rows, s, heads, dim), dtype)
  return q, k, k


@pytest.mark.parametrize(
  ('asked', 'platform', 'shapes', 'more', 'expected'),
  [
    ('auto', 'cpu', {}, {}, 'xla'),
    ('auto', 'gpu', {'t': 64, 's': 77}, {'capability': 8.0}, 'cudnn'),
    ('auto', 'gpu', {'dim': 128}, {'capability': 9.0}, 'cudnn'),
    ('auto', 'gpu', {'dtype': jnp.float16}, {'capability': 9.0}, 'cudnn'),
    ('auto', 'gpu', {'dtype': jnp.float32}, {'capability': 9.0}, 'xla'),
    ('auto', 'gpu', {'dim': 136}, {'capability': 8.9}, 'xla'),
    ('auto', 'gpu', {'dim': 136}, {'capability': 9.0}, 'cudnn'),
    ('auto', 'gpu', {'dim': 256}, {'capability': 9.0}, 'cudnn'),
    ('auto', 'gpu', {'dim': 264}, {'capability': 9.0}, 'xla'),
    ('auto', 'gpu', {'dim': 36}, {'capability': 9.0}, 'xla'),
    ('auto', 'gpu', {}, {'capability': 7.5}, 'xla'),
    ('auto', 'gpu', {}, {'capability': 9.0, 'tables': 1}, 'cudnn'),
    ('auto', 'gpu', {'s': 77}, {'capability': 9.0, 'tables': 1}, 'xla'),
    ('auto', 'gpu', {'t': 77}, {'capability': 9.0, 'tables': 1}, 'xla'),
    ('auto', 'gpu', {}, {'capability': 8.9, 'tables': 1}, 'xla'),
    ('xla', 'gpu', {}, {'capability': 9.0, 'tables': 1}, 'xla'),
    ('xla', 'gpu', {}, {'capability': 9.0}, 'xla'),
    ('cudnn', 'gpu', {}, {'capability': 9.0}, 'cudnn'),
    ('cudnn', 'gpu', {'dim': 576}, {'capability': 9.0}, 'xla'),
    ('auto', 'tpu', {}, {}, 'flash'),
    ('auto', 'tpu', {'dtype': jnp.float32}, {}, 'flash'),
    ('auto', 'tpu', {'t': 512, 's': 512}, {}, 'flash'),
    ('auto', 'tpu', {'t': 256, 's': 256}, {}, 'xla'),
    # Rows that fill a step together.
    ('auto', 'tpu', {'t': 256, 's': 256, 'rows': 6}, {}, 'xla'),
    ('auto', 'tpu', {'t': 256, 's': 256, 'rows': 8}, {}, 'flash'),
    ('auto', 'tpu', {'t': 256, 's': 256, 'rows': 8}, {'tables': 1}, 'flash'),
    ('auto', 'tpu', {'t': 256, 's': 256, 'rows': 8}, {'tables': 8}, 'xla'),
    ('flash', 'tpu', {'t': 256, 's': 256}, {}, 'flash'),
    ('auto', 'tpu', {'t': 4096, 's': 77}, {}, 'flash'),
    ('auto', 'tpu', {'t': 1024, 's': 77, 'rows': 1}, {}, 'xla'),
    ('flash', 'tpu', {'t': 1024, 's': 77}, {}, 'flash'),
    ('flash', 'tpu', {'t': 1000}, {}, 'xla'),
    ('auto', 'tpu', {'dim': 192}, {}, 'flash'),
    ('auto', 'tpu', {'t': 4096, 's': 4096}, {'tables': 1}, 'xla'),
    ('flash', 'tpu', {}, {'tables': 1}, 'flash'),
    ('auto', 'tpu', {}, {'tables': 1}, 'flash'),
    ('auto', 'tpu', {'s': 77, 'rows': 1}, {'tables': 1}, 'xla'),
    ('xla', 'tpu', {}, {}, 'xla'),
  ],
)
def test_choice_of_the_kernel(
  monkeypatch, asked, platform, shapes, more, expected
):
  capability = more.get('capability', 0.0)
  monkeypatch.setattr(placement, 'capability', lambda: capability)
  tables = more.get('tables', 0)
  with placement.on(_mesh(platform)):
    found = attention.choose(asked, *_shapes(**shapes), tables=tables)
  assert found == expected


@pytest.mark.parametrize(
  ('sizes', 'shapes', 'expected'),
  [
    ((4, 2), {'rows': 16}, 'flash'),
    ((4, 2), {'rows': 4}, 'xla'),
    ((4, 2), {'rows': 12}, 'xla'),
    ((2, 1, 4), {'rows': 2}, 'flash'),  # a head for each of the four
    ((2, 1, 4), {'rows': 2, 'heads': 6}, 'xla'),
    ((2, 1, 4), {'rows': 8, 'heads': 6}, 'flash'),
  ],
)
def test_kernels_need_a_part_of_the_rows_on_each_device(
  sizes, shapes, expected
):
  with placement.on(_mesh('tpu', *sizes)):
    assert attention.choose('auto', *_shapes(**shapes)) == expected


def test_the_flash_kernel_needs_a_mesh_where_there_are_several_devices(
  monkeypatch,
):
  monkeypatch.setattr(placement, 'platform', lambda: 'tpu')
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert attention.choose('auto', *_shapes()) == 'flash'
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  assert attention.choose('auto', *_shapes()) == 'xla'


@pytest.mark.parametrize('rows', [(), (2,)])
def test_the_cudnn_kernel_gets_the_bias_it_takes(monkeypatch, rows):
  monkeypatch.setattr(attention, 'choose', lambda *_, **__: 'cudnn')
  taken = {}
  fake = types.SimpleNamespace(
    dot_product_attention=lambda q, k, v, **kwargs: taken.update(kwargs)
  )
  monkeypatch.setattr(attention.jax, 'nn', fake)
  q, k, v = _qkv(t=4, s=6, dtype=jnp.bfloat16)
  bias = jnp.full((*rows, 1, 1, 6), -jnp.inf).at[..., 0].set(3.0)
  attention.dot_product_attention(q, k, v, bias=bias)
  monkeypatch.undo()
  assert taken['bias'].shape == (*(rows or (1,)), 2, 4, 6)
  assert taken['bias'].dtype == jnp.bfloat16
  assert jnp.isfinite(taken['bias']).all()
  np.testing.assert_array_equal(taken['bias'][..., 0], 3.0)


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
  assert taken == {'scale': 0.3, 'bias': None, 'implementation': 'cudnn'}
  np.testing.assert_allclose(
    got, _numpy_attention(q, k, v, scale=0.3), atol=1e-5
  )


def test_the_choice_is_logged_once_for_a_shape(caplog):
  q, k, v = _shapes(rows=1, t=640, s=512)
  caplog.set_level('INFO')
  for _ in range(2):
    with placement.on(_mesh('tpu')):
      jax.eval_shape(attention.dot_product_attention, q, k, v)
  jax.eval_shape(attention.dot_product_attention, q, k, v)
  line = 'attention of 640 x 512 tokens, 4 heads x 64: flash on tpu'
  assert [record.getMessage() for record in caplog.records] == [line]
