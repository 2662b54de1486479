import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import tmsa


B, SIDE, C, D = 2, 6, 8, 5
KEY = jax.random.key(0)


def _inputs(side=SIDE):
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return draw(B, side, side, C), draw(B, D)


def _filled(module, *inputs):
  """Random parameters, also where they begin as zeros."""
  params = jax.eval_shape(module.init, KEY, *inputs)['params']
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: (0.5 * rng.normal(size=p.shape)).astype(np.float32), params
  )


def _apply(module, params, *inputs, **kwargs):
  return jax.jit(lambda p: module.apply({'params': p}, *inputs, **kwargs))(
    params
  )


def _numpy_attention(p, x, time, heads):
  """TMSA of one window, token by token, as the equations have it."""
  side, dim = x.shape[1], C // heads
  p = jax.tree.map(np.float64, p)
  tokens = np.float64(x).reshape(B, side**2, C)
  out = np.zeros_like(tokens)
  offset = np.zeros((B, 3 * C))
  if 'qkv_temb' in p:
    offset = np.float64(time) @ p['qkv_temb']['kernel'] + p['qkv_temb']['bias']
  for b in range(B):
    table = p['relative_position_bias_table']
    if 'bias_temb' in p:
      layer = p['bias_temb']
      added = np.float64(time[b]) @ layer['kernel'] + layer['bias']
      table = table + added.reshape(table.shape)
    z = tokens[b] @ p['qkv']['kernel'] + p['qkv']['bias'] + offset[b]
    seen = z
    if 'time_proj' in p:
      layer = p['time_proj']
      token = np.float64(time[b]) @ layer['kernel'] + layer['bias']
      token = (token - token.mean()) / np.sqrt(token.var() + 1e-6)
      more = token @ p['qkv']['kernel'] + p['qkv']['bias']
      seen = np.concatenate([z, more[None]])
    for h in range(heads):
      at = lambda i, h=h: slice(i * C + h * dim, i * C + (h + 1) * dim)
      q, k, v = z[:, at(0)], seen[:, at(1)], seen[:, at(2)]
      logits = q @ k.T / np.sqrt(dim)
      for i in range(side**2):
        for j in range(side**2):
          down = i // side - j // side + side - 1
          right = i % side - j % side + side - 1
          row = down * (2 * side - 1) + right
          logits[i, j] += table[row, h]
      weights = np.exp(logits - logits.max(1, keepdims=True))
      weights /= weights.sum(1, keepdims=True)
      out[b, :, h * dim : (h + 1) * dim] = weights @ v
  out = out @ p['proj']['kernel'] + p['proj']['bias']
  return out.reshape(x.shape)


def test_index_of_the_release():
  index = tmsa.relative_position_index(16)
  assert index[0, :4].tolist() == [480, 479, 478, 477]
  assert (index[0, 16], index[255, 0], index[0, 255]) == (449, 960, 0)
  assert index.sum() == 31_457_280


@pytest.mark.parametrize('window', [1, 4])
def test_bias_is_the_table_at_the_index(window):
  table = jax.random.normal(KEY, ((2 * window - 1) ** 2, 3))
  index = tmsa.relative_position_index(window)
  weights = np.random.default_rng(0).normal(size=(3, *index.shape))

  @jax.jit
  def both(table):
    bias, backward = jax.vjp(
      lambda t: tmsa.relative_position_bias(t, window), table
    )
    return bias, backward(jnp.float32(weights))[0]

  bias, gradient = both(table)
  np.testing.assert_array_equal(
    bias, np.asarray(table)[index].transpose(2, 0, 1)
  )
  want = np.zeros(table.shape)
  np.add.at(want, index, weights.transpose(1, 2, 0))
  np.testing.assert_allclose(gradient, want, atol=1e-5)


@pytest.mark.parametrize('token', ['tmsa', '', 'bias', 'separate'])
def test_one_window_equals_the_equations(token):
  module = tmsa.TimeAttention(heads=2, window=3, time_token=token)
  x, time = _inputs(side=3)
  params = _filled(module, x, time)
  assert ('qkv_temb' in params) == (token == 'tmsa')
  with jax.default_matmul_precision('highest'):
    got = _apply(module, params, x, time)
  np.testing.assert_allclose(
    got, _numpy_attention(params, x, time, 2), atol=2e-5
  )


