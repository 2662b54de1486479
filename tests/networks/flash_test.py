"""The kernel of attention for TPUs: interpreted, and lowered."""

import functools
import re
import types

import jax
from jax.experimental import pallas as pl
from jax.extend.core import Var
import jax.numpy as jnp
from jax.sharding import AbstractDevice
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import placement
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.networks import autoencoder
from pyramid_jax.networks import t5
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import blocks
from pyramid_jax.networks.layers import flash
from pyramid_jax.networks.layers import prenorm
from pyramid_jax.networks.layers import remat
from pyramid_jax.networks.layers import tmsa
from pyramid_jax.networks.layers import transformer
from tests.helpers import tpu_lowering


@pytest.fixture
def interpreted(monkeypatch):
  """Runs kernels on this machine."""
  interpret = functools.partial(pl.pallas_call, interpret=True)
  fake = types.SimpleNamespace(**vars(pl) | {'pallas_call': interpret})
  monkeypatch.setattr(flash, 'pl', fake)


def _arrays(rows, tokens, heads, width, tables, dtype=jnp.float32):
  """Returns q, k, v, weights of the result, and the tables of a bias or None.

  `tokens` are those of queries and keys.
  """
  keys = jax.random.split(jax.random.key(0), 5)
  t, s = tokens
  draw = lambda i, *shape: jax.random.normal(keys[i], shape)
  made = [draw(i, rows, n, heads, width) for i, n in enumerate((t, s, s, t))]
  bias = draw(4, tables, heads, t, s) if tables else None
  return *(x.astype(dtype) for x in made), bias


def _gradients(attend, q, k, v, weights, bias):
  """Returns the result and the gradients of all arguments that are there."""

  def total(q, k, v, bias):
    out = attend(q, k, v, bias)
    return (out * weights).sum(dtype=jnp.float32), out

  numbers = (0, 1, 2) if bias is None else (0, 1, 2, 3)
  both = jax.value_and_grad(total, numbers, has_aux=True)
  with jax.default_matmul_precision('highest'):
    (_, out), gradients = jax.jit(both)(q, k, v, bias)
  return [np.asarray(x, np.float32) for x in (out, *gradients)]


def _plain(q, k, v, bias):
  """Attention by XLA; a table of the bias serves consecutive rows."""
  if bias is not None:
    bias = jnp.repeat(bias, len(q) // len(bias), 0)
  return attention.dot_product_attention(
    q, k, v, bias=bias, scale=0.3, implementation='xla'
  )


def _kernel(q, k, v, bias):
  return flash.attend(q, k, v, bias, 0.3)


@pytest.mark.turns(3, group='networks')
@pytest.mark.parametrize(
  ('rows', 'tokens', 'heads', 'width', 'tables'),
  [
    (2, (128, 128), 2, 40, 0),
    (2, (256, 256), 2, 72, 1),
    (4, (128, 256), 1, 8, 2),
    (2, (256, 128), 2, 8, 2),
    (2, (384, 77), 1, 8, 0),
    (2, (128, 77), 2, 8, 1),
    (6, (128, 128), 1, 8, 2),  # three rows of a table in a step
    (32, (128, 128), 1, 8, 1),  # two steps of 16 rows
  ],
)
def test_the_kernel_equals_plain_attention(
  interpreted, rows, tokens, heads, width, tables
):
  arrays = _arrays(rows, tokens, heads, width, tables)
  assert flash.fits(arrays[0], arrays[1], tables > 0)
  got, want = _gradients(_kernel, *arrays), _gradients(_plain, *arrays)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize('tokens', [(256, 640), (640, 256), (384, 300)])
def test_keys_and_queries_in_several_blocks(interpreted, monkeypatch, tokens):
  monkeypatch.setattr(flash, '_MAX_WHOLE', 256)
  monkeypatch.setattr(flash, '_MAX_LOGITS', 128 * 256)
  arrays = _arrays(2, tokens, 1, 8, 0)
  got, want = _gradients(_kernel, *arrays), _gradients(_plain, *arrays)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_short_types_are_summed_in_float32(interpreted):
  short = _arrays(2, (256, 256), 2, 8, 1, jnp.bfloat16)
  exact = [jnp.asarray(x, jnp.float32) for x in short]
  got = _gradients(_kernel, *short)
  for a, b in zip(got, _gradients(_plain, *exact), strict=True):
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(b).max())
  assert flash.attend(*short[:3], None, 1.0).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('t', 's', 'group', 'rows'),
  [
    (256, 256, 16, 4),
    (256, 256, 6, 3),
    (256, 256, 1, 1),
    (256, 77, 16, 8),
    (512, 512, 16, 1),
    (1024, 1024, 16, 1),
  ],
)
def test_how_many_rows_are_in_a_step(t, s, group, rows):
  shape = lambda n: jax.ShapeDtypeStruct((64, n, 4, 72), jnp.bfloat16)
  assert flash.rows_of_step(shape(t), shape(s), group) == rows


@pytest.mark.parametrize(
  ('t', 's', 'width', 'has_bias', 'expected'),
  [
    (1024, 1024, 72, True, True),
    (1024, 77, 72, True, True),
    (1000, 1000, 72, False, False),
    (4096, 4096, 72, False, True),
    (4096, 4096, 72, True, False),
    (1024, 1024, 512, False, True),
    (1024, 1024, 512, True, False),
    (16384, 16384, 512, False, True),
    (1024, 1024, 4096, False, False),
  ],
)
def test_which_arguments_the_kernel_takes(t, s, width, has_bias, expected):
  shape = lambda n: jax.ShapeDtypeStruct((2, n, 4, width), jnp.bfloat16)
  assert flash.fits(shape(t), shape(s), has_bias) == expected


