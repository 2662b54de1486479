import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop.families import unet as family
from pyramid_jax.networks import pyunet
from tests.helpers import official_fill


B, SIDE = 2, 8

GATED = {
  'split_embed_dim_list': (3, 4),
  'model_channels': 32,
  'num_res_blocks': 1,
  'attention_resolutions': (2,),
  'channel_mult': (1, 2),
  'num_head_channels': 16,
  'use_spatial_transformer': True,
  'context_dim': 12,
  'num_stage': 2,
  'use_spade_norm': True,
}
PLAIN = GATED | {'use_spatial_transformer': False, 'context_dim': None}
JOINT = PLAIN | {
  'use_split_head': False,
  'use_spade_norm': False,
  'split_embed_dim_list': (),
  'out_channels': 5,
  'num_stage': 1,
}
# One resolution, where that is enough: 5 residual blocks, 4 transformers.
SMALL = GATED | {'channel_mult': (1,), 'attention_resolutions': (1,)}
SMALL_PLAIN = PLAIN | {'channel_mult': (1,), 'attention_resolutions': (1,)}


def _inputs(options, grid=(SIDE, SIDE)):
  key = jax.random.key(0)
  inputs = {
    'x': jax.random.normal(key, (B, *grid, 7)),
    't': jnp.array([3, 700]),
  }
  if options.get('context_dim'):
    inputs['context'] = jax.random.normal(key, (B, 5, options['context_dim']))
  if options.get('num_classes'):
    classes = options['num_classes']
    ids = jnp.arange(B) % classes
    is_id = options.get('use_embed', True)
    inputs['y'] = ids if is_id else jax.nn.one_hot(ids, classes)
  return inputs


def _make(options, grid=(SIDE, SIDE)):
  """Returns network, parameters that are not zero anywhere, and inputs."""
  network = pyunet.PyUNet(**options)
  inputs = _inputs(options, grid)
  params = official_fill.params(network.init, family.rename, **inputs, stage=0)
  return network, params, inputs


@functools.cache
def _small():
  """Returns the network of `SMALL`, parameters, inputs and the fine scale."""
  network, params, inputs = _make(SMALL)
  return network, params, inputs, _apply(network, params, inputs, 1)


@functools.cache
def _large():
  """Returns parameters of `GATED`."""
  return _make(GATED)[1]


def _apply(network, params, inputs, stage, **kwargs):
  apply = jax.jit(
    lambda params, inputs: network.apply(
      {'params': params}, **inputs, stage=stage, **kwargs
    )
  )
  return apply(params, inputs)


# The last number is the channels of the result at the last scale.
OPTIONS = {
  'attention': (PLAIN, 4),
  'new order, heads': (
    PLAIN
    | {
      'num_head_channels': -1,
      'num_heads': 2,
      'num_heads_upsample': 4,
      'use_new_attention_order': True,
    },
    4,
  ),
  'scale and shift, residual resampling, classes': (
    GATED
    | {
      'use_scale_shift_norm': True,
      'resblock_updown': True,
      'num_classes': 3,
    },
    4,
  ),
  'attended scales, pooling, vectors': (
    GATED
    | {
      'use_mscond': True,
      'conv_resample': False,
      'num_classes': 3,
      'use_embed': False,
      'transformer_depth': 2,
      'legacy': False,
    },
    4,
  ),
  'experts without gates': (
    GATED | {'use_stage_expert': True, 'use_spade_norm': False},
    4,
  ),
  'joint': (JOINT, 5),
  'joint code ids': (JOINT | {'n_embed': 9, 'num_stage': 2}, 9),
  'joint, idle gates, experts': (
    JOINT
    | {
      'use_spade_norm': True,
      'use_stage_expert': True,
      'split_embed_dim_list': (3, 4),
    },
    5,
  ),
}


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', OPTIONS)
def test_options_give_finite_results_that_depend_on_all_inputs(name):
  options, channels = OPTIONS[name]
  network, params, inputs = _make(options)
  joint = not network.use_split_head
  stage = 0 if joint and not options.get('use_stage_expert') else 1
  apply = jax.jit(
    lambda inputs: network.apply({'params': params}, **inputs, stage=stage)
  )
  y = apply(inputs)
  assert y.shape == (B, SIDE, SIDE, channels)
  assert y.dtype == jnp.float32
  assert np.isfinite(y).all()
  for name, value in inputs.items():
    other = -value if value.dtype == jnp.float32 else value[::-1]
    assert np.abs(apply(inputs | {name: other}) - y).max() > 1e-3, name


