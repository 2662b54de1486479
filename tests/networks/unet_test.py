from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.interop.families import unet as family
from pyramid_jax.networks import unet
from pyramid_jax.networks.layers import transformer
from tests.helpers import official_fill


B, SIDE = 2, 8
PLAIN = {
  'in_channels': 3,
  'out_channels': 3,
  'model_channels': 32,
  'num_res_blocks': 1,
  'attention_resolutions': (2,),
  'channel_mult': (1, 2),
  'num_heads': 2,
}
ATTENDING = PLAIN | {'use_spatial_transformer': True, 'context_dim': 12}


def _inputs(options, **changes):
  inputs = {
    'x': jax.random.normal(jax.random.key(0), (B, SIDE, SIDE, 3)),
    't': jnp.array([3, 700]),
  }
  if options.get('context_dim'):
    inputs['context'] = jnp.ones((B, 5, options['context_dim']))
  if options.get('num_classes'):
    inputs['y'] = jnp.arange(B)
  return inputs | changes


def _trace(options, **changes):
  network = unet.UNet(**options)
  return jax.eval_shape(
    lambda: network.init_with_output(
      jax.random.key(0), **_inputs(options, **changes)
    )
  )


@pytest.mark.parametrize(
  ('options', 'channels', 'up', 'expected'),
  [
    # Self-attention: the width decides where it is given.
    ({'num_heads': -1, 'num_head_channels': 16}, 64, False, (4, 16)),
    ({'num_heads': 8, 'num_head_channels': 16}, 64, True, (4, 16)),
    ({'num_heads': 4, 'num_heads_upsample': 8}, 64, False, (4, 16)),
    ({'num_heads': 4, 'num_heads_upsample': 8}, 64, True, (8, 8)),
    (
      {'num_heads': 4, 'num_heads_upsample': 8, 'legacy': False},
      64,
      True,
      (4, 16),
    ),
    ({'num_heads': 40, 'legacy': False}, 96, False, (48, 2)),
    # Transformers: legacy lets the heads fill the channels.
    (ATTENDING | {'num_heads': 8}, 64, True, (8, 8)),
    (
      ATTENDING | {'num_heads': -1, 'num_head_channels': 64},
      96,
      False,
      (1, 96),
    ),
    (
      ATTENDING | {'num_heads': -1, 'num_head_channels': 64, 'legacy': False},
      96,
      False,
      (1, 64),
    ),
  ],
)
def test_rule_of_the_heads(options, channels, up, expected):
  assert unet.UNet(**options).heads(channels, up) == expected


@pytest.mark.parametrize('base', [PLAIN, ATTENDING])
def test_heads_that_do_not_exist_are_refused(base):
  with pytest.raises(ValueError, match='32 channels cannot be split'):
    unet.UNet(**base | {'num_heads': 40}).heads(32)


@pytest.mark.parametrize(
  ('options', 'channels'),
  [
    (PLAIN | {'num_classes': 4, 'use_scale_shift_norm': True}, 3),
    (PLAIN | {'conv_resample': False, 'n_embed': 9}, 9),
    (PLAIN | {'resblock_updown': True, 'dtype': jnp.bfloat16}, 3),
    (ATTENDING | {'transformer_depth': 2, 'remat': 'full'}, 3),
  ],
)
def test_result_is_float32_on_the_grid_of_x(options, channels):
  out, _ = _trace(options)
  assert out.shape == (B, SIDE, SIDE, channels)
  assert out.dtype == jnp.float32


