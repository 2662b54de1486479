"""Flipped bits and damaged files of a workdir: found, or without effect."""

import json
import os
import random
import shutil
import sys

import jax
import pytest

import pyramid_jax
from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import step_folders
from pyramid_jax.training import loop
from tests.helpers import fake_run
from tests.helpers import mutations
from tests.helpers import run_contents


SEED = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '7'))
FLIPS = {'sampled': 200, 'continued': 100}
DAMAGES = 40  # truncated, emptied, removed, garbage


def config(steps):
  return fake_run.config('two', train__steps=steps)


@pytest.fixture(scope='module')
def fakes():
  """The fakes; a train step is compiled once for each stage."""
  programs, compiled = {}, loop._compile

  def once(setup, meter):
    shapes = jax.tree.structure((setup.state, setup.frozen))
    if shapes not in programs:
      programs[shapes] = compiled(setup, meter)
    return programs[shapes]

  with pytest.MonkeyPatch.context() as patch:
    fake_run.install(patch.setattr)
    patch.setattr(loop, '_compile', once)
    yield


@pytest.fixture(scope='module')
def trained(fakes, tmp_path_factory):
  """A run with a first stage; what is sampled from, and what 5 steps give."""
  workdir = tmp_path_factory.mktemp('run')
  loop.run(config(4), workdir)
  longer = tmp_path_factory.mktemp('longer') / 'run'
  shutil.copytree(workdir, longer)
  loop.run(config(5), longer)
  samples = [sampled(workdir, step) for step in (None, 3, 2)]
  return workdir, samples, [run_contents.arrays(longer, 5)]


def sampled(workdir, step=None):
  """Returns all that decides the images of a run."""
  pipe = pyramid_jax.load(workdir, step=step)
  weights = hashes.digest(jax.tree.leaves(pipe.weights))
  return pipe.config, pipe.label_names, weights


def files(workdir):
  return sorted(
    p for p in workdir.rglob('*') if p.is_file() and p.stat().st_size
  )


def flips(workdir, seed, count):
  """Yields (file, content with a flipped bit), every file in turn."""
  rng = random.Random(seed)
  order = files(workdir)
  rng.shuffle(order)
  for number in range(count):
    file = order[number % len(order)]
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    yield file.relative_to(workdir), bytes(content)


def damages(workdir, seed, count):
  """Yields (file, what it becomes), None for a file that is removed."""
  rng = random.Random(seed)
  order = files(workdir)
  rng.shuffle(order)
  for number in range(count):
    file = order[number % len(order)]
    content = file.read_bytes()
    kind = rng.choice(('empty', 'cut', 'garbage', 'zeros', 'gone', 'mutated'))
    half = len(content) // 2
    made = {
      'empty': b'',
      'cut': content[: rng.randrange(len(content))],
      'garbage': rng.randbytes(len(content)),
      'zeros': content[:half] + bytes(len(content) - half),
      'gone': None,
      'mutated': mutations.mutated(content, rng),
    }
    yield file.relative_to(workdir), made[kind]


def outcome(workdir, want, action):
  """Returns how a changed workdir is taken; anything else fails.

  That is 'same', 'refused', or 'earlier': what an earlier checkpoint gives.
  `want` has these outcomes, the first one first.
  """
  try:
    got = action(workdir)
  except errors.UserError as error:
    if error.code not in (errors.DATA, errors.MISSING):
      raise
    return 'refused'
  assert got in want
  return 'same' if got == want[0] else 'earlier'


def continued(workdir):
  loop.run(config(5), workdir)
  return run_contents.arrays(workdir, 5)


def counted(trained, tmp_path, changes, action):
  """Applies each change to a copy of its own; returns the outcomes."""
  workdir, samples, longer = trained
  want = samples if action is sampled else longer
  found = {'same': 0, 'earlier': 0, 'refused': 0}
  for number, (name, content) in enumerate(changes):
    copy = tmp_path / f'{number}'
    shutil.copytree(workdir, copy)
    if content is None:
      (copy / name).unlink()
    else:
      (copy / name).write_bytes(content)
    try:
      found[outcome(copy, want, action)] += 1
    except BaseException as error:
      error.add_note(f'change {number} of {name}')
      raise
    shutil.rmtree(copy)
  return found


@pytest.mark.rounds
@pytest.mark.parametrize('action', [sampled, continued])
def test_flipped_bits_are_found_or_harmless(trained, tmp_path, action):
  count = FLIPS[action.__name__]
  changes = flips(trained[0], SEED, count)
  found = counted(trained, tmp_path, changes, action)
  counts = f'{count} of {count} flips'
  sys.stdout.write(f'{counts}, {action.__name__}: {found}\n')
  assert sum(found.values()) == count


@pytest.mark.rounds
@pytest.mark.parametrize('action', [sampled, continued])
def test_damaged_files_are_found_or_harmless(trained, tmp_path, action):
  changes = damages(trained[0], SEED, DAMAGES)
  found = counted(trained, tmp_path, changes, action)
  sys.stdout.write(
    f'{DAMAGES} of {DAMAGES} damages, {action.__name__}: {found}\n'
  )
  assert sum(found.values()) == DAMAGES


@pytest.mark.parametrize('action', [sampled, continued])
def test_some_flips(trained, tmp_path, action):
  counted(trained, tmp_path, flips(trained[0], SEED + 1, 8), action)


def newest(workdir):
  return step_folders.of_step(workdir, checkpoints.steps(workdir)[0])


def test_a_damaged_first_stage_is_refused(trained, tmp_path):
  for action in (sampled, continued):
    copy = tmp_path / action.__name__
    shutil.copytree(trained[0], copy)
    shutil.rmtree(newest(copy / 'first_stage') / 'ema')
    shutil.rmtree(newest(copy / 'first_stage') / 'state')
    with pytest.raises(errors.UserError, match='weights of first_stage are'):
      action(copy)


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_finished(
  trained, tmp_path
):
  shutil.copytree(trained[0], tmp_path / 'run')
  want = run_contents.arrays(tmp_path / 'run', 4)
  for file in (newest(tmp_path / 'run') / 'state').rglob('*'):
    if file.is_file():
      file.write_bytes(b'garbage')
  loop.run(config(4), tmp_path / 'run')
  assert run_contents.arrays(tmp_path / 'run', 4) == want
  assert '4.bad-unreadable' in run_contents.names(tmp_path / 'run')


def test_stray_entries_change_nothing(trained, tmp_path):
  workdir, (sample, *_), (longer,) = trained
  copy = tmp_path / 'run'
  shutil.copytree(workdir, copy)
  folder = checkpoints.directory(copy)
  for name in (
    '007',
    '\u00b2',
    '\u0664',
    'a',
    '99999',
    '8.orbax-checkpoint-tmp',
  ):
    (folder / name).mkdir()
  for name in ('12', '.hidden', 'notes.txt', '4.bad-old', '9.deleting'):
    (folder / name).write_text('x')
  assert sampled(copy) == sample
  assert continued(copy) == longer
  assert checkpoints.steps(copy) == [5, 4, 3]
  assert '99999.bad-incomplete' in run_contents.names(copy)
  assert json.loads((copy / 'config.json').read_text())['train']['steps'] == 5


def test_an_array_of_another_name_is_damage(trained, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(trained[0], copy)
  for file in copy.glob('checkpoints/4/ema/_METADATA'):
    text = file.read_text()
    assert '"key": "w"' in text
    file.write_text(text.replace('"key": "w"', '"key": "v"'))
  assert outcome(copy, trained[1], sampled) == 'earlier'
