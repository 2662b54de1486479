"""Sampling and evaluation of a run in a store that renames nothing."""

import pytest

from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.files import stores
from tests.helpers import fake_store
from tests.helpers import killed
from tests.helpers import killed_samples
from tests.helpers import painter


@pytest.fixture(name='store')
def store_fixture(monkeypatch, tmp_path):
  painter.install(monkeypatch)
  monkeypatch.setenv('PYRAMID_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  with fake_store.installed() as found:
    yield found


def tree(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def contents(store, folder):
  start = f'bucket/run/{folder}/'
  return {
    name.removeprefix(start): found[0]
    for name, found in store.objects.items()
    if name.startswith(start) and '/lock/' not in name
  }


def test_samples_are_the_same_as_on_a_disk(store, tmp_path):
  options = {'prompt': 'a red circle', 'count': 5}
  local = tmp_path / 'local'
  local.mkdir()
  sample.run(killed_samples.config(), local, options)
  remote = stores.path('gs://bucket/run')
  with pytest.raises(errors.UserError, match='gs://bucket/run: not there'):
    sample.run(killed_samples.config(), remote, options)
  stores.put(remote / 'config.json', b'{}')
  sample.run(killed_samples.config(), remote, options)
  assert contents(store, 'samples') == tree(local / 'samples')
  assert [path.name for path in tmp_path.iterdir()] == ['local']


def test_a_table_of_scores_is_the_same_as_on_a_disk(store, tmp_path):
  config = killed.config()
  config.unlock()
  config.evaluate.count = 4
  local = tmp_path / 'local'
  local.mkdir()
  evaluate.run(config, local, {})
  remote = stores.path('gs://bucket/run')
  evaluate.run(config, remote, {})
  want = {
    name: data.replace(str(local).encode(), str(remote).encode())
    for name, data in tree(local / 'samples').items()
  }
  assert contents(store, 'samples') == want