@pytest.mark.turns(3, group='networks')
def test_a_shared_level_and_a_cache_change_nothing():
  network = unet.UNet(**ATTENDING)
  inputs = _inputs(ATTENDING, t=jnp.array([7, 7]))
  params = official_fill.params(network.init, family.rename, **inputs)
  variables = {'params': params}

  @jax.jit
  def run(variables):
    want = network.apply(variables, **inputs)
    _, kept = network.apply(variables, **inputs, mutable=['cache'])
    other = inputs | {'t': jnp.array([7])}
    # The context is not read again: its keys and values are in the cache.
    other['context'] = jnp.zeros_like(inputs['context'])
    return want, network.apply(variables | kept, **other)

  want, got = run(variables)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
  ('options', 'changes', 'message'),
  [
    (PLAIN, {'x': jnp.zeros((B, 8, 8, 4))}, r'x must be \(B, H, W, 3\)'),
    (PLAIN, {'y': jnp.arange(B)}, 'y must be of shape None'),
    (PLAIN | {'num_classes': 4}, {'y': None}, r'y must be of shape \(2,\)'),
    (ATTENDING, {'context': jnp.ones((B, 5, 7))}, r'must be \(B, S, 12\)'),
    (PLAIN, {'context': jnp.ones((B, 5, 7))}, r'must be \(B, S, None\)'),
    (PLAIN | {'out_channels': None}, {}, 'out_channels is needed'),
    (PLAIN | {'attention': 'fast'}, {}, "attention is 'fast'"),
    (ATTENDING | {'attention': 'cudnn'}, {}, "'cudnn' runs on gpu"),
  ],
)
def test_refuses(options, changes, message):
  with pytest.raises(ValueError, match=message):
    _trace(options, **changes)


@pytest.mark.turns(3, group='networks')
def test_pooled_context_reaches_every_block():
  options = ATTENDING | {'pool_context': True}
  context = jax.random.normal(jax.random.key(1), (B, 5, 12))
  inputs = _inputs(options, context=context)
  pooled, plain = unet.UNet(**options), unet.UNet(**ATTENDING)
  init = lambda key: pooled.init(key, **inputs)['params']
  params = initial.evaluate(init, jax.random.key(0))
  assert params['pooled_proj']['kernel'].shape == (transformer.POOLS * 12, 128)
  rng = np.random.default_rng(0)  # also where weights begin as zeros
  params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), params)

  run = jax.jit(lambda params: pooled.apply({'params': params}, **inputs))
  got = run(params)
  want = jax.jit(lambda p: plain.apply({'params': p}, **inputs))(params)
  assert np.abs(got - want).max() > 1e-3
  params['pooled_proj'] = jax.tree.map(jnp.zeros_like, params['pooled_proj'])
  np.testing.assert_allclose(run(params), want, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'value'),
  [('concat_noise', [-2.3, -2.3]), ('aspect', [[-0.3, 0.3], [-0.3, 0.3]])],
)
def test_what_is_beside_the_noise_level_is_told(name, value):
  small = {'channel_mult': (1,), 'attention_resolutions': ()}
  # A shift alone is normalised away where a group is one channel.
  network = unet.UNet(**PLAIN | small | {'use_scale_shift_norm': True})
  inputs = _inputs(PLAIN, x=jnp.ones((B, 2, 2, 3)))
  told = jnp.array(value)
  init = lambda key: network.init(key, **inputs, **{name: told})
  params = initial.evaluate(init, jax.random.key(0))['params']
  rng = np.random.default_rng(0)  # also where weights begin as zeros
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype('f'), params
  )
  run = jax.jit(
    lambda told: network.apply({'params': params}, **inputs, **{name: told})
  )
  got, other = run(told), run(told.at[1].multiply(0.5))
  np.testing.assert_array_equal(got[0], other[0])
  assert np.abs(got[1] - other[1]).max() > 1e-3


class Pooled(unet.UNet):
  """The pooling alone."""

  @nn.compact
  def __call__(self, emb, context):
    return self.embed_context(emb, context)


def test_a_query_of_the_pool_may_pass_over_padding():
  context = jax.random.normal(jax.random.key(1), (B, 5, 12))
  context = context.at[:, 3:].set(0.0).at[:, 3:, 0].set(50.0)  # padding
  longer = jnp.concatenate([context, context[:, 3:]], axis=1)
  network = Pooled(**ATTENDING | {'pool_context': True})
  emb = jnp.zeros((1, 128))
  params = network.init(jax.random.key(0), emb, context)['params']

  def difference():
    one, other = (
      network.apply({'params': params}, emb, x) for x in (context, longer)
    )
    return np.abs(one - other).max()

  away = jnp.zeros((12, transformer.POOLS)).at[0].set(-1.0)
  params['pooled_query']['kernel'] = away
  assert difference() < 1e-5
  params['pooled_query']['kernel'] = jnp.zeros_like(away)  # the mean sees it
  assert difference() > 1e-2


def test_pooled_context_is_needed():
  options = ATTENDING | {'pool_context': True}
  with pytest.raises(ValueError, match='pool_context needs a context'):
    _trace(options, context=None)
