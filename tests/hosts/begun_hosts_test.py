"""Several processes that begin from the weights of another run."""

import pytest

from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import step_folders
from pyramid_jax.runs import step_meta
from tests.helpers import cluster
from tests.helpers import fork_server


MESH = ('--config.mesh.data=1', '--config.mesh.fsdp=4')


def train(count, workdir, *arguments):
  ended = cluster.run(
    count,
    f'--config={fork_server.FAKE}:attention',
    f'--workdir={workdir}',
    *MESH,
    *arguments,
    module='tests.helpers.fake_run',
    devices=4 // count,
  )
  assert [one.code for one in ended] == [0] * count, cluster.report(ended)


def kept(meta):
  """Returns what a record has of all arrays but those of the optimizer."""
  return {
    f'{item}/{name}': entry
    for item, leaves in meta['tree'].items()
    for name, entry in leaves.items()
    if not name.startswith('opt_state/')
  }


@pytest.mark.hosts
def test_two_processes_begin_as_one_does(tmp_path):
  source = tmp_path / 'source'
  train(1, source)
  still = ('--config.train.steps=1', '--config.train.learning_rate=0')
  begin = (f'--config.train.init_from={source}', *still)
  metas = {}
  for count in (1, 2):
    train(count, tmp_path / str(count), *begin)
    path = step_folders.of_step(tmp_path / str(count), 1)
    metas[count] = step_meta.read(path)
  # With the hash of every array; gradients differ in the order of sums.
  assert kept(metas[2]) == kept(metas[1])
  assert metas[2]['record']['init_from'] == metas[1]['record']['init_from']
  was = step_meta.read(step_folders.of_step(source, 4))['tree']['state']
  now = metas[2]['tree']['state']
  params = [name for name in was if name.startswith('params/')]
  assert len(params) == 4
  assert all(now[name] == was[name] for name in params)


@pytest.mark.hosts
def test_all_learn_that_there_is_nothing_to_begin_from(tmp_path):
  ended = cluster.run(
    2,
    f'--config={fork_server.FAKE}',
    f'--workdir={tmp_path}/run',
    f'--config.train.init_from={tmp_path}/absent',
    module='tests.helpers.fake_run',
  )
  assert [one.code for one in ended] == [66, 66], cluster.report(ended)
  assert not checkpoints.steps(tmp_path / 'run')
