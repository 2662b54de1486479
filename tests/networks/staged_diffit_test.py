import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.networks import staged_diffit
from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import transformer
from tests.helpers import system_weights


B, TOKENS, DIM = 2, 3, 6
TINY = {
  'hidden_size': 16,
  'depth': 2,
  'num_heads': 2,
  'patch_size': 1,
  'num_classes': 5,
  'stage_sides': (2, 4),
  'stage_in': (3, 3),
  'stage_out': (3, 3),
}
T = jnp.array([-700.0, 300.0])
Y = jnp.array([0, 4])


def network(**options):
  return staged_diffit.StagedDiffiT(**TINY | options)


def state(stage=1, channels=3):
  side = (2, 4)[stage]
  return jax.random.normal(jax.random.key(stage), (B, side, side, channels))


def context():
  boxes = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]]
  places = jnp.broadcast_to(jnp.array(boxes), (B, TOKENS, 4))
  values = jax.random.normal(jax.random.key(7), (B, TOKENS, DIM))
  return transformer.PlacedTokens(values, places)


def shapes(net, *args, x=None):
  x = state(0) if x is None else x
  return jax.eval_shape(lambda: net.init(jax.random.key(0), x, T, *args))[
    'params'
  ]


def apply(net, params, *args, **kwargs):
  return jax.jit(lambda p: net.apply({'params': p}, *args, **kwargs))(params)


@pytest.fixture(scope='module')
def filled():
  """A network of class, tokens and self-context, and its weights."""
  net = network(context_dim=DIM, self_context=True)
  return net, system_weights.fill(shapes(net, context(), Y))


def test_every_stage_has_its_ends_and_every_grid_its_biases():
  tree = shapes(network(stage_sides=(2, 4), patch_size=2), None, Y)
  ends = {name for name in tree if name[-1] in '01' and 'mlp' not in name}
  assert ends == {
    *(f'x_embedder_{s}' for s in (0, 1)),
    *(f'final_layer_{s}' for s in (0, 1)),
  }
  assert tree['stage_embedder']['embedding'].shape == (2, 16)
  attn = tree['blocks']['attn']
  table = 'relative_position_bias_table'
  assert attn[f'{table}_1'].shape == (2, 1, 2)
  assert attn[f'{table}_2'].shape == (2, 9, 2)
  assert table not in attn
  net = network(stage_in=(3, 12), stage_out=(3, 12), stage_sides=(4, 4))
  same = shapes(net, None, Y, x=state())
  assert [n for n in same['blocks']['attn'] if n.startswith(table)] == [
    f'{table}_4'
  ]


def test_the_initial_prediction_is_zero():
  net = network()
  params = initial.evaluate(
    lambda key: net.init(key, state(0), T, None, Y), jax.random.key(0)
  )['params']
  out = apply(net, params, state(), T, None, Y, stage=1)
  np.testing.assert_array_equal(out, np.zeros((B, 4, 4, 3)))
  assert out.dtype == jnp.float32


def test_what_a_prediction_depends_on(filled):
  net, params = filled
  coarse = state(1, 3) ** 2
  inputs = {'x': state(), 't': T, 'context': context(), 'y': Y}
  inputs['coarse'] = coarse

  @jax.jit
  def run(params, inputs):
    return net.apply({'params': params}, stage=1, **inputs)

  want = run(params, inputs)
  assert want.shape == (B, 4, 4, 3)
  moved = context().replace(places=context().places[:, ::-1])
  for name, other in (
    ('t', T + 1),
    ('y', Y[::-1]),
    ('context', context().replace(values=-context().values)),
    ('context', moved),
    ('coarse', -coarse),
  ):
    assert np.abs(run(params, inputs | {name: other}) - want).max() > 1e-3, name
  # Of the parameters, by their names: the level is not the only input.
  for name in ('stage_embedder', 'pooled_proj', 'gate_1'):
    off = params | {name: jax.tree.map(jnp.zeros_like, params[name])}
    assert np.abs(run(off, inputs) - want).max() > 1e-3, name


