import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import first_stages
from pyramid_jax.networks import msvqgan
from pyramid_jax.networks.layers import quantizer
from pyramid_jax.networks.layers import quantizers


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('codes', [7, 1024, 1025, 2500])
def test_nearest_code_equals_all_distances_in_float64(codes):
  z, codebook = _normal(0, 2, 5, 6, 4), _normal(1, codes, 4)

  got = quantizer.nearest_code(z, codebook)

  differences = z[..., None, :].astype(np.float64) - codebook
  want = (differences**2).sum(-1).argmin(-1)
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('codes', [600, 3000])
def test_nearest_code_prefers_the_first_of_equal_entries(codes):
  codebook = np.tile(_normal(0, 300, 3), (codes // 300, 1))

  got = quantizer.nearest_code(codebook, codebook)

  np.testing.assert_array_equal(got, np.arange(codes) % 300)


def _quantise(z, codebook, **fields):
  module = quantizer.VectorQuantizer(*codebook.shape, **fields)
  return module.apply({'params': {'embedding': codebook}}, z)


@pytest.mark.parametrize('legacy', [True, False])
def test_loss_weighs_the_term_that_legacy_says(legacy):
  z, codebook = _normal(0, 2, 3, 3, 4), _normal(1, 16, 4)

  def loss(z, codebook):
    return _quantise(z, codebook, beta=0.25, legacy=legacy)[2]

  got = loss(z, codebook)
  to_z, to_codebook = jax.grad(loss, (0, 1))(z, codebook)

  entries, codes, _ = _quantise(z, codebook)
  np.testing.assert_allclose(entries, codebook[codes], atol=1e-6)
  difference = z - codebook[codes]
  encoder, book = (1, 0.25) if legacy else (0.25, 1)
  np.testing.assert_allclose(got, 1.25 * (difference**2).mean(), rtol=1e-5)
  gradient = 2 * difference / z.size
  np.testing.assert_allclose(to_z, encoder * gradient, atol=1e-6)
  want = np.zeros_like(codebook)
  np.add.at(want, codes, -book * gradient)
  np.testing.assert_allclose(to_codebook, want, atol=1e-6)


def test_gradients_of_the_entries_go_straight_to_the_input():
  z, codebook, weight = _normal(0, 5, 4), _normal(1, 8, 4), _normal(2, 5, 4)

  def score(z, codebook):
    return (weight * _quantise(z, codebook)[0]).sum()

  to_z, to_codebook = jax.grad(score, (0, 1))(z, codebook)

  np.testing.assert_allclose(to_z, weight, rtol=1e-6)
  assert not np.any(to_codebook)


@pytest.mark.parametrize('init_normal', [False, True])
def test_codebooks_start_as_the_reference_says(init_normal):
  module = quantizer.VectorQuantizer(500, 8, init_normal=init_normal)

  book = module.init(jax.random.key(0), jnp.zeros((1, 8)))['params'][
    'embedding'
  ]

  std = 1 if init_normal else 1 / 500 / 3**0.5
  np.testing.assert_allclose(np.std(book), std, rtol=0.05)


def test_wrong_channels_are_named():
  with pytest.raises(ValueError, match=r'entries of 4 channels.*\(2, 3\)'):
    _quantise(np.zeros((2, 3)), np.zeros((8, 4), np.float32))


def test_usage_of_a_codebook():
  codes = jnp.array([[0, 0, 3], [3, 1, 1]])

  counts = quantizer.code_counts(codes, 6)

  np.testing.assert_array_equal(counts, [2, 2, 0, 2, 0, 0])
  np.testing.assert_allclose(quantizer.perplexity(counts), 3, rtol=1e-5)
  assert int(quantizer.dead_codes(counts)) == 3


def test_perplexity_ranges_from_one_to_the_number_of_codes():
  one = quantizer.code_counts(jnp.zeros(9, jnp.int32), 5)
  equal = quantizer.code_counts(jnp.arange(5), 5)

  np.testing.assert_allclose(quantizer.perplexity(one), 1, rtol=1e-5)
  np.testing.assert_allclose(quantizer.perplexity(equal), 5, rtol=1e-5)


def test_rotated_gradient_is_the_rotation_of_the_entry():
  z, codebook = _normal(0, 5, 4), _normal(1, 16, 4)
  entries = codebook[quantizer.nearest_code(z, codebook)]
  upstream = _normal(2, 5, 4)

  got, pull = jax.vjp(lambda x: quantizer.rotated(x, entries), z)
  (gradient,) = pull(upstream)

  np.testing.assert_allclose(got, entries, atol=1e-6)
  for row in range(len(z)):
    e, q = z[row].astype(np.float64), entries[row].astype(np.float64)
    old, new = e / np.linalg.norm(e), q / np.linalg.norm(q)
    # The rotation in the plane of both that takes one to the other.
    cosine = old @ new
    side = (new - cosine * old) / np.sqrt(1 - cosine**2)
    sine = np.sqrt(1 - cosine**2)
    plane = np.stack([old, side], 1)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    whole = np.eye(4) + plane @ (turn - np.eye(2)) @ plane.T
    np.testing.assert_allclose(whole @ old, new, atol=1e-12)
    scale = np.linalg.norm(q) / np.linalg.norm(e)
    want = scale * whole.T @ upstream[row]
    np.testing.assert_allclose(gradient[row], want, atol=1e-5)


def test_rotated_is_finite_for_zeros_and_opposites():
  for z, q in ((np.zeros(3), np.ones(3)), (np.ones(3), -np.ones(3))):
    f = lambda x, q=q: quantizer.rotated(x, jnp.asarray(q)).sum()
    value, gradient = jax.value_and_grad(f)(jnp.asarray(z))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_entropy_loss_is_of_single_vectors_less_that_of_all():
  codebook = np.eye(4, dtype=np.float32)
  # Each code once, with certainty: log 4 of all, 0 of each.
  np.testing.assert_allclose(
    quantizer.entropy_loss(codebook, codebook), -np.log(4), atol=1e-5
  )
  one = np.repeat(codebook[:1], 8, 0)
  np.testing.assert_allclose(
    quantizer.entropy_loss(one, codebook), 0, atol=1e-5
  )
  middle = np.full((2, 4), 0.25, np.float32)
  np.testing.assert_allclose(
    quantizer.entropy_loss(middle, codebook), 0, atol=1e-5
  )
  z, book = _normal(0, 6, 4), _normal(1, 5, 4)
  logits = -((z[:, None] - book) ** 2).sum(-1) / 2.0
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  mean = p.mean(0)
  want = -(p * np.log(p)).sum(-1).mean() + (mean * np.log(mean)).sum()
  got = quantizer.entropy_loss(z, book, temperature=2.0)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_linear_codebook_moves_all_entries_and_not_the_table():
  module = quantizers.create('linear', 16, 4)
  z = _normal(0, 3, 4)
  params = module.init(jax.random.key(0), z)['params']
  gradient = jax.grad(lambda p: module.apply({'params': p}, z)[2])(params)
  assert not np.any(gradient['embedding'])
  assert np.any(gradient['projection']['kernel'])
  entries = module.apply({'params': params}, method='entries')
  found, codes, _ = module.apply({'params': params}, z)
  np.testing.assert_allclose(found, entries[codes], atol=1e-6)
  np.testing.assert_array_equal(codes, quantizer.nearest_code(z, entries))


@pytest.mark.parametrize(('codes', 'channels'), [(8, 3), (625, 4), (27, 3)])
def test_grid_rounds_every_channel(codes, channels):
  module = quantizers.create('grid', codes, channels, beta=0.25)
  table = np.asarray(module.apply({}, method='entries'))
  assert len(np.unique(table, axis=0)) == codes
  assert set(np.unique(table)) == set(
    np.linspace(-1, 1, module.levels, dtype='f')
  )
  z = module.apply({}, 3 * _normal(0, 50, channels), method='bounded')
  found, numbers, loss = module.apply({}, z)
  np.testing.assert_allclose(found, table[numbers], atol=1e-6)
  np.testing.assert_array_equal(numbers, quantizer.nearest_code(z, table))
  assert loss == 0
  gradient = jax.grad(lambda x: module.apply({}, x)[0].sum())(z)
  np.testing.assert_array_equal(gradient, np.ones_like(z))
  # An entry is its own code, and so is what lies outside.
  np.testing.assert_array_equal(module.apply({}, table)[1], np.arange(codes))
  assert module.apply({}, np.full((1, channels), 9.0))[1] == codes - 1


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'codebook': 'tree'}, "codebook is 'tree', allowed: table, linear, grid"),
    (
      {'codebook': 'grid', 'num_codes': 100},
      r'n_embed is 100, must be .* L\*\*3',
    ),
    ({'codebook': 'grid', 'num_codes': 1}, 'n_embed is 1, must be'),
    (
      {'codebook': 'grid', 'gradient': 'rotated'},
      "gradient is 'rotated', must",
    ),
    (
      {'codebook': 'grid', 'entropy_weight': 0.1},
      'entropy_weight is 0.1, must',
    ),
  ],
)
def test_quantisers_that_are_refused(fields, words):
  fields = {'num_codes': 8, 'features': 3} | fields
  with pytest.raises(ValueError, match=words):
    quantizers.create(**fields)


