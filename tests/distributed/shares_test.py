"""Which rows a process has; several of them share samples and scores."""

import json
import re
import shutil
import signal

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import shares
from pyramid_jax.interop import parts
from pyramid_jax.networks import inception
from tests.helpers import cluster
from tests.helpers import configs
from tests.helpers import inception_weights
from tests.helpers import sharing


MODULE = 'tests.helpers.sharing'
# (data, fsdp, tensor), the process of each device.
HOSTS = {
  'data 4': ((4, 1, 1), [0, 0, 1, 1]),
  'fsdp 4': ((1, 4, 1), [0, 0, 1, 1]),
  'data 2 x fsdp 2': ((2, 2, 1), [0, 0, 1, 1]),
  'fsdp 2 x tensor 2': ((1, 2, 2), [0, 0, 1, 1]),
  'tensor over hosts': ((1, 2, 2), [0, 1, 2, 3]),
  'all on each': ((1, 1, 4), [0, 0, 1, 1]),
  'apart': ((4, 1, 1), [1, 0, 1, 0]),
}


def shares_of(case, size):
  sizes, owners = HOSTS[case]
  devices = jax.devices()[:4]
  names = dict(zip(placement.AXES, sizes, strict=True))
  mesh = mesh_lib.create(ConfigDict(names), devices)
  of = dict(zip(mesh.devices.ravel(), owners, strict=True))
  return [
    shares.of_batch(mesh, size, index, of.__getitem__)
    for index in range(max(owners) + 1)
  ]


@pytest.mark.parametrize('case', HOSTS)
@pytest.mark.parametrize('size', [1, 3, 4, 7, 8])
def test_each_row_is_counted_once_and_read_by_who_holds_it(case, size):
  found = shares_of(case, size)
  own = np.concatenate([share.own for share in found])
  np.testing.assert_array_equal(np.sort(own), np.arange(size))
  for share in found:
    assert set(share.own) <= set(share.rows)
    assert not share.is_alone
    assert (np.diff(share.own) > 0).all()


def test_what_two_hosts_hold_is_counted_by_the_first():
  found = shares_of('tensor over hosts', 4)
  assert [x.rows.tolist() for x in found] == [[0, 1]] * 2 + [[2, 3]] * 2
  assert [x.own.tolist() for x in found] == [[0, 1], [], [2, 3], []]


def test_a_batch_is_filled_up_by_its_own_rows():
  found = shares_of('apart', 3)
  assert [x.rows.tolist() for x in found] == [[1, 0], [0, 2]]
  assert [x.own.tolist() for x in found] == [[1], [0, 2]]


def test_one_process_has_all_rows_and_fills_nothing_up():
  share = shares.of_batch(mesh_lib.pure_data(), 3)
  assert share.is_alone
  assert share.rows.tolist() == share.own.tolist() == [0, 1, 2]
  source = sharing.rows
  np.testing.assert_equal(
    shares.read(mesh_lib.pure_data(), np.arange(3), source),
    source(np.arange(3)),
  )
  assert not list(shares.to_main(b'abc'))


def files(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and path.suffix != '.md'
  }


def check(folder, whole):
  """Compares all files with those of one process, but for its name."""
  got, want = files(folder), files(whole)
  assert got.keys() == want.keys()
  for name, data in want.items():
    assert got[name].replace(bytes(folder), bytes(whole)) == data, name


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """What one process makes."""
  folder = tmp_path_factory.mktemp('run')
  sharing.run(folder, sharing.config())
  return folder


def run(count, what, folder, *flags, options=None, **others):
  """Runs the helper in several processes; returns how they ended."""
  arguments = what, folder, json.dumps(options or {}), *flags
  return cluster.run(count, *arguments, module=MODULE, **others)


