"""Disks that fill, fail or vanish end a command in one line, and harm nothing.

A disk is a file system of a chosen size; what else fails is put into the
process of the command. Afterwards the same command goes on, and what it made
equals what an untroubled one makes.
"""

import errno
import json
import os
import random
import sys

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import fork_server
from tests.helpers import full_disk
from tests.helpers import storage_faults


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '0'))


class Training:
  """Four steps with grids, a log, metrics, events and checkpoints."""

  before = 'tests.helpers.fake_run:install'
  faulty = 'tests.helpers.storage_faults:fake'

  def __init__(self, server, workdir):
    self.server, self.workdir = server, workdir

  def start(self, before='', **options):
    return self.server.start(
      f'--config={fork_server.FAKE}',
      f'--workdir={self.workdir}',
      '--config.train.sample_every=2',
      before=before or self.before,
      **options,
    )

  def prepare(self):
    """Has nothing to do: training makes its workdir."""

  def result(self):
    """Returns what all finished runs have in common: no times, no speeds."""
    meta = checkpoints.directory(self.workdir) / '4' / 'meta' / 'metadata'
    lines = (self.workdir / 'metrics.jsonl').read_text().splitlines()
    rows = map(json.loads, lines)
    files = full_disk.tree(self.workdir)
    names = [n for n in files if n.endswith(('.json', '.png'))]
    return {
      'state': json.loads(meta.read_text())['tree'],
      'losses': [(row['step'], row['loss']) for row in rows],
      **{name: files[name] for name in names if 'checkpoints' not in name},
    }


class Sampling(Training):
  """Seven images."""

  before = 'tests.helpers.full_disk:paint'
  faulty = 'tests.helpers.storage_faults:paint'
  flags = ('--mode=sample', '--prompt=a red circle', '--count=7')

  def start(self, before='', **options):
    return self.server.start(
      f'--workdir={self.workdir}',
      *self.flags,
      before=before or self.before,
      **options,
    )

  def prepare(self):
    full_disk.write_painted(self.workdir)

  def result(self):
    name = str(self.workdir).encode()
    files = full_disk.tree(self.workdir)
    return {path: data.replace(name, b'DIR') for path, data in files.items()}


class Evaluation(Sampling):
  """The scores of eight images, saved after every batch."""

  flags = ('--mode=evaluate', '--config.evaluate.count=8')


KINDS = {kind.__name__: kind for kind in (Training, Sampling, Evaluation)}


@pytest.fixture(scope='session')
def wanted(server, tmp_path_factory):
  """Returns what an untroubled command of a kind makes."""
  found = {}

  def result(kind):
    if kind not in found:
      command = KINDS[kind](server, tmp_path_factory.mktemp(kind) / 'run')
      command.prepare()
      child = command.start()
      assert child.wait() == errors.OK, child.text()
      found[kind] = command.result()
    return found[kind]

  return result


def told(child, *words):
  """Asserts that a command could not write, and said so in one line."""
  code, text = child.wait(), child.text()
  assert code == errors.OUTPUT, text
  full_disk.assert_told(text, 'cannot write', *words)


def goes_on(command, kind, wanted):
  """Asserts that the same command ends as if nothing had been."""
  child = command.start()
  assert child.wait() == errors.OK, child.text()
  assert command.result() == wanted(kind)
  assert full_disk.left(command.workdir) == []


def fill(server, folder, kind, size_kib, wanted):
  """Runs a command on a disk of a size; returns whether it was too small."""
  with full_disk.mounted(folder) as disk:
    command = KINDS[kind](server, folder / 'run')
    command.prepare()
    disk.resize(f'{size_kib}k')
    child = command.start()
    is_full = child.wait() != errors.OK
    if is_full:
      told(child, 'bytes are free); with room the same command goes on.')
      assert all('checkpoints/' in name for name in full_disk.left(folder))
    disk.resize('64m')
    goes_on(command, kind, wanted)
  return is_full


@pytest.mark.parametrize(
  ('kind', 'size_kib'),
  [('Training', 160), ('Sampling', 40), ('Evaluation', 28)],
)
def test_a_disk_that_fills(server, tmp_path, wanted, kind, size_kib):
  assert fill(server, tmp_path / 'disk', kind, size_kib, wanted)


@pytest.mark.rounds
@pytest.mark.parametrize(
  ('kind', 'largest_kib', 'rounds'),
  [('Training', 2048, 20), ('Sampling', 256, 10), ('Evaluation', 192, 6)],
)
def test_disks_of_any_size(server, tmp_path, wanted, kind, largest_kib, rounds):
  rng = random.Random(SEED)
  full = 0
  for number in range(rounds):
    # Pages are of 4 KiB; the least disk holds the record of a run.
    size = round(16 * (largest_kib / 16) ** rng.random()) // 4 * 4
    full += fill(server, tmp_path / str(number), kind, size, wanted)
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


def fail(server, workdir, kind, path, error, wanted):
  command = KINDS[kind](server, workdir)
  command.prepare()
  fault = {'on': 'write', 'path': path, 'error': error}
  child = command.start(command.faulty, env=storage_faults.plan(fault))
  told(child, os.strerror(getattr(errno, error)))
  goes_on(command, kind, wanted)


@pytest.mark.parametrize(
  ('kind', 'path', 'error'),
  [
    ('Training', 'process_0.log', 'EIO'),
    ('Training', 'tfevents', 'EDQUOT'),
  ],
)
def test_a_file_that_cannot_be_written(
  server, tmp_path, wanted, kind, path, error
):
  fail(server, tmp_path / 'run', kind, path, error, wanted)


@pytest.mark.rounds
@pytest.mark.parametrize('error', ['EIO', 'EROFS', 'EDQUOT', 'ENOSPC'])
def test_any_file_that_cannot_be_written(server, tmp_path, wanted, error):
  for number, (kind, path) in enumerate(FILES):
    fail(server, tmp_path / str(number) / 'run', kind, path, error, wanted)
  sys.stdout.write(f'{error}: {len(FILES)} of {len(FILES)} files\n')
