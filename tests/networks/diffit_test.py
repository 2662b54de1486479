import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.networks import diffit


B = 2
TINY = {
  'width': 16,
  'channel_mult': (1, 2),
  'num_blocks': 1,
  'window': 2,
  'head_dim': 8,
  'time_dim': 12,
  'embedding_dim': 8,
}
LEVEL = {'channel_mult': (2,)}  # a single one, for what depends on no other
CIFAR = {'augment_dim': 9}
FFHQ = CIFAR | {'channel_mult': (1, 2, 2, 2), 'window': 8, 'dropout': 0.05}


def _network(**options):
  return diffit.DiffiT(**TINY | options)


def _inputs(side=8, **more):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(B, side, side, 3)).astype(np.float32)
  return {'x': x, 'noise_label': np.float32([-0.3, 0.4])} | more


def _shapes(network, side=8, **more):
  return jax.eval_shape(
    lambda: network.init(jax.random.key(0), **_inputs(side, **more))
  )['params']


def _random(network, side=8):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: (0.3 * rng.normal(size=s.shape)).astype(np.float32),
    _shapes(network, side),
  )


def _apply(network, params, inputs, **kwargs):
  apply = jax.jit(lambda p, i: network.apply({'params': p}, **i, **kwargs))
  return np.asarray(apply(params, inputs))


def _count(network, side):
  return sum(s.size for s in jax.tree.leaves(_shapes(network, side)))


@pytest.mark.parametrize(
  ('options', 'side', 'millions'),
  [
    (CIFAR, 32, 43.7),
    (CIFAR | {'skips': 'level'}, 32, 39.4),
    (CIFAR | {'channel_mult': (1, 2, 2), 'num_blocks': 2}, 32, 16.8),
    (FFHQ, 64, 49.7),
    (FFHQ | {'skips': 'level'}, 64, 44.8),
    (FFHQ | {'num_blocks': (1, 2, 2, 2)}, 64, 25.2),
  ],
)
def test_parameters_of_the_recommended_builds(options, side, millions):
  count = _count(diffit.DiffiT(**options), side)
  assert round(count / 1e6, 1) == millions


def test_shapes_of_the_paper():
  """Tables S.2 and S.3, for images of 64 pixels."""
  network = diffit.DiffiT(**FFHQ)

  def parts():
    _, taken = network.init_with_output(
      jax.random.key(0),
      **_inputs(64),
      capture_intermediates=lambda module, method: (
        len(module.path) == 1 and method == '__call__'
      ),
      mutable=['params', 'intermediates'],
    )
    return {
      name: value['__call__'][0]
      for name, value in taken['intermediates'].items()
      if '__call__' in value
    }

  shapes = {name: s.shape[1:] for name, s in jax.eval_shape(parts).items()}
  want = {
    'stem': (64, 64, 128),
    'down_0_block_3': (64, 64, 128),
    'down_0_resample': (32, 32, 128),
    'down_1_block_3': (32, 32, 256),
    'down_1_resample': (16, 16, 256),
    'down_2_block_3': (16, 16, 256),
    'down_2_resample': (8, 8, 256),
    'down_3_block_3': (8, 8, 256),
    'up_2_resample': (16, 16, 256),
    'up_2_block_3': (16, 16, 256),
    'up_1_resample': (32, 32, 256),
    'up_1_block_3': (32, 32, 256),
    'up_0_resample': (64, 64, 256),
    'up_0_block_3': (64, 64, 128),
    'head_conv': (64, 64, 3),
  }
  assert {name: shapes.get(name) for name in want} == want
  blocks = [name for name in shapes if '_block_' in name]
  assert len(blocks) == 4 * 4 + 3 * 4


@pytest.mark.parametrize(
  'options',
  [
    {'skips': 'level', 'num_blocks': (2, 1), 'resample': 'pool'},
    {'stem_stride': 2, 'window': (1, 2), 'dtype': jnp.bfloat16},
    LEVEL | {'out_channels': 6, 'embedding': 'fourier'},
  ],
)
def test_result_is_float32_at_the_size_of_x(options):
  network = _network(**options)
  params = _random(network)
  out = _apply(network, params, _inputs())
  assert out.shape == (B, 8, 8, network.out_channels)
  assert out.dtype == np.float32
  assert np.isfinite(out).all()
  moved = _inputs()
  moved['noise_label'] = moved['noise_label'] + 0.2
  assert np.abs(_apply(network, params, moved) - out).max() > 1e-3


def test_other_sizes_of_images_share_the_weights():
  network = _network()
  assert _shapes(network, 8) == _shapes(network, 12)


