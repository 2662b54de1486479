import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.interop import mapping
from pyramid_jax.networks import diffit_trunk
from pyramid_jax.networks import latent_diffit
from tests.parity.families import latent_diffit as family


TINY = {
  'input_size': 8,
  'hidden_size': 16,
  'depth': 3,
  'num_heads': 2,
  'num_classes': 5,
  'class_dropout_prob': 0.5,
}
B = 4


def _inputs(network):
  side = network.input_size
  x = jax.random.normal(jax.random.key(1), (B, side, side, network.in_channels))
  return x, jnp.array([0, 3, 500.5, 999]), jnp.arange(B) % 5


def _network(**options):
  return latent_diffit.LatentDiffiT(**TINY | options)


def _random(network):
  """Random parameters: the initial last layer would give zeros."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: (0.2 * rng.normal(size=s.shape)).astype(np.float32),
    family.shapes(network),
  )


def _apply(network, params, *inputs, **kwargs):
  return jax.jit(lambda p: network.apply({'params': p}, *inputs, **kwargs))(
    params
  )


@pytest.mark.parametrize(
  ('size', 'scan', 'parameters'),
  [
    (32, True, 561_035_232),
    (32, False, 561_035_232),
    (64, True, 562_382_816),
  ],
)
def test_published_sizes(size, scan, parameters):
  network = latent_diffit.LatentDiffiT(input_size=size, scan=scan)
  shapes = jax.tree.leaves(family.shapes(network))
  assert sum(s.size for s in shapes) == parameters


def test_paper_depth_is_not_its_parameter_count():
  network = latent_diffit.LatentDiffiT(depth=30)
  shapes = jax.tree.leaves(family.shapes(network))
  assert round(sum(s.size for s in shapes) / 1e6, 1) == 600.9


@pytest.mark.turns(3, group='networks')
def test_scan_and_remat_change_no_number():
  plain = _network(scan=False)
  params = _random(plain)
  stacked = mapping.stack(params, diffit_trunk.BLOCKS)
  inputs = _inputs(plain)
  weights = jax.random.normal(jax.random.key(2), (B, 8, 8, 8))

  def run(network, params):
    def loss(params):
      out = network.apply({'params': params}, *inputs)
      return (out * weights).sum(), out

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  want_grads, want = run(plain, params)
  assert np.abs(want).max() > 0.1
  for options in (
    {'scan': False, 'remat': 'products'},
    {},
    {'remat': 'products'},
    {'remat': 'attention'},
    {'remat': 'full'},
  ):
    network = _network(**options)
    grads, got = run(network, stacked if network.scan else params)
    np.testing.assert_allclose(got, want, atol=2e-5)
    grads = mapping.unstack(grads, diffit_trunk.BLOCKS)
    assert jax.tree.structure(grads) == jax.tree.structure(want_grads)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
        a, b, atol=1e-4 * max(1, np.abs(b).max())
      ),
      grads,
      want_grads,
    )


def test_how_much_is_kept_for_the_backward_pass():
  def kept(**options):
    network = _network(**options)
    run = lambda p: network.apply({'params': p}, *_inputs(network))
    pulled = jax.eval_shape(
      lambda p: jax.vjp(run, p)[1], family.shapes(network)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(pulled))

  everything, products = kept(), kept(remat='products')
  attention, nothing = kept(remat='attention'), kept(remat='full')
  assert everything > 1.5 * products > 1.5 * attention > 1.5 * nothing


def test_a_network_without_classes():
  network = _network(num_classes=0)
  params = _random(network)
  assert 'y_embedder' not in params
  x, t, y = _inputs(network)
  out = _apply(network, params, x, t, train=True)  # no key is needed
  assert out.shape == (B, 8, 8, 8)
  with pytest.raises(ValueError, match='with y None, got .* and \\(4,\\)'):
    _apply(network, params, x, t, y)
  with pytest.raises(ValueError, match=r'with y \(B,\), got .* and None'):
    _apply(_network(), params, x, t)


def test_initial_values():
  network = _network(hidden_size=32, num_heads=2)
  params = jax.jit(network.init)(jax.random.key(0), *_inputs(network))
  params = params['params']
  out = _apply(network, params, *_inputs(network))
  np.testing.assert_array_equal(out, np.zeros((B, 8, 8, 8)))

  def limit(leaf, fan_in, fan_out):
    bound = np.sqrt(6 / (fan_in + fan_out))
    assert 0.9 * bound < np.abs(leaf).max() <= bound

  blocks = params['blocks']
  assert blocks['attn']['qkv']['kernel'].shape == (3, 32, 96)
  limit(blocks['attn']['qkv']['kernel'], 32, 96)
  limit(blocks['attn']['qkv_temb']['kernel'], 32, 96)
  limit(blocks['attn']['proj']['kernel'], 32, 32)
  limit(blocks['mlp_fc1']['kernel'], 32, 128)
  limit(blocks['mlp_fc2']['kernel'], 128, 32)
  limit(params['x_embedder_proj']['kernel'], 16, 32)
  for leaf in (
    params['t_embedder_mlp_0']['kernel'],
    params['t_embedder_mlp_2']['kernel'],
    params['y_embedder']['embedding'],
    blocks['attn']['relative_position_bias_table'],
  ):
    np.testing.assert_allclose(np.std(leaf), 0.02, rtol=0.2)
  biases = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key == 'bias'
  ]
  assert len(biases) == 9
  assert not any(np.any(leaf) for leaf in biases)
  first, second = blocks['mlp_fc1']['kernel'][:2]
  assert np.abs(first - second).max() > 0.1  # blocks begin with other weights


def test_labels_are_dropped_in_training_alone():
  network = _network(class_dropout_prob=0.999)
  params = _random(network)
  x, t, y = _inputs(network)
  rngs = {'dropout': jax.random.key(3)}
  null = _apply(network, params, x, t, jnp.full(B, 5))
  asked = _apply(network, params, x, t, y, rngs=rngs)
  dropped = _apply(network, params, x, t, y, train=True, rngs=rngs)
  np.testing.assert_allclose(dropped, null, atol=1e-6)
  assert np.abs(asked - null).max() > 1e-2


def test_how_often_labels_are_dropped():
  network = _network(depth=1, class_dropout_prob=0.25, input_size=2)
  params = _random(network)
  n = 4000
  x, t, y = jnp.zeros((n, 2, 2, 4)), jnp.zeros(n), jnp.zeros(n, jnp.int32)
  rngs = {'dropout': jax.random.key(3)}
  asked = _apply(network, params, x, t, y)
  got = _apply(network, params, x, t, y, train=True, rngs=rngs)
  share = (np.abs(got - asked).max((1, 2, 3)) > 1e-3).mean()
  assert abs(share - 0.25) < 0.03


def test_a_network_without_null_class():
  network = _network(class_dropout_prob=0.0)
  assert family.shapes(network)['y_embedder']['embedding'].shape == (5, 16)
  params = _random(network)
  inputs = _inputs(network)
  np.testing.assert_array_equal(
    _apply(network, params, *inputs, train=True),  # no key is needed
    _apply(network, params, *inputs),
  )


def test_a_shared_level():
  network = _network()
  params = _random(network)
  x, _, y = _inputs(network)
  want = _apply(network, params, x, jnp.full(B, 7.0), y)
  got = _apply(network, params, x, jnp.array([7.0]), y)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_bfloat16_is_close_and_its_result_float32():
  network = _network()
  params = _random(network)
  inputs = _inputs(network)
  want = _apply(network, params, *inputs)
  got = _apply(network.clone(dtype=jnp.bfloat16), params, *inputs)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=0.1 * np.abs(want).max())


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'patch_size': 3}, 'patch_size = 3 must divide input_size = 8'),
    ({'hidden_size': 18}, 'hidden_size = 18 must be a multiple of 4'),
    ({'num_heads': 3}, 'num_heads = 3'),
    ({'depth': 0}, 'depth = 0'),
    ({'num_classes': -1}, 'num_classes = -1'),
    ({'remat': 'all'}, "'all', allowed: none, products, offload, attention"),
    ({'class_dropout_prob': 1.0}, r'class_dropout_prob = 1.0 must be in'),
    ({'attention': 'fast'}, "attention is 'fast'"),
    ({'time_token': 'none'}, "'none', allowed: tmsa, add"),
  ],
)
def test_refuses_options(options, message):
  with pytest.raises(ValueError, match=message):
    family.shapes(_network(**options))


@pytest.mark.parametrize(
  ('x', 'y'),
  [((B, 16, 16, 4), (B,)), ((B, 8, 8, 3), (B,)), ((B, 8, 8, 4), (B, 1))],
)
def test_refuses_inputs(x, y):
  network = _network()
  with pytest.raises(ValueError, match=r'x must be \(B, 8, 8, 4\) with y'):
    jax.eval_shape(
      lambda: network.init(
        jax.random.key(0), jnp.zeros(x), jnp.zeros(B), jnp.zeros(y, jnp.int32)
      )
    )
