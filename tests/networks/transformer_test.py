import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pyramid_jax.networks.layers import transformer


KEY = jax.random.key(0)


def _normal(*shape):
  return jax.random.normal(KEY, shape)


def test_cross_attention_equals_the_formula():
  x, context = _normal(2, 3, 8), _normal(2, 5, 6)
  module = transformer.CrossAttention(heads=2, head_dim=3)
  variables = module.init(KEY, x, context)
  p = jax.tree.map(np.float64, variables['params'])
  q, k, v = (
    (np.float64(y) @ p[name]['kernel']).reshape(2, -1, 2, 3)
    for y, name in ((x, 'to_q'), (context, 'to_k'), (context, 'to_v'))
  )
  weights = np.exp(np.einsum('bthd,bshd->bhts', q, k) * 3**-0.5)
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum('bhts,bshd->bthd', weights, v).reshape(2, 3, 6)
  want = out @ p['to_out']['kernel'] + p['to_out']['bias']
  with jax.default_matmul_precision('highest'):
    got = module.apply(variables, x, context)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_cross_attention_without_context_attends_to_itself():
  x = _normal(2, 3, 8)
  module = transformer.CrossAttention(heads=2, head_dim=4)
  variables = module.init(KEY, x)
  np.testing.assert_array_equal(
    module.apply(variables, x), module.apply(variables, x, x)
  )


def test_keys_and_values_of_a_context_are_cached_and_no_others():
  x, context = _normal(2, 3, 8), _normal(2, 5, 6)
  module = transformer.BasicTransformerBlock(heads=2, head_dim=4)
  variables = module.init(KEY, x, context)
  want, state = module.apply(variables, x, context, mutable=['cache'])
  shapes = jax.tree.map(jnp.shape, state['cache'])
  assert shapes == {'attn2': {'kv': ((2, 5, 2, 4), (2, 5, 2, 4))}}
  got = module.apply(variables | state, x, context * np.nan)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('gated', [True, False])
def test_feed_forward_equals_the_formula(gated):
  x = _normal(2, 3, 4)
  module = transformer.FeedForward(gated=gated)
  variables = module.init(KEY, x)
  p = jax.tree.map(np.float64, variables['params'])
  h = np.float64(x) @ p['net_0']['kernel'] + p['net_0']['bias']
  value, gate = np.split(h, 2, -1) if gated else (1.0, h)
  h = value * gate * 0.5 * (1 + scipy.special.erf(gate / np.sqrt(2)))
  want = h @ p['net_2']['kernel'] + p['net_2']['bias']
  with jax.default_matmul_precision('highest'):
    got = module.apply(variables, x)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_coarser_scales_are_dropped_out_in_training_only():
  x, previous = _normal(1, 3, 8), _normal(1, 3, 8) + 1
  module = transformer.BasicTransformerBlock(2, 4, use_mscond=True)
  variables = module.init(KEY, x, None, previous)
  still = module.apply(variables, x, None, previous)
  moved = module.apply(
    variables, x, None, previous, True, rngs={'dropout': KEY}
  )
  assert np.abs(moved - still).max() > 1e-3
  plain = module.apply(variables, x, None, None, True)
  assert np.abs(plain - still).max() > 1e-3


def test_spatial_transformer_starts_as_the_identity():
  x = _normal(2, 4, 6, 32)
  module = transformer.SpatialTransformer(1, 32, depth=2)
  variables = module.init(KEY, x)
  np.testing.assert_array_equal(module.apply(variables, x), x)
  blocks = variables['params']
  assert {'transformer_blocks_0', 'transformer_blocks_1'} <= set(blocks)
