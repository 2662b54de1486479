"""Training by several processes: what it leaves, and what goes on from it."""

import json
import shutil

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import restoring
from pyramid_jax.runs import step_folders
from pyramid_jax.runs import step_meta
from tests.helpers import forked_hosts
from tests.helpers import run_contents


STEPS = 6
FLAGS = (f'--config.train.steps={STEPS}', '--config.train.checkpoint_every=2')
# With a kernel that `tensor` splits.
ATTENDING = (f'--config={forked_hosts.fork_server.FAKE}:attention', *FLAGS)
FOUR = ('--config.mesh.data=4', '--config.mesh.fsdp=1')


def arrays(workdir, step):
  """Returns the arrays of a checkpoint by their paths, which are verified."""
  path = step_folders.of_step(workdir, step)
  items = step_meta.read(path)['tree']
  found = {name: restoring._item(path / name, None, False) for name in items}
  return {
    jax.tree_util.keystr(at): np.asarray(x, np.float64)
    for at, x in jax.tree_util.tree_leaves_with_path(found)
  }


def check_close(workdir, other, step):
  """Asserts that two runs have the same arrays, but for the order of sums."""
  mine, theirs = arrays(workdir, step), arrays(other, step)
  assert mine.keys() == theirs.keys()
  for name, x in mine.items():
    largest = np.abs(theirs[name]).max(initial=1e-30)
    assert np.abs(x - theirs[name]).max(initial=0) <= 1e-6 * largest, name


def files(workdir):
  """Returns the files of a run but for those of a number or name of its own."""
  names = (p.relative_to(workdir) for p in workdir.rglob('*') if p.is_file())
  own = ('checkpoints', 'logs', 'tensorboard')
  return sorted(str(p) for p in names if not set(own) & set(p.parts))


