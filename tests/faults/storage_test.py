"""Disks that fill, fail or vanish end a command in one line, and harm nothing.

A disk is a file system of a chosen size; what else fails is put into the
process of the command. Afterwards the same command goes on, and what it made
equals what an untroubled one makes.
"""

import errno
import os
import random
import sys

import pytest

from pyramid_jax import errors
from tests.helpers import full_disk
from tests.helpers import storage_faults
from tests.helpers import written_commands


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '0'))


def fill(server, folder, kind, size_kib, untroubled):
  """Runs a command on a disk of a size; returns whether it was too small."""
  with full_disk.mounted(folder) as disk:
    command = written_commands.KINDS[kind](server, folder / 'run')
    command.prepare()
    disk.resize(f'{size_kib}k')
    child = command.start()
    is_full = child.wait() != errors.OK
    if is_full:
      written_commands.told(
        child, 'bytes are free); with room the same command goes on.'
      )
      assert all('checkpoints/' in name for name in full_disk.left(folder))
    disk.resize('64m')
    command.goes_on(untroubled)
  return is_full


@pytest.mark.parametrize(
  ('kind', 'size_kib'),
  [('Training', 160), ('Sampling', 40), ('Evaluation', 28)],
)
def test_a_disk_that_fills(server, tmp_path, untroubled, kind, size_kib):
  assert fill(server, tmp_path / 'disk', kind, size_kib, untroubled)


@pytest.mark.rounds
@pytest.mark.parametrize(
  ('kind', 'largest_kib', 'rounds'),
  [('Training', 2048, 20), ('Sampling', 256, 10), ('Evaluation', 192, 6)],
)
def test_disks_of_any_size(
  server, tmp_path, untroubled, kind, largest_kib, rounds
):
  rng = random.Random(SEED)
  full = 0
  for number in range(rounds):
    # Pages are of 4 KiB; the least disk holds the record of a run.
    size = round(16 * (largest_kib / 16) ** rng.random()) // 4 * 4
    full += fill(server, tmp_path / str(number), kind, size, untroubled)
  sys.stdout.write(f'{kind}: {rounds} of {rounds} sizes, {full} too small\n')
  assert 0 < full < rounds


# A file of each kind: the command, a pattern of its path.
FILES = [
  ('Training', '/run$'),
  ('Training', '/lock'),
  ('Training', 'config.json'),
  ('Training', 'labels.json'),
  ('Training', 'process_0.log'),
  ('Training', 'metrics.jsonl'),
  ('Training', 'throughput.json'),
  ('Training', 'tfevents'),
  ('Training', 'step_0+2.png'),
  ('Training', '/checkpoints'),
  ('Sampling', 'request.json'),
  ('Sampling', '0+3.png'),
  ('Sampling', 'parts/'),
  ('Sampling', 'grid.png'),
  ('Sampling', 'samples.npz'),
  ('Sampling', 'latents.npz'),
  ('Evaluation', 'request.json'),
  ('Evaluation', 'rows_'),
  ('Evaluation', 'totals_'),
  ('Evaluation', 'scores.md'),
  ('Evaluation', 'scores.json'),
]


def fail(server, workdir, kind, path, error, untroubled):
  command = written_commands.KINDS[kind](server, workdir)
  command.prepare()
  fault = {'on': 'write', 'path': path, 'error': error}
  child = command.start(before=command.faulty, env=storage_faults.plan(fault))
  written_commands.told(child, os.strerror(getattr(errno, error)))
  command.goes_on(untroubled)


@pytest.mark.parametrize(
  ('kind', 'path', 'error'),
  [
    ('Training', 'process_0.log', 'EIO'),
    ('Training', 'tfevents', 'EDQUOT'),
  ],
)
def test_a_file_that_cannot_be_written(
  server, tmp_path, untroubled, kind, path, error
):
  fail(server, tmp_path / 'run', kind, path, error, untroubled)


@pytest.mark.rounds
@pytest.mark.parametrize('error', ['EIO', 'EROFS', 'EDQUOT', 'ENOSPC'])
def test_any_file_that_cannot_be_written(server, tmp_path, untroubled, error):
  for number, (kind, path) in enumerate(FILES):
    fail(server, tmp_path / str(number) / 'run', kind, path, error, untroubled)
  sys.stdout.write(f'{error}: {len(FILES)} of {len(FILES)} files\n')
