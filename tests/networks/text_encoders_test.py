import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import text_encoders
from pyramid_jax.networks.layers import prenorm


KEY = jax.random.key(0)
TOKENS = jnp.array([[1, 2, 3, 11, 0], [4, 11, 0, 0, 0]])


def _apply(module, variables, *args, **kwargs):
  return jax.jit(lambda v, args: module.apply(v, *args, **kwargs))(
    variables, args
  )


def _clip(**changes):
  sizes = {
    'vocab_size': 12,
    'max_length': 5,
    'dim': 8,
    'depth': 2,
    'heads': 2,
    'mlp_dim': 16,
    'projection_dim': 6,
  }
  module = text_encoders.CLIPTextEncoder(**(sizes | changes))
  return module, jax.jit(module.init)(KEY, TOKENS)


def test_the_head_is_there_where_it_is_requested():
  sizes = {'vocab_size': 12, 'max_seq_len': 5, 'dim': 8, 'depth': 1}
  module = text_encoders.TransformerEncoder(**sizes, heads=2, head_dim=4)
  variables = module.init(KEY, TOKENS)
  assert 'to_logits' not in variables['params']
  with pytest.raises(ValueError, match='has_logits, got False'):
    module.apply(variables, TOKENS, method='logits')
  whole = module.clone(has_logits=True)
  more = whole.init(KEY, TOKENS)
  assert more['params'].keys() - variables['params'].keys() == {'to_logits'}
  got = module.apply(variables, TOKENS)
  np.testing.assert_array_equal(got, whole.apply(more, TOKENS))


def test_clip_block_equals_the_formula():
  x = jax.random.normal(KEY, (1, 4, 6))
  block = prenorm.PreNormBlock(heads=2, mlp_dim=10, is_causal=True)
  variables = block.init(KEY, x)
  p = jax.tree.map(np.float64, variables['params'])

  def linear(h, name):
    return h @ p[name]['kernel'] + p[name]['bias']

  def norm(h):
    h = h - h.mean(-1, keepdims=True)
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5)

  h = norm(np.float64(x))
  q, k, v = (linear(h, f'{n}_proj').reshape(4, 2, 3) for n in 'qkv')
  logits = np.einsum('thd,shd->hts', q, k) / np.sqrt(3)
  weights = np.exp(logits) * np.tril(np.ones((4, 4)))
  weights /= weights.sum(-1, keepdims=True)
  h = np.einsum('hts,shd->thd', weights, v).reshape(1, 4, 6)
  y = x + linear(h, 'out_proj')
  h = linear(norm(y), 'fc1')
  want = y + linear(h / (1 + np.exp(-1.702 * h)), 'fc2')
  with jax.default_matmul_precision('highest'):
    got = block.apply(variables, x)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_clip_does_not_look_ahead():
  module, variables = _clip()
  want = _apply(module, variables, TOKENS)
  got = _apply(module, variables, TOKENS.at[:, 3:].set(7))
  np.testing.assert_array_equal(got[:, :3], want[:, :3])
  assert np.abs(got - want)[:, 3:].max() > 1e-3


def test_clip_pools_the_end_of_the_text():
  module, variables = _clip()
  got = _apply(module, variables, TOKENS, method='pooled')
  states = np.asarray(_apply(module, variables, TOKENS))
  kernel = np.asarray(variables['params']['text_projection']['kernel'])
  want = np.stack([states[0, 3] @ kernel, states[1, 1] @ kernel])
  want /= np.linalg.norm(want, axis=-1, keepdims=True)
  assert got.shape == (2, 1, 6)
  np.testing.assert_allclose(got[:, 0], want, atol=1e-5)


def test_clip_without_projection_refuses_to_pool():
  module, variables = _clip(projection_dim=None)
  assert 'text_projection' not in variables['params']
  with pytest.raises(ValueError, match='projection_dim'):
    _apply(module, variables, TOKENS, method='pooled')


def _transformer(**changes):
  sizes = {'vocab_size': 12, 'max_seq_len': 5, 'dim': 8, 'depth': 2}
  return text_encoders.TransformerEncoder(
    **(sizes | {'heads': 2, 'head_dim': 4} | changes)
  )