def rows(workdir):
  """Returns the metrics without what a clock says."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  clocked = ('seconds', 'images_per_sec')
  return [
    {
      k: v
      for k, v in json.loads(line).items()
      if k not in clocked and not k.startswith('checkpoint')
    }
    for line in lines
  ]


def check_equal(workdir, other, step=STEPS):
  check_close(workdir, other, step)
  assert files(workdir) == files(other)
  for mine, theirs in zip(rows(workdir), rows(other), strict=True):
    assert mine == pytest.approx(theirs, rel=1e-5)


def test_two_processes_do_what_one_does(server, tmp_path):
  for count in (1, 2):
    forked_hosts.ended(server, count, tmp_path / str(count), *FLAGS)
  check_equal(tmp_path / '2', tmp_path / '1')
  logs = sorted(p.name for p in (tmp_path / '2' / 'logs').iterdir())
  assert logs == ['process_0.log', 'process_1.log']
  events = list((tmp_path / '2' / 'tensorboard').iterdir())
  assert len(events) == 1


@pytest.mark.hosts
def test_both_stages_in_one_command_that_is_repeated(server, tmp_path):
  two = f'--config={forked_hosts.fork_server.FAKE}:two'
  for count in (1, 2, 2):
    workdir = tmp_path / str(count)
    # As if it had been killed before the second stage had a checkpoint.
    shutil.rmtree(workdir / checkpoints.DIRECTORY, ignore_errors=True)
    flags = two, f'--workdir={workdir}', *FLAGS, '--config.train.export=False'
    with forked_hosts.Hosts(server, count, *flags) as hosts:
      assert hosts.codes() == [0] * count, hosts.text()
  check_equal(tmp_path / '2', tmp_path / '1')
  first = 'first_stage'  # it has 4 steps
  check_equal(tmp_path / '2' / first, tmp_path / '1' / first, 4)


MESHES = {
  'data 4': FOUR,
  'fsdp 4': ('--config.mesh.data=1', '--config.mesh.fsdp=4'),
  'data 2 x fsdp 2': ('--config.mesh.data=2', '--config.mesh.fsdp=2'),
  'fsdp 2 x tensor 2': (
    '--config.mesh.data=1',
    '--config.mesh.fsdp=2',
    '--config.mesh.tensor=2',
  ),
}


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.hosts
def test_every_mesh_over_two_processes(server, tmp_path, mesh):
  forked_hosts.ended(server, 1, tmp_path / 'one', *ATTENDING)
  flags = (*ATTENDING, *MESHES[mesh])
  forked_hosts.ended(server, 2, tmp_path / 'run', *flags, devices=2)
  check_equal(tmp_path / 'run', tmp_path / 'one')


SAME = ('data 2 x fsdp 2',) * 3
OTHER = ('fsdp 4', 'fsdp 2 x tensor 2', 'data 4')


@pytest.mark.parametrize('meshes', [SAME, OTHER])
@pytest.mark.hosts
def test_fewer_processes_go_on(server, tmp_path, meshes):
  # How processes add up what devices have is not how one process does it.
  whole, workdir = tmp_path / 'whole', tmp_path / 'run'
  forked_hosts.ended(server, 1, whole, *ATTENDING)
  runs = zip((4, 2, 1), (2, 4, STEPS), meshes, strict=True)
  for count, steps, mesh in runs:
    flags = (*ATTENDING, *MESHES[mesh], f'--config.train.steps={steps}')
    forked_hosts.ended(server, count, workdir, *flags, devices=4 // count)
  check_close(workdir, whole, STEPS)
  for mine, theirs in zip(rows(workdir), rows(whole), strict=True):
    assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.hosts
def test_a_damaged_checkpoint_is_passed_over_by_all(server, tmp_path):
  mesh = MESHES['fsdp 4']
  whole, workdir = tmp_path / 'whole', tmp_path / 'run'
  forked_hosts.ended(server, 2, whole, *FLAGS, *mesh, devices=2)
  four = (*FLAGS, '--config.train.steps=4')
  forked_hosts.ended(server, 2, workdir, *four, *mesh, devices=2)
  for file in (step_folders.of_step(workdir, 4) / 'state').rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      data = bytearray(file.read_bytes())
      data[len(data) // 2] ^= 1
      file.write_bytes(bytes(data))
  with forked_hosts.fake(server, 2, workdir, *FLAGS, *mesh, devices=2) as hosts:
    assert hosts.codes() == [0, 0], hosts.text()
    for child in hosts.children:
      assert 'resuming after step 2' in child.text()
  assert any('4.bad-' in name for name in run_contents.names(workdir))
  arrays_of = run_contents.arrays
  assert arrays_of(workdir, STEPS) == arrays_of(whole, STEPS)


@pytest.mark.hosts
def test_a_step_that_is_not_finite_ends_all(server, tmp_path):
  flags = (*FLAGS, *FOUR, '--config.network.poison=3')
  with forked_hosts.fake(server, 2, tmp_path, *flags, devices=2) as hosts:
    assert hosts.codes() == [errors.DIVERGED] * 2, hosts.text()
  report = json.loads((tmp_path / 'diverged' / '4' / 'report.json').read_text())
  assert len(report['batch']['rows']) == 8
  assert checkpoints.steps(tmp_path) == [2]
  assert any('.diverged' in name for name in run_contents.names(tmp_path))


def test_processes_of_other_commands_are_refused(server, tmp_path):
  workdir = tmp_path / 'run'
  flags = lambda index: [f'--config.train.seed={index}']
  with forked_hosts.fake(server, 2, workdir, *FLAGS, of=flags) as hosts:
    assert hosts.codes() == [errors.USAGE] * 2, hosts.text()
    for child in hosts.children:
      assert 'config.train.seed is 1 in process 1 on' in child.text()
  assert not workdir.exists()


def test_a_workdir_that_one_process_does_not_see(server, tmp_path):
  options = {'before': 'tests.helpers.slow_hosts:blind'}
  with forked_hosts.fake(server, 2, tmp_path, *FLAGS, **options) as hosts:
    assert hosts.codes() == [errors.OUTPUT] * 2, hosts.text()
    for child in hosts.children:
      assert 'storage that all processes share' in child.text()


def failing(server, workdir, which, *flags):
  """Starts a run in which a process cannot write its part of a checkpoint."""
  return forked_hosts.fake(
    server,
    2,
    workdir,
    *FLAGS,
    *MESHES['fsdp 4'],
    *flags,
    devices=2,
    before='tests.helpers.slow_hosts:fail',
    env={'FAILS': f'{which}:2'},
  )


@pytest.mark.parametrize('which', [0, 1])
@pytest.mark.hosts
def test_a_part_that_cannot_be_written_ends_all(server, tmp_path, which):
  with failing(server, tmp_path, which) as hosts:
    assert hosts.codes() == [errors.OUTPUT] * 2, hosts.text()
  assert run_contents.names(tmp_path) == ['2']


@pytest.mark.parametrize('which', [0, 1])
@pytest.mark.hosts
def test_a_part_that_cannot_be_written_is_a_warning(server, tmp_path, which):
  flags = ['--config.train.on_save_error=warn']
  with failing(server, tmp_path, which, *flags) as hosts:
    assert hosts.codes() == [0, 0], hosts.text()
    for child in hosts.children:
      assert 'goes on without this checkpoint' in child.text()
  assert run_contents.names(tmp_path) == ['2', '6']