@pytest.mark.parametrize(
  ('fields', 'channels', 'up', 'expected'),
  [
    # transformers: one head, whatever is asked for, unless legacy is off
    ({'use_spatial_transformer': True}, 64, False, (1, 64)),
    ({'use_spatial_transformer': True, 'legacy': False}, 64, False, (4, 16)),
    ({'use_spatial_transformer': True, 'legacy': False}, 72, False, (4, 16)),
    (
      {
        'use_spatial_transformer': True,
        'legacy': False,
        'num_head_channels': -1,
        'num_heads': 3,
      },
      64,
      True,
      (3, 21),
    ),
    # blocks without a context: the width wins where it is given
    ({}, 64, False, (4, 16)),
    ({'num_heads': 8, 'num_heads_upsample': 8}, 64, True, (4, 16)),
    ({'num_head_channels': -1, 'num_heads': 4}, 64, False, (1, 64)),
    ({'num_head_channels': -1, 'num_heads': 4}, 64, True, (4, 16)),
    (
      {'num_head_channels': -1, 'num_heads': 4, 'num_heads_upsample': 2},
      64,
      True,
      (2, 32),
    ),
    (
      {
        'num_head_channels': -1,
        'num_heads': 4,
        'num_heads_upsample': 2,
        'legacy': False,
      },
      64,
      True,
      (4, 16),
    ),
  ],
)
def test_head_counts(fields, channels, up, expected):
  network = pyunet.PyUNet(**{'num_head_channels': 16, **fields})
  assert network.heads(channels, up) == expected


@pytest.mark.parametrize('channels', [72, 8])
def test_heads_that_do_not_fill_the_channels_are_refused(channels):
  with pytest.raises(ValueError, match='num_head_channels = 16'):
    pyunet.PyUNet(num_head_channels=16).heads(channels)


def test_layout_of_the_published_network():
  down, up = pyunet.PyUNet(
    model_channels=192,
    channel_mult=(1, 2, 3, 5),
    num_res_blocks=2,
    attention_resolutions=(8, 4, 2),
  ).layout()
  assert [e.channels for e in down] == (
    [192] * 3 + [384] * 3 + [576] * 3 + [960] * 2
  )
  assert [i for i, e in enumerate(down) if e.resample] == [2, 5, 8]
  assert [i for i, e in enumerate(down) if e.attends] == [3, 4, 6, 7, 9, 10]
  assert [e.channels for e in up] == (
    [960] * 3 + [576] * 3 + [384] * 3 + [192] * 3
  )
  assert [i for i, e in enumerate(up) if e.resample] == [2, 5, 8]
  assert [i for i, e in enumerate(up) if e.attends] == list(range(9))


@pytest.mark.turns(3, group='networks')
def test_the_cache_replaces_all_that_does_not_depend_on_the_noise():
  network, params, inputs = _make(SMALL | {'use_mscond': True})

  def plain(params, inputs):
    return network.apply({'params': params}, **inputs, stage=1)

  def fill(params, inputs):
    _, state = network.apply(
      {'params': params}, **inputs, stage=1, mutable=['cache']
    )
    return state['cache']

  def cached(params, inputs, cache):
    variables = {'params': params, 'cache': cache}
    return network.apply(variables, **inputs, stage=1)

  cache = jax.jit(fill)(params, inputs)
  plain = jax.jit(plain).lower(params, inputs).compile()
  cached = jax.jit(cached).lower(params, inputs, cache).compile()
  want = plain(params, inputs)
  np.testing.assert_array_equal(cached(params, inputs, cache), want)

  # Nothing else is read: neither the coarse channels and the context, nor the
  # weights that lead from them to the gates, keys and values.
  idle = ('mlp_', 'cond', 'attn2.to_k', 'attn_prev', 'norm_prev')
  broken = {
    path: leaf * np.nan if any(i in '.'.join(path) for i in idle) else leaf
    for path, leaf in traverse_util.flatten_dict(params).items()
  }
  blind = inputs | {
    'x': inputs['x'].at[..., :3].set(np.nan),
    'context': inputs['context'] * np.nan,
  }
  broken = traverse_util.unflatten_dict(broken)
  np.testing.assert_array_equal(cached(broken, blind, cache), want)
  # Another noise level and another noise are not frozen into it.
  other = inputs | {'t': inputs['t'] + 9, 'x': inputs['x'].at[..., 3:].add(1.0)}
  np.testing.assert_array_equal(
    cached(params, other, cache), plain(params, other)
  )

  gates = 2 * 5 + 4  # norms of the residual blocks and of the transformers
  convolutions = [
    compiled.as_text().count(' convolution(') for compiled in (plain, cached)
  ]
  assert convolutions[0] - convolutions[1] == 3 * gates + 1


@pytest.mark.turns(3, group='networks')
def test_scales_read_their_own_channels_only():
  network, params, inputs, _ = _small()
  want = _apply(network, params, inputs, 0)
  assert want.shape[-1] == 3
  less = inputs | {'x': inputs['x'][..., :3]}
  np.testing.assert_array_equal(_apply(network, params, less, 0), want)


