"""Images that are prepared into a store, and by one process of several."""

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.commands import prepare
from pyramid_jax.data.shards import prepared
from pyramid_jax.distributed import processes
from pyramid_jax.files import stores
from tests.helpers import archives as made
from tests.helpers import configs
from tests.helpers import remote_store


store = remote_store.store_fixture
COUNT, SHARD = 11, 2  # images and those of a shard
SHARDS = [f'prepared-train.array_record-{i:05d}-of-00006' for i in range(6)]


@pytest.fixture
def config(tmp_path):
  """Images of two classes, one of them broken."""
  files = {
    f'{"ab"[i % 2]}/{i}.png': made.encoded(made.pixels(i, (9, 7)))
    for i in range(COUNT)
  }
  files['a/4.png'] = b'broken'
  made.written(tmp_path / 'given', files)
  return configs.of_reader(
    'image_folder', tmp_path / 'given', 'class', image_size=4
  )


def run(config, folder):
  prepare.run(config, folder, splits=('train',), shard_size=SHARD, workers=2)


def examples(config, folder):
  config = config.copy_and_resolve_references()
  config.data.update(name='records', root=str(folder))
  reader = data.create(config, 'train')
  assert len(reader) == COUNT
  draws = np.arange(COUNT, dtype=np.uint64)
  return reader.batch(np.arange(COUNT), draws)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_gets_what_a_disk_gets(config, tmp_path, store):
  run(config, tmp_path / 'out')
  want = contents(tmp_path / 'out')
  assert set(SHARDS) < want.keys()
  far = stores.path(remote_store.ROOT)
  run(config, far)
  assert contents(far) == want
  for name, values in examples(config, tmp_path / 'out').items():
    np.testing.assert_array_equal(examples(config, far)[name], values)


def test_what_a_store_has_is_not_written_again(config, store, monkeypatch):
  far = stores.path(remote_store.ROOT)
  made_of, write = [], prepared.write_shard

  def failing(folder, name, count, fill):
    if name == SHARDS[3]:
      raise KeyboardInterrupt
    made_of.append(name)
    write(folder, name, count, fill)

  monkeypatch.setattr(prepared, 'write_shard', failing)
  with pytest.raises(KeyboardInterrupt):
    run(config, far)
  with pytest.raises(errors.UserError, match='is not complete'):
    examples(config, far)
  assert made_of == SHARDS[:3]
  monkeypatch.setattr(
    prepared, 'write_shard', lambda *x: made_of.append(x[1]) or write(*x)
  )
  stores.remove(far / f'{SHARDS[1]}.json')  # it was not finished
  run(config, far)
  assert made_of == [*SHARDS[:3], SHARDS[1], *SHARDS[3:]]
  assert len(examples(config, far)['image']) == COUNT


def test_each_process_writes_its_own_shards(config, tmp_path, monkeypatch):
  run(config, tmp_path / 'one')
  want = contents(tmp_path / 'one')
  out, reached = tmp_path / 'three', []
  monkeypatch.setattr(processes, 'decided', lambda function: function())
  for index in (2, 1, 0):
    monkeypatch.setattr(processes, 'process_part', lambda i=index: (i, 3))
    monkeypatch.setattr(processes, 'is_main_process', lambda i=index: i == 0)
    monkeypatch.setattr(processes, 'barrier', lambda i=index: reached.append(i))
    before = set(contents(out)) if out.exists() else set()
    run(config, out)
    mine = [SHARDS[i] for i in range(index, len(SHARDS), 3)]
    written = set(contents(out)) - before
    assert {x for x in written if x in SHARDS} == set(mine)
    assert ('dataset_info.json' in written) == (index == 0)
  assert reached == [2, 1, 0]
  assert contents(out) == want
