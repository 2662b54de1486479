import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax.distributed import mesh as mesh_lib


def config(data=-1, fsdp=1, tensor=1):
  return ConfigDict({'data': data, 'fsdp': fsdp, 'tensor': tensor})


@pytest.mark.parametrize(
  ('sizes', 'want'),
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((2, -1, 1), (2, 4, 1)),
    ((-1, 2, 2), (2, 2, 2)),
    ((2, 2, 2), (2, 2, 2)),
  ],
)
def test_sizes(sizes, want):
  mesh = mesh_lib.create(config(*sizes))
  assert tuple(mesh.shape.values()) == want
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((-1, 3, 1), 'fsdp=3.*8 devices'),
    ((2, 2, 1), 'data=2, fsdp=2.*8 devices'),
    ((-1, -1, 1), 'at most one'),
  ],
)
def test_sizes_that_do_not_fit(sizes, message):
  with pytest.raises(ValueError, match=message):
    mesh_lib.create(config(*sizes))


def test_one_device():
  mesh = mesh_lib.create(config(), jax.devices()[:1])
  assert mesh.size == 1
  assert not mesh_lib.needs_blocking(mesh)
  assert mesh_lib.needs_blocking(mesh_lib.create(config()))


def test_rows_go_over_data_and_fsdp():
  mesh = mesh_lib.create(config(2, 2, 2))
  host = {
    'x': np.arange(8.0, dtype=np.float32).reshape(8, 1),
    'name': np.array(['a'] * 8),
  }
  placed = mesh_lib.place(mesh, host)
  assert set(placed) == {'x'}
  assert placed['x'].sharding.shard_shape((8, 1)) == (2, 1)
  np.testing.assert_array_equal(placed['x'], host['x'])


@pytest.mark.parametrize('count', [1, 3, 8, 11])
def test_batches_of_any_size_are_filled_up_and_divided(count):
  mesh = mesh_lib.create(config(2, 2, 2))
  host = {'x': np.arange(count), 'name': np.array(['a'] * count)}
  spread = mesh_lib.spread(mesh, host)
  assert set(spread) == {'x'}
  filled = -(-count // 4) * 4
  assert spread['x'].sharding.shard_shape((filled,)) == (filled // 4,)
  np.testing.assert_array_equal(spread['x'], np.arange(filled) % count)
  again = mesh_lib.spread(mesh, spread)
  assert again['x'].sharding == spread['x'].sharding


# (data, fsdp, tensor), the devices of a process: those of two or four hosts
# that stand next to each other, as jax numbers them.
TWO, FOUR = [[0, 1], [2, 3]], [[0], [1], [2], [3]]
HALVES = [[0, 1, 2, 3], [4, 5, 6, 7]]
HOSTS = {
  'data 4': ((4, 1, 1), TWO, HALVES),
  'fsdp 4': ((1, 4, 1), TWO, HALVES),
  'data 2 x fsdp 2': ((2, 2, 1), TWO, HALVES),
  'fsdp 2 x tensor 2': ((1, 2, 2), TWO, HALVES),
  'tensor over hosts': ((1, 2, 2), FOUR, [*HALVES[:1] * 2, *HALVES[1:] * 2]),
  'all rows on each': ((1, 1, 4), TWO, [list(range(8))] * 2),
  'apart': ((4, 1, 1), [[0, 2], [1, 3]], [[0, 1, 4, 5], [2, 3, 6, 7]]),
}


@pytest.mark.parametrize('case', HOSTS)
def test_rows_follow_from_the_devices_of_a_process(case):
  sizes, hosts, want = HOSTS[case]
  mesh = mesh_lib.create(config(*sizes), jax.devices()[:4])
  sharding = mesh_lib.batch_sharding(mesh)
  devices = mesh.devices.ravel()
  rows = [mesh_lib.local_rows(sharding, 8, devices[host]) for host in hosts]
  for host, expected in zip(rows, want, strict=True):
    np.testing.assert_array_equal(host, expected)
  assert set(np.concatenate(rows)) == set(range(8))
  np.testing.assert_array_equal(
    mesh_lib.local_rows(sharding, 8), np.arange(8)
  )  # one process has all devices


def test_batches_that_do_not_split():
  mesh = mesh_lib.create(config(2, 4, 1))
  mesh_lib.check_batch(mesh, 16, 2)
  message = '24, must be divisible by 16 = data 2 x fsdp 4.*: 16 or 32'
  with pytest.raises(ValueError, match=message):
    mesh_lib.check_batch(mesh, 24, 2)
  with pytest.raises(ValueError, match='is 2, .*accumulate 2: 16[.]'):
    mesh_lib.check_batch(mesh, 2, 2)


def test_stages_that_do_not_split():
  mesh = mesh_lib.create(config(2, 4, 1))
  mesh_lib.check_stages(mesh, (16, 8))
  with pytest.raises(ValueError) as error:  # noqa: PT011
    mesh_lib.check_stages(mesh, (12, 8), 2)
  assert str(error.value) == (
    'config.laplacian.stage_batch is (12, 8), each must be divisible by 8 ='
    ' data 2 x fsdp 4: (16, 8) is, with config.train.batch_size=48.'
  )


def test_description():
  text = mesh_lib.describe(mesh_lib.create(config(2, 4, 1)))
  assert text == 'data 2 x fsdp 4 x tensor 1 on 8 cpu devices'