def test_transformer_remat_and_dtype():
  module = _transformer()
  variables = jax.jit(module.init)(KEY, TOKENS)
  want = _apply(module, variables, TOKENS)
  again = module.clone(remat='full')
  np.testing.assert_allclose(_apply(again, variables, TOKENS), want, atol=1e-6)
  jaxpr = jax.make_jaxpr(again.apply)(variables, TOKENS)
  assert str(jaxpr).count('remat') == 2
  half = _apply(module.clone(dtype=jnp.bfloat16), variables, TOKENS)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), want, atol=0.1)


def test_words_are_told_apart_from_the_start_by_large_embeddings():
  """The mean of a text says which of two words it has, wherever it stands."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, 40, (256, 12))
  word = rng.integers(0, 2, 256)
  tokens[np.arange(256), rng.integers(0, 12, 256)] = word

  def told_apart(embed_std):
    network = text_encoders.TransformerEncoder(
      40, 12, 64, 2, heads=2, head_dim=32, embed_std=embed_std
    )
    params = network.init(jax.random.key(0), jnp.asarray(tokens))
    pooled = np.asarray(network.apply(params, jnp.asarray(tokens)).mean(1))
    one, two = (pooled[:128][word[:128] == w].mean(0) for w in (0, 1))
    guess = (pooled[128:] - (one + two) / 2) @ (two - one) > 0
    return (guess == word[128:]).mean()

  assert told_apart(1.0) > 0.9
  assert told_apart(1.0) > told_apart(0.02)


def test_transformer_attends_to_padding():
  module = _transformer()
  variables = jax.jit(module.init)(KEY, TOKENS)
  change = _apply(module, variables, TOKENS.at[0, 4].set(5))
  assert np.abs(change - _apply(module, variables, TOKENS))[0, 0].max() > 1e-6


@pytest.mark.parametrize('make', [_transformer, lambda: _clip()[0]])
def test_too_many_tokens_are_refused(make):
  with pytest.raises(ValueError, match='N <= 5'):
    make().init(KEY, jnp.zeros((1, 6), jnp.int32))


BOXES = jax.random.uniform(KEY, (2, 3, 4))
LABELS = jnp.array([[1, 2, 3], [4, 2, 0]])
COUNTS = jnp.array([3, 2])


def _boxes():
  module = text_encoders.BoxEncoder(
    dim=16, depth=2, heads=2, num_labels=5, head_dim=8
  )
  return module, jax.jit(module.init)(KEY, BOXES, LABELS, COUNTS)


def test_box_encoder_follows_the_order_of_the_objects():
  module, variables = _boxes()
  want = _apply(module, variables, BOXES, LABELS, COUNTS)
  assert want.values.shape == (2, 4, 16)  # three objects and the null token
  order = jnp.array([1, 0, 2])
  got = _apply(module, variables, BOXES[:, order], LABELS[:, order], COUNTS)
  moved = jnp.array([1, 0, 2, 3])
  np.testing.assert_allclose(got.values, want.values[:, moved], atol=1e-5)
  np.testing.assert_array_equal(got.places, want.places[:, moved])


def test_box_encoder_ignores_what_absent_objects_hold():
  module, variables = _boxes()
  want = _apply(module, variables, BOXES, LABELS, COUNTS)
  boxes = BOXES.at[1, 2].set(0.9)
  got = _apply(module, variables, boxes, LABELS.at[1, 2].set(4), COUNTS)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  # Without objects every token is the same: the null condition.
  none = _apply(module, variables, BOXES, LABELS, jnp.zeros(2, jnp.int32))
  np.testing.assert_allclose(none.values - none.values[:1, :1], 0, atol=1e-6)
  np.testing.assert_array_equal(
    none.places, jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (2, 4, 4))
  )


@pytest.mark.parametrize('place', range(5))
def test_box_encoder_sees_every_coordinate_and_the_label(place):
  module, variables = _boxes()
  want = _apply(module, variables, BOXES, LABELS, COUNTS).values
  boxes, labels = BOXES, LABELS
  if place < 4:
    boxes = boxes.at[1, 1, place].add(0.05)
  else:
    labels = labels.at[1, 1].set(3)
  got = _apply(module, variables, boxes, labels, COUNTS).values
  assert np.abs(got - want)[1, 1].max() > 1e-2
  np.testing.assert_array_equal(got[0], want[0])


def test_box_encoder_refuses_other_shapes():
  module, variables = _boxes()
  with pytest.raises(ValueError, match=r'boxes \(B, N, 4\)'):
    _apply(module, variables, BOXES, LABELS[:, :2], COUNTS)
