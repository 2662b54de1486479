import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import blocks
from pyramid_jax.networks.layers import norms


KEY = jax.random.key(0)


def _normal(*shape):
  return jax.random.normal(KEY, shape)


def _fill(params):
  """Replaces the values of parameters, zeros included, by random ones."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(KEY, len(leaves))
  return jax.tree.unflatten(
    tree,
    [
      jax.random.normal(k, leaf.shape) * 0.2
      for k, leaf in zip(keys, leaves, strict=True)
    ],
  )


def _init(module, *args):
  shapes = jax.eval_shape(module.init, KEY, *args)['params']
  return _fill(shapes)


def _conv(x, p):
  return (
    jax.lax.conv_general_dilated(
      x, p['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    + p['bias']
  )


def test_gated_block_that_scales_shifts_and_halves_equals_the_formula():
  block = blocks.ResBlock(
    64, use_scale_shift_norm=True, gated=True, resample='down'
  )
  x, emb, cond = _normal(2, 4, 6, 32), _normal(2, 8), _normal(2, 4, 6, 5)
  p = _init(block, x, emb, cond)

  def norm(h, name):
    return norms.GatedNorm(1e-5).apply({'params': p[name]}, h, cond)

  def halve(h):
    return h.reshape(2, 2, 2, 3, 2, -1).mean((2, 4))

  def silu(h):
    return h / (1 + jnp.exp(-h))

  with jax.default_matmul_precision('highest'):
    got = block.apply({'params': p}, x, emb, cond)
    h = _conv(halve(silu(norm(x, 'in_layers_0'))), p['in_layers_2'])
    e = emb @ p['emb_layers_1']['kernel'] + p['emb_layers_1']['bias']
    scale, shift = e[:, None, None, :64], e[:, None, None, 64:]
    h = silu(norm(h, 'out_layers_0') * (1 + scale) + shift)
    h = _conv(h, p['out_layers_3'])
    skip = p['skip_connection']
    want = halve(x) @ skip['kernel'] + skip['bias'] + h
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_residual_block_doubles_to_the_size_of_the_skip():
  block = blocks.ResBlock(32, resample='up')
  x, emb = _normal(1, 2, 2, 32), _normal(1, 8)
  params = block.init(KEY, x, emb)
  # A fresh block is the identity: its last convolution is zero.
  twice = np.asarray(x).repeat(2, 1).repeat(2, 2)
  np.testing.assert_array_equal(block.apply(params, x, emb), twice)
  odd = block.apply(params, x, emb, None, (4, 3))
  np.testing.assert_array_equal(odd, twice[:, :, [0, 1, 2]])


def test_orders_of_attention_channels_are_permutations():
  heads, channels = 4, 32
  x = _normal(2, 3, 5, channels)
  block = blocks.AttentionBlock(heads)
  params = _init(block, x)
  legacy = np.arange(3 * channels).reshape(heads, 3, channels // heads)
  order = legacy.transpose(1, 0, 2).ravel()
  new_order = params | {
    'qkv': jax.tree.map(lambda w: w[..., order], params['qkv'])
  }
  with jax.default_matmul_precision('highest'):
    want = block.apply({'params': params}, x)
    got = block.clone(use_new_attention_order=True).apply(
      {'params': new_order}, x
    )
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_attention_block_equals_the_formula():
  x = _normal(1, 2, 3, 32)
  block = blocks.AttentionBlock(2, use_new_attention_order=True)
  p = _init(block, x)
  norm = norms.GroupNorm(1e-5).apply({'params': p['norm']}, x)
  flat = np.float64(norm).reshape(6, 32)
  qkv = flat @ np.float64(p['qkv']['kernel']) + p['qkv']['bias']
  out = []
  for head in range(2):
    q, k, v = (
      qkv[:, 32 * i + 16 * head : 32 * i + 16 * (head + 1)] for i in range(3)
    )
    weights = np.exp(q @ k.T / 4)
    out.append(weights / weights.sum(1, keepdims=True) @ v)
  h = np.concatenate(out, 1) @ p['attn_out']['kernel'] + p['attn_out']['bias']
  with jax.default_matmul_precision('highest'):
    got = block.apply({'params': p}, x)
  np.testing.assert_allclose(got, x + h.reshape(x.shape), atol=1e-4)


def test_strided_convolution_pads_all_sides():
  block = blocks.Downsample()
  x = _normal(1, 4, 4, 32)
  params = _init(block, x)
  got = block.apply({'params': params}, x)
  full = _conv(x, params['op'])
  np.testing.assert_allclose(got, full[:, ::2, ::2], atol=1e-4)


def test_pooling_refuses_a_single_pixel():
  with pytest.raises(ValueError, match='1 x 4'):
    blocks.downsample(_normal(1, 1, 4, 2))