def test_a_scan_changes_no_number_and_every_block_can_be_read(filled):
  scanned, stacked = filled
  alone = {k: v for k, v in stacked.items() if k != 'blocks'} | {
    f'blocks_{i}': jax.tree.map(lambda x, i=i: x[i], stacked['blocks'])
    for i in range(2)
  }
  args = state(0), T[:1], context(), Y
  features = ('block0', 'block1', 'block2')
  one, found = apply(scanned, stacked, *args, features=features)
  plain = network(
    context_dim=DIM, self_context=True, scan=False, remat='products'
  )
  two, same = apply(plain, alone, *args, features=features)
  np.testing.assert_allclose(one, two, atol=1e-4)
  assert list(found) == list(features)
  for name in features:
    assert found[name].shape == (B, 2, 2, 16)
    np.testing.assert_allclose(found[name], same[name], atol=1e-4)
  head = stacked['final_layer_0']
  h = np.asarray(found['block2'], float)
  h = (h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True)
  h = h / (1 + np.exp(-h))
  np.testing.assert_allclose(one, h @ head['kernel'] + head['bias'], atol=1e-3)


def test_context_and_gates_are_computed_once(filled):
  net, params = filled
  call = lambda variables, x, values, coarse, **kwargs: net.apply(
    variables,
    x,
    T,
    context().replace(values=values),
    Y,
    stage=1,
    coarse=coarse,
    **kwargs,
  )

  @jax.jit
  def run(params):
    values, coarse = context().values, state(1)
    want = call({'params': params}, state(), values, coarse)
    blank = jnp.zeros_like(state())
    kept = call(
      {'params': params}, blank, values, coarse, mutable=[caching.COLLECTION]
    )[1]
    again = call({'params': params} | kept, state(), values, -coarse)
    return want, again, kept

  want, again, kept = run(params)
  np.testing.assert_allclose(again, want, atol=1e-5)
  k, v = kept[caching.COLLECTION]['blocks']['cross']['kv']
  assert k.shape == v.shape == (2, B, TOKENS, 2, 8)


def test_patches_are_cells(filled):
  net = network(patch_size=2, stage_sides=(2, 4))
  params = system_weights.fill(shapes(net, None, Y))
  params['blocks'] = jax.tree.map(jnp.zeros_like, params['blocks'])
  x = state()
  changed = x.at[:, :2, 2:].add(1.0)
  run = lambda x: apply(net, params, x, T, None, Y, stage=1)
  moved = np.abs(run(changed) - run(x)) > 1e-6
  assert moved[:, :2, 2:].any()
  moved[:, :2, 2:] = False
  assert not moved.any()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'patch_size': 3}, r'patch_size = 3 must divide stage_sides = \(2, 4\)'),
    ({'stage_in': (3,)}, r'as many stages, got \[2, 1, 2\]'),
    ({'hidden_size': 18}, 'hidden_size = 18 must be a multiple of 4'),
  ],
)
def test_refuses_options(options, message):
  with pytest.raises(ValueError, match=message):
    shapes(network(**options), None, Y)


@pytest.mark.parametrize(
  ('args', 'kwargs', 'message'),
  [
    ((state(0), T, None, Y), {'stage': 2}, r'in \[0, 2\), got 2'),
    ((state(0), T, None, Y), {'stage': 1}, r'x of stage 1 must be \(2, 4, 4'),
    ((state(0), T, None, None), {}, r'y of stage 0 must be \(2,\), got None'),
    ((state(0), T, context(), Y), {}, 'None without context_dim; got'),
    (
      (state(0), T, None, Y),
      {'coarse': state(0)},
      'coarse of stage 0 must be None, got',
    ),
  ],
)
def test_refuses_inputs(args, kwargs, message):
  net = network()
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: net.init(jax.random.key(0), *args, **kwargs))


def test_a_gate_needs_what_it_reads(filled):
  net, params = filled
  with pytest.raises(ValueError, match=r'coarse of stage 1 must be \(2, 4, 4'):
    jax.eval_shape(
      lambda: net.apply({'params': params}, state(), T, context(), Y, stage=1)
    )