@pytest.mark.parametrize('token', ['bias', 'separate'])
def test_all_windows_get_the_time_token_of_their_image(token):
  module = tmsa.TimeAttention(heads=2, window=3, time_token=token)
  x, time = _inputs()
  params = _filled(module, x, time)
  whole = _apply(module, params, x, time)
  part = _apply(module, params, x[1:, 3:, :3], time[1:])
  np.testing.assert_allclose(part, whole[1:, 3:, :3], atol=1e-5)
  shared = _apply(module, params, x, time[:1])
  np.testing.assert_allclose(shared[0], whole[0], atol=1e-5)


def test_windows_do_not_see_each_other():
  module = tmsa.TimeAttention(heads=2, window=3)
  x, time = _inputs()
  params = _filled(module, x, time)
  whole = _apply(module, params, x, time)
  alone = jax.jit(module.apply)
  for rows in (slice(0, 3), slice(3, 6)):
    for columns in (slice(0, 3), slice(3, 6)):
      part = alone({'params': params}, x[:, rows, columns], time)
      np.testing.assert_allclose(part, whole[:, rows, columns], atol=1e-5)


def test_translation_by_a_window_commutes():
  block = tmsa.DiffiTBlock(heads=2, window=3)
  x, time = _inputs()
  params = _filled(block, x, time)
  apply = jax.jit(lambda x: block.apply({'params': params}, x, time))
  want = np.asarray(apply(x))
  moved = apply(np.roll(x, (3, -3), (1, 2)))
  np.testing.assert_allclose(moved, np.roll(want, (3, -3), (1, 2)), atol=1e-5)
  moved = apply(np.roll(x, 1, 1))
  assert np.abs(moved - np.roll(want, 1, 1)).max() > 1e-2


def test_time_in_the_values_alone_shifts_the_output():
  """With Wq_t = Wk_t = 0 it is Attn(x) + time Wv_t in front of `proj`."""
  module = tmsa.TimeAttention(heads=2, window=3)
  x, time = _inputs()
  params = _filled(module, x, time)
  for leaf in params['qkv_temb'].values():
    leaf[..., : 2 * C] = 0
  with jax.default_matmul_precision('highest'):
    got = _apply(module, params, x, time)
    plain = tmsa.TimeAttention(heads=2, window=3, time_token='')
    rest = {k: v for k, v in params.items() if k != 'qkv_temb'}
    want = np.asarray(_apply(plain, rest, x, time))
  temb = params['qkv_temb']
  shift = time @ temb['kernel'][:, 2 * C :] + temb['bias'][2 * C :]
  want = want + (shift @ params['proj']['kernel'])[:, None, None]
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_window_of_several_has_a_table_of_its_own():
  x, time = _inputs()
  several = tmsa.TimeAttention(heads=2, window=(2, 3))
  call = lambda p, n: several.apply({'params': p}, x, time, window=n)
  params = jax.eval_shape(lambda: several.init(KEY, x, time, window=2))[
    'params'
  ]
  assert sum(name.startswith('relative') for name in params) == 2
  params = jax.tree.map(lambda s: np.full(s.shape, 0.1, np.float32), params)
  rng = np.random.default_rng(0)
  for name in params:
    if name.startswith('relative'):
      params[name] = rng.normal(size=params[name].shape).astype(np.float32)
  for n in (2, 3):
    one = tmsa.TimeAttention(heads=2, window=n)
    table = params[f'relative_position_bias_table_{n}']
    alone = {k: v for k, v in params.items() if not k.startswith('relative')}
    alone['relative_position_bias_table'] = table
    want = one.apply({'params': alone}, x, time)
    np.testing.assert_allclose(call(params, n), want, atol=1e-6)
  for n in (None, 6):
    with pytest.raises(ValueError, match=f'window is {n}, allowed: 2, 3'):
      jax.eval_shape(lambda n=n: call(params, n))


def test_tokens_are_attended_to_between_the_branches():
  x, time = _inputs()
  block = tmsa.DiffiTBlock(heads=2, window=3)
  rng = np.random.default_rng(1)
  context = rng.normal(size=(B, 3, 4)).astype(np.float32)
  near = jnp.zeros((B, SIDE**2, 3))

  @jax.jit
  def run(params, context, outside):
    return block.apply(
      {'params': params}, x, time, context=context, outside=outside
    )

  params = jax.eval_shape(
    lambda: block.init(KEY, x, time, context=context, outside=near)
  )['params']
  params = jax.tree.map(
    lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), params
  )
  want = run(params, context, near)
  assert np.abs(run(params, -context, near) - want).max() > 1e-3
  # Only the first token is near: the others might as well not be there.
  far = near.at[..., 1:].set(1e4)
  alone = run(params, context[:, :1], near[..., :1])
  params['cross']['place_strength'] = np.ones(2, np.float32)
  np.testing.assert_allclose(run(params, context, far), alone, atol=1e-5)
  params['cross']['to_out'] = jax.tree.map(
    np.zeros_like, params['cross']['to_out']
  )
  plain = {k: v for k, v in params.items() if k != 'cross'}
  np.testing.assert_allclose(
    run(params, context, near), run(plain, None, None), atol=1e-6
  )


