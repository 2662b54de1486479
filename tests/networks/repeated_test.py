"""Equal blocks in a row as one loop of the program."""

import math
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import placement
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks import diffit
from pyramid_jax.networks import t5
from pyramid_jax.networks import text_encoders
from pyramid_jax.networks.layers import caching
from pyramid_jax.networks.layers import repeated
from pyramid_jax.networks.layers import transformer


MESH = ConfigDict({'data': 1, 'fsdp': 8, 'tensor': 1})
IDS = jnp.array([[1, 4, 2, 0], [3, 3, 1, 2]])
MAP = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
CONTEXT = jax.random.normal(jax.random.key(1), (2, 3, 16))
CLIP = text_encoders.CLIPTextEncoder(
  vocab_size=8, max_length=4, dim=16, depth=4, heads=2, mlp_dim=32
)
# Networks with their arguments.
NETWORKS = {
  'bert': (
    text_encoders.TransformerEncoder(8, 4, 16, 4, heads=2, head_dim=8),
    (IDS,),
  ),
  'bert, recomputed': (
    text_encoders.TransformerEncoder(
      8, 4, 16, 4, heads=2, head_dim=8, remat='products'
    ),
    (IDS,),
  ),
  'clip': (CLIP, (IDS,)),
  't5': (
    t5.T5Encoder(
      vocab_size=8, dim=16, depth=4, heads=2, head_dim=8, mlp_dim=32
    ),
    (IDS, IDS > 0),
  ),
  'boxes': (
    text_encoders.BoxEncoder(16, 4, 2, num_labels=5, head_dim=8),
    (jnp.zeros((2, 3, 4)), jnp.ones((2, 3), jnp.int32), jnp.array([1, 3])),
  ),
  'spatial transformer': (
    transformer.SpatialTransformer(2, 8, depth=4),
    (MAP, CONTEXT),
  ),
  'diffit': (
    diffit.DiffiT(
      in_channels=32,
      width=32,
      channel_mult=(1, 1),
      num_blocks=2,
      head_dim=16,
      time_dim=32,
      conv_gain=1.0,
      branch_gain=1.0,
      head_gain=1.0,
    ),
    (MAP, jnp.zeros(2)),
  ),
}


def random_weights(network, *arguments):
  """Returns weights of which none are zeros or ones."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes
  )


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.slow if name == 'diffit' else ())
    for name in NETWORKS
  ],
)
def test_a_loop_has_the_numbers_of_its_blocks(name):
  plain, arguments = NETWORKS[name]
  weights = random_weights(plain, *arguments)
  looped = plain.clone(scan_blocks=2)
  again = jax.eval_shape(looped.init, jax.random.key(0), *arguments)
  assert jax.tree.structure(again) == jax.tree.structure(weights)

  def run(network):
    def loss(weights):
      found = network.apply(weights, *arguments)
      out = jax.tree.leaves(found)[0]
      return (jnp.sin(out) ** 2).mean(), out

    grad = jax.grad(loss, has_aux=True)
    return jax.jit(grad)(weights), str(jax.make_jaxpr(grad)(weights))

  (want_grads, want), unrolled = run(plain)
  (grads, got), text = run(looped)
  assert 'scan[' not in unrolled
  assert 'scan[' in text
  assert len(text) < 0.8 * len(unrolled)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  largest = max(jnp.abs(g).max() for g in jax.tree.leaves(want_grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
    grads,
    want_grads,
  )


def test_activations_of_each_block_come_out():
  plain, arguments = NETWORKS['diffit']
  weights = random_weights(plain, *arguments)
  ways = ('down0', 'up0', 'down1')
  names = [f'{way}_{i}' for way in ways for i in range(2)]
  want, got = (
    jax.jit(lambda w, n=network: n.apply(w, *arguments, features=names)[1])(
      weights
    )
    for network in (plain, plain.clone(scan_blocks=2))
  )
  assert set(want) == set(names)
  for name in names:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-3)


def test_a_cache_has_the_tree_of_the_blocks():
  plain, arguments = NETWORKS['spatial transformer']
  weights = random_weights(plain, *arguments)
  looped = plain.clone(scan_blocks=2)
  fill = lambda network: network.apply(
    weights, *arguments, mutable=[caching.COLLECTION]
  )
  want, cache = fill(plain)
  got, same = fill(looped)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), same, cache
  )
  other = arguments[1] + 1  # is not read again
  for network in (plain, looped):
    out = network.apply(weights | same, arguments[0], other)
    np.testing.assert_allclose(out, want, atol=1e-4)
  np.testing.assert_allclose(got, want, atol=1e-4)


class Noisy(nn.Module):
  """Blocks with dropout; widths say which of them are equal."""

  widths: tuple[int, ...]
  least: int = 2

  @nn.compact
  def __call__(self, x):
    names = [f'block_{i}' for i in range(len(self.widths))]

    def step(_, i, x, __):
      y = nn.Dense(self.widths[i], name=names[i])(x)
      kept = nn.Dropout(0.5, deterministic=False)(jnp.ones(64))
      return x + y.mean(), kept

    return repeated.run(self, step, names, x, least=self.least)


def test_every_block_drops_others():
  module = Noisy((4, 4, 4))
  x, keys = jnp.ones((1, 3)), {'dropout': jax.random.key(1)}
  weights = module.init({'params': jax.random.key(0), **keys}, x)
  _, kept = module.apply(weights, x, rngs=keys)
  assert len({tuple(map(float, k)) for k in kept}) == 3


@pytest.mark.parametrize(
  ('widths', 'least', 'loops'),
  [
    ((4, 4, 4), 2, 1),
    ((4, 4, 4), 4, 0),
    ((4, 4, 4), 0, 0),
    ((4, 4, 5, 5, 5, 4), 2, 2),
    ((4, 5, 4), 2, 0),
  ],
)
def test_only_equal_blocks_in_a_row_are_a_loop(widths, least, loops):
  module = Noisy(widths, least)
  x, keys = jnp.ones((1, 3)), {'dropout': jax.random.key(1)}
  weights = module.init({'params': jax.random.key(0), **keys}, x)
  run = lambda weights: module.apply(weights, x, rngs=keys)
  assert str(jax.make_jaxpr(run)(weights)).count('scan[') == loops


def test_weights_are_gathered_one_block_at_a_time():
  depth, devices = 4, 8
  mesh = mesh_lib.create(MESH, jax.devices()[:devices])
  network = text_encoders.EncoderStack(depth, 2, 16, scan_blocks=2)
  x = jnp.zeros((devices, 4, 32))
  weights = jax.eval_shape(network.init, jax.random.key(0), x)
  weights = sharding.abstract(weights, mesh, 0)
  rows = jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=mesh_lib.batch_sharding(mesh)
  )

  def step(weights, x):
    loss = lambda w: (network.apply(w, x) ** 2).mean()
    return sharding.constrained(jax.grad(loss)(weights), mesh, 0)

  program = jax.jit(placement.within(mesh, step)).lower(weights, rows)
  text = program.compile().as_text()
  gathers = re.findall(r'= \w+\[([\d,]*)\]\S* all-gather\(', text)
  sizes = [math.prod(map(int, shape.split(','))) for shape in gathers]
  # The largest weight of a block, of its feed-forward; not of all blocks.
  assert max(sizes) == 32 * 128
  assert len(sizes) <= 2 * 6  # six weights, forward and backward