def test_two_processes_make_what_one_makes(tmp_path, whole):
  """Rows of every mesh, samples and scores, in one run of two processes."""
  ended = run(2, 'hear', tmp_path, devices=2)
  assert [x.code for x in ended] == [0, 0], cluster.report(ended)
  check(tmp_path, whole)
  heard = [json.loads(re.search('heard (.*)', x.text)[1]) for x in ended]
  batch = np.arange(sharing.SIZE * 3.0).reshape(sharing.SIZE, 3).tolist()
  halves = [list(range(4)), list(range(4, 8))]
  for index, told in enumerate(heard):
    for sizes, found in zip(sharing.MESHES, told['placed'], strict=True):
      parts = sizes[0] * sizes[1]
      local = halves[index] if parts > 1 else list(range(8))
      assert found == {'rows': local, 'shard': [8 // parts, 3], 'whole': batch}
    want = sharing.rows(np.arange(1, 7))
    for name, x in want.items():
      text = json.dumps(x.tolist(), default=lambda x: x.decode())
      assert told['read'][name] == [str(x.dtype), json.loads(text)]
  # Six rows of eight, with two that fill up.
  assert [x['asked'] for x in heard] == [[1, 2, 3, 4], [5, 6, 1, 2]]
  assert [x['blobs'] for x in heard] == [[[1, 101]], []]


@pytest.mark.hosts
def test_four_processes_make_what_one_makes(tmp_path, whole):
  ended = run(4, '', tmp_path)
  assert [x.code for x in ended] == [0] * 4, cluster.report(ended)
  check(tmp_path, whole)


@pytest.mark.hosts
@pytest.mark.parametrize('counts', [(4, 2, 1), (1, 4)])
def test_what_is_killed_goes_on_with_any_number(tmp_path, whole, counts):
  """Killed while it samples, then while it scores."""
  samples = tmp_path / 'samples'
  seen = ['parts/*.npz', 'evaluation/*/totals_*.npz']
  for count, pattern in zip(counts[:-1], seen, strict=False):
    arguments = 'slow', tmp_path, '{}'
    with cluster.Cluster(count, *arguments, module=MODULE) as killed:
      killed.until(lambda pattern=pattern: any(samples.glob(pattern)))
      for index in range(count):
        killed.send(index, signal.SIGKILL)
  assert any(samples.glob(seen[len(counts) - 2]))
  ended = run(counts[-1], '', tmp_path)
  assert not any(x.code for x in ended), cluster.report(ended)
  assert re.search('going on after|images are there', ended[0].text)
  check(tmp_path, whole)


@pytest.mark.hosts
def test_what_process_0_cannot_write_ends_all(tmp_path):
  ended = run(2, 'fail', tmp_path)
  assert [x.code for x in ended] == [errors.OUTPUT] * 2, cluster.report(ended)
  for one in ended:
    assert 'No space left on device' in one.text
    assert 'Traceback' not in one.text


def scores(folder):
  """Returns the numbers of a table by name."""
  table = json.loads((folder / 'scores.json').read_text())['scores']
  return {
    f'{name} {kind}': np.nan if number is None else number
    for name, row in table.items()
    for kind, number in row.items()
  }


@pytest.mark.hosts
@pytest.mark.parametrize('reference', ['', 'folder'])
@pytest.mark.parametrize('of', ['run', 'samples'])
def test_features_of_several_processes(tmp_path, whole, of, reference):
  """FID and related scores of a run and of saved images, on three processes."""
  weights = tmp_path / 'weights.safetensors'
  network = inception_weights.Small()
  parts.write('inception', weights, inception_weights.variables(network))
  fields = {'evaluate.inception': weights}
  if reference:
    fields['evaluate.reference'] = tmp_path / 'real'
    (tmp_path / 'real').mkdir()
    for path in (whole / 'samples').glob('0*.png'):
      shutil.copy(path, tmp_path / 'real')
    fields['evaluate.count'] = 9
  folders = tmp_path / 'one', tmp_path / 'three'
  for folder in folders:
    shutil.copytree(whole, folder)
    (folder / 'samples' / 'scores.json').unlink()
  options = [
    {} if of == 'run' else {'samples': str(folder / 'samples')}
    for folder in folders
  ]
  config = configs.change(
    sharing.config().copy_and_resolve_references(), fields
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(inception, 'InceptionV3', inception_weights.Small)
    sharing.run(folders[0], config, 'evaluate', options[0])
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  ended = run(3, 'evaluate', folders[1], *flags, options=options[1])
  assert not any(x.code for x in ended), cluster.report(ended)
  want, got = (scores(folder / 'samples') for folder in folders)
  assert got.keys() == want.keys()
  assert any(name.startswith('fid') for name in want)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, 1e-5, 1e-9, err_msg=name)
