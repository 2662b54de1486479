import weakref

from flax import linen as nn
import jax
from jax.extend import random
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from pyramid_jax.distributed import initial


class Net(nn.Module):
  """Normal, truncated and uniform draws; remat; a statistic."""

  @nn.compact
  def __call__(self, x):
    uniform = nn.initializers.uniform(0.3)
    x = nn.remat(nn.Dense)(300)(x)
    x = nn.BatchNorm(use_running_average=False)(x)
    x += nn.Embed(7, 300)(jnp.zeros((2,), jnp.int32)).sum()
    return nn.Dense(3, kernel_init=uniform)(x)


def test_values_are_those_of_a_jitted_init():
  init = lambda key: Net().init(key, jnp.ones((2, 5)))
  got = initial.evaluate(init, jax.random.key(3))
  want = jax.jit(init)(jax.random.key(3))
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    got,
    want,
  )
  assert all(
    a.dtype == b.dtype
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  )


@pytest.mark.parametrize('size', [1, 1024, 1025, 9000])
def test_bits_are_those_of_jax(size):
  draw = lambda key: jax.random.bits(key, (size, 3))
  np.testing.assert_array_equal(
    initial.evaluate(draw, jax.random.key(1)), draw(jax.random.key(1))
  )


def test_several_keys_at_once():
  draw = lambda key: jax.vmap(jax.random.uniform)(jax.random.split(key, 3))
  np.testing.assert_allclose(
    initial.evaluate(draw, jax.random.key(1)), draw(jax.random.key(1))
  )


def test_what_is_not_needed_is_not_run():
  def function(key, x):
    jax.debug.callback(lambda: None)
    expensive = jnp.linalg.svd(x)[0]
    del expensive
    return jax.random.normal(key, (2,)), jnp.zeros(3) + 1

  normal, ones = initial.evaluate(function, jax.random.key(0), jnp.eye(3))
  np.testing.assert_allclose(normal, jax.random.normal(jax.random.key(0), (2,)))
  np.testing.assert_array_equal(ones, np.ones(3))


def _at_offset(offset):
  """Returns 0..7 at a distance in bytes from a multiple of 64."""
  raw = np.zeros(256, np.uint8)
  first = -raw.ctypes.data % 64 + offset
  host = raw[first : first + 32].view(np.float32)
  host[:] = np.arange(8.0)
  return host


# jax takes over memory that is aligned to 64 bytes: which shard begins there
# differs with the offset.
@pytest.mark.parametrize('offset', [0, 16, 32, 48])
@pytest.mark.parametrize('spec', [P('x'), P()])
def test_placed_buffers_are_their_own(spec, offset):
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  host = _at_offset(offset)
  sharding = NamedSharding(mesh, spec)
  placed = jax.block_until_ready(initial.place([host], [sharding]))[0]
  host[:] = 0
  for shard in placed.addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(8.0)[shard.index])
  pointers = {s.data.unsafe_buffer_pointer() for s in placed.addressable_shards}
  assert len(pointers) == 8
  assert placed.sharding == sharding


def test_scalars_are_placed():
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  value = np.asarray(3, np.int32)
  placed = initial.place(value, NamedSharding(mesh, P()))
  assert placed.dtype == np.int32
  assert int(placed) == 3


SIDE = 512
LEAF = 4 * SIDE * SIDE  # bytes of the largest leaf


def _state(key):
  """Parameters, their averages and moments, as a state of training has them."""
  init = jax.nn.initializers.truncated_normal(0.1)

  @jax.jit
  def block(key):
    return {f'w{i}': init(k, (SIDE, SIDE)) for i, k in enumerate(key)}

  params = {'a': block(jax.random.split(key, 10)), 'b': jnp.ones(SIDE)}
  ema = jax.tree.map(jnp.copy, params)
  moments = jax.tree.map(lambda x: 2 * x + jnp.zeros_like(x), params)
  return params, ema, moments, jnp.zeros((SIDE, SIDE))


class _Counter:
  """Counts bytes of arrays, which leave it when nothing has them."""

  def __init__(self):
    self.live = self.peak = 0
    self._seen = {}

  def add(self, value):
    if isinstance(value, np.ndarray) and value.base is not None:
      value = value.base
    if id(value) in self._seen:
      return
    self._seen[id(value)] = weakref.finalize(
      value, self._drop, id(value), value.nbytes
    )
    self.live += value.nbytes
    self.peak = max(self.peak, self.live)

  def _drop(self, key, size):
    del self._seen[key]
    self.live -= size


def test_few_leaves_are_alive_at_once(monkeypatch):
  counter, apply = _Counter(), initial._apply

  def counted(operation, values):
    results = apply(operation, values)
    for value in results:
      if isinstance(value, np.ndarray):
        counter.add(value)
    return results

  monkeypatch.setattr(initial, '_apply', counted)
  key = jax.random.key(0)
  sums = initial._mapped(_state, (key,), lambda _, value: float(value.sum()))
  assert LEAF < counter.peak < 6 * LEAF
  assert counter.live < 1000
  everything = initial.evaluate(_state, key)
  assert sum(x.nbytes for x in jax.tree.leaves(everything)) > 30 * LEAF
  jax.tree.map(
    lambda x, y: np.testing.assert_equal(x, y.sum()), sums, everything
  )


def test_a_state_is_made_in_its_shardings():
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  key = jax.random.key(0)
  want = initial.evaluate(_state, key)
  shardings = jax.tree.map(lambda x: NamedSharding(mesh, P('x')), want)
  got = initial.create(shardings, _state, key)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert {x.sharding for x in jax.tree.leaves(got)} == set(
    jax.tree.leaves(shardings)
  )


def test_long_draws_are_made_of_parts():
  draw = lambda key: jax.random.bits(key, ((1 << 22) + 5,))
  key = jax.random.key(5)
  np.testing.assert_array_equal(initial.evaluate(draw, key), draw(key))


def test_the_parts_of_a_very_long_draw():
  """The high words of the places count, too."""
  key = jax.random.key(5)
  pair = jax.random.key_data(key)
  part = initial._part_of_draw(tuple(pair), np.uint32(1), np.uint32(1 << 22))
  first = np.array([1, 1 << 22], np.uint32)
  one, other = random.threefry_2x32(tuple(pair), first)
  assert part[0] == one ^ other