@pytest.mark.parametrize('token', ['tmsa', 'add'])
def test_without_its_weights_the_noise_label_is_ignored(token):
  network = _network(**LEVEL, time_token=token)
  params = _random(network)
  name = {'tmsa': 'qkv_temb', 'add': 'time_proj'}[token]
  found = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if any(part.key == name for part in path):
      leaf[:] = 0
      found += 1
  assert found == 2  # kernel and bias of the block
  inputs = _inputs()
  moved = inputs | {'noise_label': inputs['noise_label'] + 1}
  np.testing.assert_allclose(
    _apply(network, params, moved), _apply(network, params, inputs), atol=1e-6
  )


def test_residual_block_equals_its_equations():
  block = diffit.ResBlock(
    6, {'heads': 2, 'window': 4}, groups=2, skip_scale=0.7
  )
  rng = np.random.default_rng(0)
  x = rng.normal(size=(B, 4, 4, 8)).astype(np.float32)
  time = rng.normal(size=(B, 5)).astype(np.float32)
  template = jax.eval_shape(block.init, jax.random.key(0), x, time)['params']
  params = jax.tree.map(
    lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), template
  )
  params['transformer']['attn']['proj']['kernel'][:] = 0
  params['transformer']['attn']['proj']['bias'][:] = 0
  with jax.default_matmul_precision('highest'):
    got = jax.jit(block.apply)({'params': params}, x, time)

  h = np.float64(x).reshape(B, 16, 2, 4)
  h = h - h.mean((1, 3), keepdims=True)
  h = h / np.sqrt((h**2).mean((1, 3), keepdims=True) + 1e-6)
  h = h.reshape(B, 4, 4, 8) * params['norm']['scale'] + params['norm']['bias']
  h = np.pad(h / (1 + np.exp(-h)), ((0, 0), (1, 1), (1, 1), (0, 0)))
  kernel = np.float64(params['conv']['kernel'])
  h = params['conv']['bias'] + sum(
    h[:, i : i + 4, j : j + 4] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )
  z = h - h.mean(-1, keepdims=True)
  z = z / np.sqrt((z**2).mean(-1, keepdims=True) + 1e-6)
  fc1, fc2 = (params['transformer'][f'mlp_fc{i}'] for i in (1, 2))
  z = z @ fc1['kernel'] + fc1['bias']
  z = z / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3)))
  h = h + z @ fc2['kernel'] + fc2['bias']
  skip = np.float64(x) @ params['skip']['kernel'] + params['skip']['bias']
  np.testing.assert_allclose(got, 0.7 * (skip + h), atol=2e-5)


def test_labels():
  network = _network(**LEVEL, num_classes=3, augment_dim=2)
  params = _random(network)
  apply = jax.jit(lambda i: network.apply({'params': params}, **i))
  run = lambda **labels: np.asarray(apply(_inputs(**labels)))
  plain = run()
  none = {
    'class_labels': np.array([3, 3]),
    'augment_labels': np.zeros((B, 2), np.float32),
  }
  np.testing.assert_allclose(run(**none), plain, atol=1e-6)
  for change in (
    {'class_labels': np.array([3, 1])},
    {'augment_labels': np.float32([[0, 0], [0, 1]])},
  ):
    some = run(**none | change)
    np.testing.assert_allclose(some[0], plain[0], atol=1e-6)
    assert np.abs(some[1] - plain[1]).max() > 1e-3
  assert set(_shapes(network)['map_label']) == {'kernel', 'bias'}
  assert set(_shapes(network)['map_augment']) == {'kernel'}


def test_a_shared_noise_label():
  network = _network(**LEVEL, num_classes=3)
  params = _random(network)
  inputs = _inputs() | {'noise_label': np.float32([0.4, 0.4])}
  shared = inputs | {'noise_label': np.float32([0.4])}
  np.testing.assert_allclose(
    _apply(network, params, shared), _apply(network, params, inputs), atol=1e-5
  )


def test_positional_embedding_has_sines_first():
  """The first layer of the map reads them in the order of the reference."""
  network = _network(**LEVEL)
  params = _random(network)
  first = params['map_layer_0']
  inputs = _inputs() | {'noise_label': np.float32([0.3, -1.25])}
  first['kernel'][:] = 0
  still = _apply(network, params, inputs)
  first['kernel'][0] = 1  # sin(label)
  moved = _apply(network, params, inputs)
  first['kernel'][0] = 0
  first['bias'] += np.float32(np.sin(0.3))
  want = _apply(network, params, inputs)
  assert np.abs(moved[0] - still[0]).max() > 1e-4
  np.testing.assert_allclose(moved[0], want[0], atol=1e-5)