def test_initialisation_makes_all_scales_and_starts_at_zero():
  network = pyunet.PyUNet(**SMALL)
  inputs = _inputs(SMALL)
  shapes = [
    jax.eval_shape(
      lambda key, x=x, stage=stage: network.init(
        key, **(inputs | {'x': x}), stage=stage
      ),
      jax.random.key(0),
    )
    for x, stage in ((inputs['x'], 1), (inputs['x'][..., :3], 0))
  ]
  assert shapes[0] == shapes[1]
  assert set(shapes[0]) == {'params'}

  @jax.jit
  def last(key):  # what is left out here is not even compiled
    params = network.init(key, **inputs, stage=0)['params']
    return [params['out_0_2'], params['out_1_2']]

  for leaf in jax.tree.leaves(last(jax.random.key(0))):
    np.testing.assert_array_equal(leaf, 0)


def test_a_shared_noise_level_may_be_given_once():
  network, params, inputs = _make(SMALL_PLAIN)
  both = _apply(network, params, inputs | {'t': jnp.array([40, 40])}, 1)
  once = _apply(network, params, inputs | {'t': jnp.array([40])}, 1)
  np.testing.assert_allclose(once, both, atol=1e-5)


def test_remat_wraps_every_block_and_changes_no_number():
  network, params, inputs, want = _small()
  again = network.clone(remat='full')

  def loss(params):
    return again.apply({'params': params}, **inputs, stage=1).sum()

  jaxpr = str(jax.make_jaxpr(loss)(params))
  assert jaxpr.count('remat') == 5 + 4  # residual blocks and transformers
  np.testing.assert_array_equal(_apply(again, params, inputs, 1), want)
  state = jax.eval_shape(
    lambda: again.apply(
      {'params': params}, **inputs, stage=1, mutable=['cache']
    )
  )[1]
  assert len(jax.tree.leaves(state)) == 2 * (2 * 5 + 4 + 4)


def test_dropout_acts_in_training_only():
  network, params, inputs = _make(SMALL_PLAIN | {'dropout': 0.5})
  want = _apply(network, params, inputs, 1)
  rngs = {'dropout': jax.random.key(1)}
  got = _apply(network, params, inputs, 1, train=True, rngs=rngs)
  assert np.abs(got - want).max() > 1e-2


def test_bfloat16_keeps_float32_parameters_and_results():
  network, params, inputs = _make(SMALL | {'dtype': jnp.bfloat16})
  assert all(p.dtype == np.float32 for p in jax.tree.leaves(params))
  got = _apply(network, params, inputs, 1)
  *_, want = _small()
  assert got.dtype == jnp.float32
  error = np.abs(got - want).max() / np.abs(want).max()
  assert 1e-5 < error < 0.05


@pytest.mark.turns(3, group='networks')
@pytest.mark.parametrize('grid', [(1, 1), (3, 6)])
def test_any_grid_works_with_the_same_weights(grid):
  network = pyunet.PyUNet(**GATED)
  y = _apply(network, _large(), _inputs(GATED, grid), 1)
  assert y.shape == (B, *grid, 4)
  assert np.isfinite(y).all()


def test_too_small_a_grid_for_pooling_is_refused():
  options = GATED | {'conv_resample': False}
  with pytest.raises(ValueError, match='1 x 1'):
    jax.eval_shape(
      lambda: pyunet.PyUNet(**options).init(
        jax.random.key(0), **_inputs(options, (1, 1)), stage=0
      )
    )


@pytest.mark.parametrize(
  ('options', 'change', 'message'),
  [
    (GATED, {'stage': 2}, r'stage .*\[0, 2\)'),
    (GATED, {'stage': jnp.array(0)}, 'stage must be a Python int'),
    (GATED, {'x': jnp.zeros((B, 8, 8, 6)), 'stage': 1}, 'C >= 7'),
    (GATED, {'context': jnp.zeros((B, 5, 13))}, r'\(B, S, 12\)'),
    (PLAIN, {'context': jnp.zeros((B, 5, 13))}, 'use_spatial_transformer'),
    (GATED, {'y': jnp.zeros(B, int)}, 'y must be of shape None'),
    (GATED | {'num_classes': 3}, {'y': None}, r'\(2,\), got None'),
    (
      GATED | {'num_classes': 3, 'use_embed': False},
      {'y': None},
      r'\(2, 3\), got None',
    ),
    (GATED | {'num_stage': 1}, {'stage': 2}, r'\[0, 2\)'),
    (GATED | {'num_stage': 3}, {'stage': 2}, r'\[0, 2\)'),
    (GATED | {'context_dim': None}, {'context': None}, 'context_dim'),
    (JOINT | {'out_channels': None}, {}, 'out_channels'),
    (GATED | {'split_embed_dim_list': ()}, {}, 'split_embed_dim_list'),
  ],
)
def test_refuses(options, change, message):
  network = pyunet.PyUNet(**options)
  inputs = _inputs(options) | {'stage': 0} | change
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: network.init(jax.random.key(0), **inputs))
