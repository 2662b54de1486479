import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from pyramid_jax.runs import hashes


@pytest.fixture(scope='module')
def mesh():
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh((2, 4), ('a', 'b'), axis_types=auto)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'bool'])
def test_devices_and_host_agree_for_any_sharding(mesh, dtype):
  x = (jax.random.normal(jax.random.key(0), (16, 8, 4)) * 9).astype(dtype)
  want = hashes._on_host(np.asarray(x))
  for spec in (P(), P('b', 'a'), P(None, ('a', 'b'))):
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    np.testing.assert_array_equal(hashes._on_device(placed), want)


def test_long_arrays_on_the_host():
  x = np.arange(3 * hashes._CHUNK + 5, dtype=np.float32)
  np.testing.assert_array_equal(
    hashes._on_host(x), hashes._on_device(jnp.asarray(x))
  )


def test_any_change_is_seen():
  x = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
  base = hashes.tree({'x': x})
  for byte in range(0, x.nbytes, 97):
    changed = x.copy()
    changed.view(np.uint8).reshape(-1)[byte] ^= 1
    assert hashes.tree({'x': changed}) != base
  swapped = x.copy()
  swapped[[0, 1]] = x[[1, 0]]
  assert hashes.tree({'x': swapped}) != base
  assert hashes.tree({'x': x[:, ::-1]}) != base


def test_names_and_scalars():
  tree = {'a': {'b': jnp.int32(3)}, 'c': (jnp.zeros(0),)}
  values = hashes.tree(tree)
  assert list(values) == ['a/b', 'c/0']
  assert values['c/0'] == '0' * 16
  assert len(values['a/b']) == 16


def test_digest():
  base = hashes.digest({'a': np.ones(3), 'b': np.zeros(3)})
  assert len(base) == 16
  assert hashes.digest({'a': np.ones(3), 'b': np.zeros(3)}) == base
  assert hashes.digest({'a': np.zeros(3), 'b': np.ones(3)}) != base
