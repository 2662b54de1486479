import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import unet_classifier


FIELDS = {
  'model_channels': 32,
  'channel_mult': (1, 1),
  'num_res_blocks': 1,
  'attention_resolutions': (),
  'num_head_channels': 16,
  'in_channels': 2,
  'out_channels': 5,
}
X = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
T = jnp.array([0.0, 3.0, 90.0])


def shapes(**fields):
  network = unet_classifier.Classifier(**FIELDS, **fields)
  network.check_options()
  return jax.eval_shape(network.init, jax.random.key(0), X, T)['params']


@pytest.mark.parametrize(
  ('pool', 'modules'),
  [
    ('attention', {'out_0', 'out_2'}),
    ('adaptive', {'out_0', 'out_3'}),
    ('spatial', {'spatial_0', 'spatial_2'}),
    ('spatial_v2', {'spatial_v2_0', 'spatial_v2_1', 'spatial_v2_3'}),
  ],
)
def test_each_pool_has_its_own_modules(pool, modules):
  tree = shapes(pool=pool)
  named = {name for name in tree if name.startswith(('out_', 'spatial'))}
  assert named == modules
  if pool.startswith('spatial'):  # stem, block, halving, block and middle
    assert tree[f'{pool}_0']['kernel'].shape == (5 * 32, 2048)
  if pool == 'attention':
    assert tree['out_2']['positional_embedding'].shape == (5, 32)


def test_the_pool_of_attention_attends_from_the_mean():
  pool = unet_classifier.AttentionPool(features=3, heads=2)
  x = jax.random.normal(jax.random.key(1), (2, 2, 3, 8))
  variables = pool.init(jax.random.key(2), x)
  tree = variables['params']
  tokens = x.reshape(2, 6, 8)
  tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
  tokens = tokens + tree['positional_embedding']
  q, k, v = jnp.split(
    tokens @ tree['qkv']['kernel'] + tree['qkv']['bias'], 3, axis=-1
  )
  heads = []
  for part in (slice(0, 4), slice(4, 8)):
    logits = jnp.einsum('bc,bnc->bn', q[:, 0, part], k[..., part]) / 2.0
    weights = jax.nn.softmax(logits)
    heads.append(jnp.einsum('bn,bnc->bc', weights, v[..., part]))
  want = jnp.concatenate(heads, -1) @ tree['c_proj']['kernel']
  want = want + tree['c_proj']['bias']
  np.testing.assert_allclose(
    pool.apply(variables, x), want, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'pool': 'max'}, "pool = 'max'"),
    ({'num_head_channels': -1, 'num_heads': 2}, 'needs num_head_channels'),
    ({'num_classes': 3}, 'num_classes = 3'),
    ({'channel_mult': (0, 1)}, 'must be 1 or more'),
  ],
)
def test_options_that_contradict_each_other_are_refused(fields, message):
  network = unet_classifier.Classifier(**FIELDS | fields)
  with pytest.raises(ValueError, match=message):
    network.check_options()
