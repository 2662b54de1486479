from flax import linen as nn
import jax
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
