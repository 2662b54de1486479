"""The order of shards and tables is that of one integer, however it is read."""

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax.data import batches
from tests.helpers import configs
from tests.helpers import tar_files


COUNT, BATCH, STEPS, SEED = 11, 4, 7, 3  # more than two epochs


def colour(number):
  return (20 * number, 255 - 20 * number, 7)


def tar_shards(root):
  """Shards of four, four and three samples."""
  for start in range(0, COUNT, 4):
    numbers = range(start, min(start + 4, COUNT))
    members = {f'{i:03d}.png': tar_files.encoded(colour(i)) for i in numbers}
    tar_files.write(root / f'{start:05d}.tar', members)
  return root


def parquet(root):
  """Files of six and five rows, in row groups of two."""
  pa = pytest.importorskip('pyarrow')
  pq = pytest.importorskip('pyarrow.parquet')
  root.mkdir()
  for start in (0, 6):
    numbers = range(start, min(start + 6, COUNT))
    table = pa.table({'image': [tar_files.encoded(colour(i)) for i in numbers]})
    pq.write_table(table, root / f'{start}.parquet', row_group_size=2)
  return root


MADE = {'tar_shards': tar_shards, 'parquet': parquet}


@pytest.fixture(params=MADE)
def created(request, tmp_path):
  """Returns a function that opens the data as a new process would."""
  root = MADE[request.param](tmp_path / 'data')

  def create(workers=2):
    fields = {'image_size': 4, 'flip': True, 'crop': 'random-2d'}
    config = configs.of_reader(request.param, root, workers=workers, **fields)
    return data.create(config, 'train')

  return create


def read(create, steps, processes, workers=2):
  """Returns the global batches of steps, read by so many processes."""
  share = BATCH // processes
  parts = [
    batches.Batches(
      create(workers),
      BATCH,
      SEED,
      rows=np.arange(i * share, (i + 1) * share),
    )
    for i in range(processes)
  ]
  found = [[part.at(step) for part in parts] for step in steps]
  return [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in found
  ]


def assert_same(got, want):
  assert len(got) == len(want)
  for one, other in zip(got, want, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key], key)


def test_an_epoch_has_every_sample_once(created):
  found = read(created, range(STEPS), 1)
  ids = np.concatenate([batch['id'] for batch in found])
  assert (
    sorted(ids[:COUNT]) == sorted(ids[COUNT : 2 * COUNT]) == [*range(COUNT)]
  )
  assert ids[:COUNT].tolist() != ids[COUNT : 2 * COUNT].tolist()
  shards = np.searchsorted([0, 4, 8], ids[:COUNT], 'right')
  assert (np.diff(shards) != 0).sum() > 3  # Shards are mixed.
  for batch in found:
    want = [colour(i) for i in batch['id']]
    np.testing.assert_array_equal(batch['image'][:, 1, 1], want)


def test_processes_and_workers_change_nothing(created):
  want = read(created, range(STEPS), 1)
  for processes, workers in ((1, 1), (2, 3), (4, 1)):
    assert_same(read(created, range(STEPS), processes, workers), want)


def test_a_run_goes_on_in_the_middle_with_other_processes(created):
  want = read(created, range(STEPS), 1)
  got = read(created, range(2), 2, workers=1)
  got += read(created, range(2, 4), 4, workers=3)
  got += read(created, range(4, STEPS), 1, workers=2)
  assert_same(got, want)