def test_initially_little_comes_out():
  network = _network(**LEVEL)
  inputs = _inputs()
  start = initial.evaluate(network.init, jax.random.key(0), *inputs.values())
  out = _apply(network, start['params'], inputs)
  assert 0 < np.abs(out).max() < 1e-3
  params = start['params']['down_0_block_0']
  largest = lambda leaf: np.abs(leaf['kernel']).max()
  bound = lambda fans, gain: gain * np.sqrt(6 / fans)
  attn = params['transformer']['attn']
  for leaf, fans, gain in (
    (params['conv'], 9 * 16 + 9 * 32, 1e-5),
    (params['skip'], 16 + 32, 1),
    (attn['qkv'], 32 + 96, 0.2**0.5),
    (attn['qkv_temb'], 12 + 96, 0.2**0.5),
    (attn['proj'], 32 + 32, 1e-5),
    (params['transformer']['mlp_fc1'], 32 + 128, 1),
    (params['transformer']['mlp_fc2'], 128 + 32, 1e-5),
    (start['params']['head_conv'], 9 * 32 + 9 * 3, 1e-5),
  ):
    limit = bound(fans, gain)
    assert 0.9 * limit < largest(leaf) <= 1.0001 * limit


def test_remat_changes_no_number():
  network = _network(skips='level')
  params = _random(network)
  inputs = _inputs()
  weights = np.random.default_rng(2).normal(size=inputs['x'].shape)

  def run(network):
    def loss(params):
      return (network.apply({'params': params}, **inputs) * weights).sum()

    return jax.jit(jax.value_and_grad(loss))(params)

  (want, want_grads), (got, grads) = (
    run(network),
    run(_network(skips='level', remat='full')),
  )
  np.testing.assert_allclose(got, want, rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=1e-4 * np.abs(b).max() + 1e-6
    ),
    grads,
    want_grads,
  )


def test_dropout_needs_training():
  network = _network(**LEVEL, dropout=0.5)
  params = _random(network)
  rngs = {'dropout': jax.random.key(0)}
  off = _apply(network, params, _inputs(), rngs=rngs)
  on = _apply(network, params, _inputs(), rngs=rngs, train=True)
  without = _apply(_network(**LEVEL, dropout=0.0), params, _inputs())
  np.testing.assert_allclose(off, without, atol=1e-6)
  assert np.abs(on - off).max() > 1e-2


@pytest.mark.parametrize(
  ('options', 'side', 'message'),
  [
    ({}, 6, '6 x 6 do not fit: sides must be multiples of 4, .* 2 levels'),
    ({'stem_stride': 3}, 8, 'multiples of 12, for stem_stride = 3'),
    ({'window': (4, 3)}, 8, r'multiples of 12.*window = \(4, 3\)'),
    ({'window': (4, 3, 2)}, 8, r'window = \(4, 3, 2\) must be .* 2 levels'),
    ({'num_blocks': 0}, 8, 'num_blocks = 0 must be positive'),
    ({'head_dim': 12}, 8, 'head_dim = 12 must divide the 16 channels'),
    ({'stem_stride': 0}, 8, 'stem_stride = 0 must be positive'),
    ({'skips': 'all'}, 8, "skips is 'all', allowed: block, level"),
    ({'resample': 'fir'}, 8, "resample is 'fir', allowed: conv, pool"),
    ({'embedding': 'none'}, 8, "'none', allowed: positional, fourier"),
    ({'time_token': 'x'}, 8, "time_token is 'x', allowed: tmsa, add"),
  ],
)
def test_refuses_options(options, side, message):
  with pytest.raises(ValueError, match=message):
    _shapes(_network(**options), side)


@pytest.mark.parametrize(
  ('options', 'inputs', 'message'),
  [
    ({'in_channels': 4}, {}, r'x must be \(B, H, W, 4\)'),
    ({}, {'class_labels': jnp.zeros(B, int)}, 'num_classes = 0'),
    ({'num_classes': 3}, {'class_labels': jnp.zeros((B, 3))}, r'\(2, 3\)'),
    ({}, {'augment_labels': jnp.zeros((B, 9))}, 'augment_dim = 0'),
    (
      {'augment_dim': 9},
      {'augment_labels': jnp.zeros((B, 8))},
      r'shape \(2, 8\) need shape \(2, 9\)',
    ),
  ],
)
def test_refuses_inputs(options, inputs, message):
  with pytest.raises(ValueError, match=message):
    _shapes(_network(**options), **inputs)
