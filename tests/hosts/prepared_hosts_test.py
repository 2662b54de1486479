"""Images that two processes prepare are those that one prepares."""

import pytest

from pyramid_jax import errors
from tests.helpers import archives as made
from tests.helpers import cluster


def run(count, root, output, *arguments):
  return cluster.run(
    count,
    f'--source=image_folder:{root}',
    f'--output={output}',
    '--image_size=4',
    '--task=class',
    '--splits=train',
    '--shard_size=2',
    *arguments,
    module='pyramid_jax.commands.prepare',
  )


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.hosts
def test_two_processes_write_the_files_of_one(tmp_path):
  files = {
    f'{"ab"[i % 2]}/{i}.png': made.encoded(made.pixels(i)) for i in range(9)
  }
  made.written(tmp_path / 'given', files)
  for count in (1, 2):
    ended = run(count, tmp_path / 'given', tmp_path / str(count))
    assert [x.code for x in ended] == [0] * count, cluster.report(ended)
  want = contents(tmp_path / '1')
  assert len([x for x in want if x.endswith('-of-00005')]) == 5
  assert contents(tmp_path / '2') == want
  # Both go on where one of them lacks a shard.
  name = 'prepared-train.array_record-00003-of-00005'
  (tmp_path / '2' / name).unlink()
  ended = run(2, tmp_path / 'given', tmp_path / '2')
  assert [x.code for x in ended] == [0, 0], cluster.report(ended)
  assert contents(tmp_path / '2') == want


@pytest.mark.hosts
def test_another_set_ends_both_processes(tmp_path):
  for i, name in enumerate(('given', 'other')):
    files = {'a/1.png': made.encoded(made.pixels(i, (9, 4 + i)))}
    made.written(tmp_path / name, files)
  assert run(1, tmp_path / 'given', tmp_path / 'out')[0].code == 0
  ended = run(2, tmp_path / 'other', tmp_path / 'out')
  assert [x.code for x in ended] == [errors.OUTPUT] * 2, cluster.report(ended)
