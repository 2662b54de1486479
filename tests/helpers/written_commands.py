"""Commands that write all kinds of files, and what they should have written."""

import json
import re

from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from tests.helpers import fork_server
from tests.helpers import full_disk


# Files of a run that hold times.
_OF_TIMES = 'checkpoints|throughput.json'


class Training:
  """Four steps with grids, a log, metrics, events and checkpoints."""

  before = 'tests.helpers.fake_run:install'
  faulty = 'tests.helpers.storage_faults:fake'

  def __init__(self, server, workdir):
    self.server, self.workdir = server, workdir

  flags = (f'--config={fork_server.FAKE}', '--config.train.sample_every=2')

  def start(self, *more, before='', **options):
    """Starts the command, with more flags."""
    return self.server.start(
      f'--workdir={self.workdir}',
      *(*self.flags, *more),
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
      **{n: files[n] for n in names if not re.search(_OF_TIMES, n)},
    }

  def goes_on(self, untroubled):
    """Asserts that the command ends as if nothing had been."""
    child = self.start()
    assert child.wait() == errors.OK, child.text()
    assert self.result() == untroubled(type(self).__name__)
    assert full_disk.left(self.workdir) == []


class Slow(Training):
  """Training whose steps take a while."""

  flags = (*Training.flags, '--config.network.pause=0.3')


class Sampling(Training):
  """Seven images."""

  before = 'tests.helpers.full_disk:paint'
  faulty = 'tests.helpers.storage_faults:paint'
  flags = ('--mode=sample', '--prompt=a red circle', '--count=7')

  def prepare(self):
    full_disk.write_painted(self.workdir)

  def result(self):
    name = str(self.workdir).encode()
    files = full_disk.tree(self.workdir)
    return {path: data.replace(name, b'DIR') for path, data in files.items()}


class Evaluation(Sampling):
  """The scores of eight images, saved after every batch."""

  flags = ('--mode=evaluate', '--config.evaluate.count=8')


KINDS = {kind.__name__: kind for kind in (Training, Slow, Sampling, Evaluation)}


def told(child, *words):
  """Asserts that a command could not write, and said so in one line."""
  code, text = child.wait(), child.text()
  assert code == errors.OUTPUT, text
  assert_one_line(text, *words)


def assert_one_line(text, *words):
  """Asserts that a command ended with one line, which has some words."""
  lines = [line for line in text.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1, text
  assert not re.search('Traceback|Exception|never retrieved', text), text
  for word in words:
    assert word in lines[0], text


def results(server, folder):
  """Returns what gives the result of an untroubled command of a kind."""
  found = {}

  def result(kind):
    if kind not in found:
      command = KINDS[kind](server, folder / kind)
      command.prepare()
      child = command.start()
      assert child.wait() == errors.OK, child.text()
      found[kind] = command.result()
    return found[kind]

  return result
