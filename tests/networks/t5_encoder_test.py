import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.networks import t5


TINY = {
  'vocab_size': 13,
  'dim': 6,
  'depth': 2,
  'heads': 2,
  'head_dim': 4,  # heads * head_dim is not dim, as in the published small
  'mlp_dim': 10,
  'buckets': 8,
  'max_distance': 8,
}
TOKENS = np.array([[5, 2, 7, 7, 3, 9, 4, 12, 2, 6, 1], [8, 3, 1] + [0] * 8])


@pytest.fixture(scope='module')
def tiny():
  module = t5.T5Encoder(**TINY)
  tokens = jnp.asarray(TOKENS)
  params = initial.evaluate(
    lambda key: module.init(key, tokens), jax.random.key(0)
  )['params']
  rng = np.random.default_rng(0)
  # Wide enough for every part to matter, norms included.
  params = jax.tree.map(
    lambda x: (x + 0.5 * rng.normal(size=x.shape)).astype(np.float32), params
  )

  @jax.jit
  def run(params, tokens, mask=None):
    with jax.default_matmul_precision('highest'):
      return module.apply({'params': params}, tokens, mask)

  return params, run


def bucket(offset, buckets, max_distance):
  """The row of one offset, key minus query, by the words of the paper."""
  side = buckets // 2
  row = side if offset > 0 else 0
  distance, exact = abs(offset), side // 2
  if distance < exact:
    return row + distance
  octaves = np.float32(np.log(np.float32(distance / exact)))
  octaves /= np.float32(np.log(max_distance / exact))
  return row + min(exact + int(octaves * (side - exact)), side - 1)


def reference(params, tokens, mask):
  """T5 v1.1's encoder in float64, one example, a head and a query at a time."""
  p = jax.tree.map(np.float64, params)

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

  def attend(h, part):
    q, k, v = (h @ part[name]['kernel'] for name in 'qkv')
    out = np.zeros((len(h), TINY['heads'] * TINY['head_dim']))
    for head in range(TINY['heads']):
      here = slice(head * TINY['head_dim'], (head + 1) * TINY['head_dim'])
      for i in range(len(h)):
        logits = k[:, here] @ q[i, here]
        for j in range(len(h)):
          row = bucket(j - i, TINY['buckets'], TINY['max_distance'])
          logits[j] += p['relative_attention_bias']['embedding'][row, head]
        weights = np.exp(logits - logits.max()) * mask
        out[i, here] = weights / weights.sum() @ v[:, here]
    return out @ part['o']['kernel']

  x = p['shared']['embedding'][tokens]
  for i in range(TINY['depth']):
    block = p[f'block_{i}']
    x = x + attend(norm(x, block['norm_attn']['scale']), block)
    h = norm(x, block['norm_ff']['scale'])
    gate, value = (h @ block[f'wi_{n}']['kernel'] for n in range(2))
    cubic = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    gate = gate / 2 * (1 + np.tanh(cubic))
    x = x + gate * value @ block['wo']['kernel']
  return norm(x, p['final_layer_norm']['scale'])


def test_equals_the_formula(tiny):
  params, run = tiny
  mask = TOKENS != t5.PAD_ID
  got = run(params, TOKENS, mask)
  for row in range(2):
    want = reference(params, TOKENS[row], mask[row])
    there = mask[row]
    np.testing.assert_allclose(got[row][there], want[there], atol=2e-5)


def test_without_a_mask_padding_is_read(tiny):
  params, run = tiny
  want = reference(params, TOKENS[1], np.ones(11))
  got = run(params, TOKENS)
  np.testing.assert_allclose(got[1], want, atol=2e-5)
  masked = run(params, TOKENS, TOKENS != 0)
  np.testing.assert_allclose(got[0], masked[0], atol=1e-6)
  assert np.abs(got[1, :3] - masked[1, :3]).max() > 1e-2


def test_padding_changes_nothing_before_it(tiny):
  params, run = tiny
  other = np.where(TOKENS == 0, 11, TOKENS)
  mask = TOKENS != 0
  got, want = (run(params, x, mask) for x in (other, TOKENS))
  np.testing.assert_array_equal(got[1, :3], want[1, :3])


def test_rows_of_relative_places():
  length = 300
  got = t5.relative_buckets(length)
  want = [
    [bucket(j - i, 32, 128) for j in range(length)] for i in range(length)
  ]
  np.testing.assert_array_equal(got, want)
  # Doubling a distance adds two rows; 128 and more share the last one.
  assert got[0, [0, 1, 7, 8, 16, 32, 64, 127, 128, 299]].tolist() == [
    *(0, 17, 23, 24, 26, 28, 30, 31, 31, 31)
  ]
  assert got[299, [298, 0]].tolist() == [1, 15]


def parameters(size):
  """Counts the published sizes by hand; a head is 64 wide."""
  depth, dim, mlp, heads = (
    size[name] for name in ('depth', 'dim', 'mlp_dim', 'heads')
  )
  block = 4 * dim * 64 * heads + 3 * dim * mlp + 2 * dim
  return 32128 * dim + depth * block + 32 * heads + dim


@pytest.mark.parametrize('name', t5.SIZES)
def test_published_sizes(name):
  encoder = t5.T5Encoder(**t5.SIZES[name])
  tokens = jnp.zeros((2, 77), jnp.int32)
  out, variables = jax.eval_shape(
    encoder.init_with_output, jax.random.key(0), tokens
  )
  leaves = jax.tree.leaves(variables['params'])
  assert sum(x.size for x in leaves) == parameters(t5.SIZES[name])
  assert out.shape == (2, 77, t5.SIZES[name]['dim'])
  if name == 'xxl':
    assert parameters(t5.SIZES[name]) == 4_762_310_656
    assert encoder == t5.T5Encoder()


def test_a_mask_of_another_shape_is_refused():
  encoder = t5.T5Encoder(**TINY)
  tokens = jnp.zeros((2, 5), jnp.int32)
  with pytest.raises(ValueError, match=r'got \(2, 5\) and \(2, 4\)'):
    jax.eval_shape(encoder.init, jax.random.key(0), tokens, tokens[:, :4])