def test_gradients_that_are_refused():
  module = quantizers.create('table', 8, 3, gradient='up')
  with pytest.raises(
    ValueError, match="gradient is 'up', allowed: straight, rot"
  ):
    module.init(jax.random.key(0), np.zeros((1, 3)))


@pytest.mark.turns(3, group='networks')
@pytest.mark.parametrize('codebook', quantizers.CODEBOOKS)
def test_first_stages_code_with_every_quantiser(codebook):
  ddconfig = {'ch': 32, 'ch_mult': (1, 1), 'num_res_blocks': 0, 'z_channels': 4}
  edconfig = {**ddconfig, 'ch_mult': (1, 1, 1), 'z_channels': (4, 4)}
  fields = {'codebook': codebook, 'ddconfig': ddconfig}
  scales = {'embed_dim': (3, 3), 'n_embed': (8, 27), 'shared_ch': 32}
  for network in (
    msvqgan.MSVQGAN(**fields, edconfig=edconfig, **scales),
    first_stages.VQModel(**fields, embed_dim=3, n_embed=8),
  ):
    image = _normal(0, 1, 8, 8, 3)
    params = network.init(jax.random.key(0), image)
    out = network.apply(params, image)
    latents = network.apply(params, image, method='encode')
    decoded = network.apply(params, latents, method='decode')
    np.testing.assert_allclose(decoded, out['reconstruction'], atol=1e-5)
    for codes, size in zip(out['codes'], network.codebook_sizes, strict=True):
      assert codes.max() < size