def test_short_rows_have_one_kernel_for_all_gradients():
  lowered = lambda t: _lowered(
    _mesh(1),
    jax.grad(lambda q, k: flash.attend(q, k, k, None, 1.0).sum(), (0, 1)),
    *[jax.ShapeDtypeStruct((8, t, 2, 72), jnp.float32)] * 2,
  ).count('tpu_custom_call')
  assert (lowered(256), lowered(1024)) == (2, 3)


@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
@pytest.mark.parametrize('has_bias', [False, True])
def test_eight_devices_equal_one(interpreted, monkeypatch, sizes, has_bias):
  tpu_lowering.take_for_tpus(monkeypatch)
  mesh = mesh_lib.create(
    ConfigDict(dict(zip(placement.AXES, sizes, strict=True)))
  )
  arrays = _arrays(8, (128, 128), 2, 8, int(has_bias))

  def attend(q, k, v, bias):
    return attention.dot_product_attention(
      q, k, v, bias=bias, scale=0.3, implementation='flash'
    )

  want = _gradients(_plain, *arrays)
  *rows, bias = arrays
  rows = jax.device_put(rows, mesh_lib.batch_sharding(mesh))
  got = _gradients(placement.within(mesh, attend), *rows, bias)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def _mesh(*sizes):
  return AbstractMesh(
    (*sizes, *(1,) * (3 - len(sizes))),
    placement.AXES,
    (AxisType.Auto,) * 3,
    abstract_device=AbstractDevice('TPU v5 lite', None, 'tpu'),
  )


def _lowered(mesh, function, *arguments):
  """Returns a program for TPUs; arrays of rows are split over the mesh."""
  rows = NamedSharding(mesh, PartitionSpec(placement.BATCH_AXES))
  split = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
  params, *arrays = arguments
  traced = jax.jit(placement.within(mesh, function)).trace(
    params, *map(split, arrays)
  )
  return traced.lower(lowering_platforms=('tpu',)).as_text()


@pytest.mark.parametrize(
  'sizes', [(8,), (4, 2), (1, 8), (2, 2, 2), (2, 1, 4), (1, 1, 8)]
)
def test_a_bias_and_its_gradient_are_one_table(sizes):
  q = jax.ShapeDtypeStruct((16, 1024, 16, 72), jnp.bfloat16)
  bias = jax.ShapeDtypeStruct((16, 1024, 1024), jnp.float32)

  def loss(bias, q, k, v):
    out = attention.dot_product_attention(q, k, v, bias=bias)
    return out.sum(dtype=jnp.float32)

  text = _lowered(_mesh(*sizes), jax.grad(loss, (0, 1, 2, 3)), bias, q, q, q)
  kernels = [line for line in text.splitlines() if 'tpu_custom_call' in line]
  tables = [re.findall(r'<(\d+)x\d+x1024x1024xf32', x) for x in kernels]
  # Read by all three, written by the one that has the gradient of queries.
  assert sorted(tables) == [['1'], ['1'], ['1', '1']]


def _float32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
  ('module', 'shapes', 'kernels'),
  [
    (tmsa.DiffiTBlock(2, 16), [(8, 16, 16, 144), (8, 64)], 0),
    (tmsa.DiffiTBlock(2, 32), [(8, 32, 32, 144), (8, 64)], 1),
    (blocks.AttentionBlock(heads=1), [(8, 32, 32, 384)], 1),
    (autoencoder.AttnBlock(), [(8, 64, 64, 512)], 1),
    (autoencoder.AttnBlock(attention='xla'), [(8, 64, 64, 512)], 0),
    (transformer.CrossAttention(8, 40), [(8, 4096, 320), (8, 77, 32)], 1),
    (prenorm.PreNormBlock(2, 64, is_causal=True), [(8, 77, 64)], 0),
    (t5.Block(2, 32, 64), [(8, 128, 64), (8, 2, 128, 128)], 0),
    (t5.Block(2, 32, 64), [(8, 1024, 64), (8, 2, 1024, 1024)], 1),
    (
      t5.Block(2, 32, 64, attention='xla'),
      [(8, 1024, 64), (8, 2, 1024, 1024)],
      0,
    ),
  ],
)
@pytest.mark.parametrize('sizes', [(8,), (2, 4)])
def test_layers_are_lowered_for_eight_chips(module, shapes, kernels, sizes):
  arrays = [_float32(*shape) for shape in shapes]
  params = jax.eval_shape(module.init, jax.random.key(0), *arrays)
  text = _lowered(_mesh(*sizes), module.apply, params, *arrays)
  assert text.count('tpu_custom_call') == kernels


def _forward_kernels(jaxpr):
  """Returns how many there are whose results are used."""
  used = {v for eqn in jaxpr.eqns for v in eqn.invars if isinstance(v, Var)}
  used |= set(jaxpr.outvars)
  count = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'remat2':
      count += _forward_kernels(eqn.params['jaxpr'])
    is_kernel = 'forward' in str(eqn.params.get('name', ''))
    count += is_kernel and bool(used.intersection(eqn.outvars))
  return count


@pytest.mark.parametrize(
  ('policy', 'kernels'),
  [('none', 1), ('products', 1), ('attention', 1), ('full', 2)],
)
def test_what_the_kernel_keeps_is_not_computed_again(policy, kernels):
  attend = lambda q: flash.attend(q, q, q, None, 1.0)
  if policy != remat.NONE:
    kept = remat.POLICIES[policy]
    attend = jax.checkpoint(attend, policy=kept, prevent_cse=False)
  loss = lambda q: jnp.square(attend(jnp.sin(q))).sum()
  jaxpr = jax.make_jaxpr(jax.grad(loss))(_float32(4, 128, 2, 8)).jaxpr
  assert _forward_kernels(jaxpr) == kernels