@pytest.mark.parametrize('token', tmsa.TIME_TOKENS)
def test_without_its_weights_time_is_ignored(token):
  block = tmsa.DiffiTBlock(heads=2, window=3, time_token=token)
  x, time = _inputs()
  params = _filled(block, x, time)
  weights = {
    'tmsa': lambda: params['attn']['qkv_temb'],
    'add': lambda: params['time_proj'],
    'bias': lambda: params['attn']['bias_temb'],
    'mlp': lambda: params['mlp_temb'],
    'separate': lambda: params['attn']['time_proj'],
  }[token]()

  @jax.jit
  def change(params):
    apply = lambda time: block.apply({'params': params}, x, time)
    return apply(time) - apply(time + 1)

  assert np.abs(change(params)).max() > 1e-3
  weights['kernel'][:] = 0
  np.testing.assert_allclose(change(params), np.zeros_like(x), atol=1e-6)


def test_added_time_is_a_shift_of_the_tokens():
  x, time = _inputs()
  block = tmsa.DiffiTBlock(heads=2, window=3, time_token='add')
  params = _filled(block, x, time)
  apply = jax.jit(lambda p, x: block.apply({'params': p}, x, time))
  got = np.asarray(apply(params, x))
  proj = params['time_proj']
  shift = time @ proj['kernel'] + proj['bias']
  proj['kernel'][:], proj['bias'][:] = 0, 0
  want = apply(params, x + shift[:, None, None])
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_time_in_the_feed_forward_is_a_shift_of_its_hidden_values():
  x, time = _inputs()
  block = tmsa.DiffiTBlock(heads=2, window=3, time_token='mlp')
  params = _filled(block, x, time)
  apply = jax.jit(lambda p: block.apply({'params': p}, x[:1], time[:1]))
  got = np.asarray(apply(params))
  temb = params['mlp_temb']
  params['mlp_fc1']['bias'] += time[0] @ temb['kernel'] + temb['bias']
  temb['kernel'][:], temb['bias'][:] = 0, 0
  np.testing.assert_allclose(got, apply(params), atol=1e-4)


def test_gains_of_the_initial_weights():
  x, time = _inputs()
  block = tmsa.DiffiTBlock(heads=2, window=3, qkv_gain=0.5, out_gain=0.0)
  params = jax.jit(block.init)(KEY, x, time)['params']
  limit = 0.5 * np.sqrt(6 / (C + 3 * C))
  largest = np.abs(params['attn']['qkv']['kernel']).max()
  assert 0.9 * limit < largest <= limit
  np.testing.assert_array_equal(_apply(block, params, x, time), x)


def test_dropout_needs_training():
  x, time = _inputs()
  block = tmsa.DiffiTBlock(heads=2, window=3, dropout=0.5)
  params = _filled(block, x, time)
  rngs = {'dropout': KEY}
  want = _apply(block.clone(dropout=0.0), params, x, time)
  off = _apply(block, params, x, time, False, rngs=rngs)
  on = _apply(block, params, x, time, True, rngs=rngs)
  np.testing.assert_allclose(off, want, atol=1e-6)
  assert np.abs(on - off).max() > 1e-2


def test_activations_have_the_dtype():
  x, time = _inputs()
  block = tmsa.DiffiTBlock(heads=2, window=3, dtype=jnp.bfloat16)
  shape = jax.eval_shape(
    lambda: block.init_with_output(KEY, jnp.bfloat16(x), time)[0]
  )
  assert shape.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'heads': 3}, '8 channels cannot be split into 3 heads'),
    ({'window': 4}, r'6 x 6 cannot be cut .* 4 x 4'),
    ({'time_token': 'both'}, "'both', allowed: tmsa, add"),
  ],
)
def test_refuses(options, message):
  block = tmsa.DiffiTBlock(**{'heads': 2, 'window': 3} | options)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: block.init(KEY, *_inputs()))


def test_biases_of_a_time_token_need_one_side():
  module = tmsa.TimeAttention(heads=2, window=(3, 2), time_token='bias')
  with pytest.raises(ValueError, match=r'windows of one side, not \(3, 2\)'):
    jax.eval_shape(lambda: module.init(KEY, *_inputs(), window=3))
