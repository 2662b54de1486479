"""Data that change between a run and its resume."""

import json
import os
import shutil
import sys
import time

from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.data import identity
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import data_record
from tests.helpers import folder_run


@pytest.fixture(scope='module')
def half(server, tmp_path_factory):
  """A run of 4 of 6 steps and its data."""
  base = tmp_path_factory.mktemp('half')
  folder_run.write_images(base / 'data')
  run = folder_run.start(
    server, base / 'run', base / 'data', '--config.train.steps=4'
  )
  assert run.wait() == errors.OK, run.text()
  return base


@pytest.fixture
def copy(half, tmp_path):
  """A copy of both."""
  shutil.copytree(half, tmp_path / 'copy')
  return tmp_path / 'copy'


def resume(server, base, *arguments):
  run = folder_run.start(server, base / 'run', base / 'data', *arguments)
  return run.wait(), run.text()


def delete(folder):
  (folder / '007.png').unlink()


def add(folder):
  shutil.copy(folder / '007.png', folder / '0070.png')


def rename(folder):
  (folder / '007.png').rename(folder / 'seven.png')


def replace(folder):
  Image.new('RGB', (10, 9)).save(folder / '007.png')


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (delete, ['images 24 -> 23', '1 gone (007.png)']),
    (add, ['images 24 -> 25', '1 new (0070.png)']),
    (rename, ['images: 1 gone (007.png), 1 new (seven.png)']),
    (replace, ['1 changed (007.png ', ' bytes)']),
  ],
)
def test_other_training_data_are_refused(server, copy, change, said):
  change(copy / 'data' / 'train')
  code, text = resume(server, copy, '--config.train.steps=6')
  assert code == errors.DATA, text
  line = next(x for x in text.splitlines() if 'training data' in x)
  for part in (*said, 'step 4', 'allow_change'):
    assert part in line
  assert 'compiled' not in text
  assert checkpoints.steps(copy / 'run')[0] == 4


def test_they_may_be_allowed_and_are_kept(server, copy):
  delete(copy / 'data' / 'train')
  flags = ('--config.train.steps=6', '--config.data.allow_change')
  code, text = resume(server, copy, *flags)
  assert code == errors.OK, text
  assert 'images 24 -> 23' in text
  facts = checkpoints.record(copy / 'run', 6)['data']['train']['images']
  assert facts['count'] == 23
  code, text = resume(server, copy, '--config.train.steps=8')
  assert code == errors.OK, text
  assert 'not those of step' not in text


def test_other_validation_data_are_a_warning(server, copy):
  delete(copy / 'data' / 'val')
  code, text = resume(server, copy, '--config.train.steps=6')
  assert code == errors.OK, text
  assert text.count('the validation data are not those of step 4') == 1


def test_data_that_were_moved_are_the_same(server, copy):
  (copy / 'data').rename(copy / 'elsewhere')
  (copy / 'data').mkdir()
  order = sorted((copy / 'elsewhere' / 'train').iterdir(), reverse=True)
  for split in ('train', 'val'):  # also listed in another order
    (copy / 'data' / split).mkdir()
    for path in order:
      shutil.copy(path, copy / 'data' / split)
  code, text = resume(server, copy, '--config.train.steps=6')
  assert code == errors.OK, text
  assert 'not those of step' not in text


@pytest.mark.parametrize('damage', ['gone', 'garbage', 'other'])
def test_without_the_names_the_counts_are_said(server, copy, damage):
  file = copy / 'run' / data_record.FILE
  if damage == 'gone':
    file.unlink()
  elif damage == 'garbage':
    file.write_bytes(file.read_bytes()[:-9])
  else:
    data = data_record._read(file)
    data['train']['images'].pop('007.png')
    data_record.DataRecord(data, {}).save(copy / 'run')
  delete(copy / 'data' / 'train')
  code, text = resume(server, copy, '--config.train.steps=6')
  assert code == errors.DATA, text
  assert 'images 24 -> 23 (which ones is not known)' in text


def test_captions_are_part_of_the_data(server, tmp_path):
  folder_run.write_images(tmp_path / 'data')
  for split in ('train', 'val'):
    lines = [
      json.dumps({'file': f'{i:03d}.png', 'caption': f'number {i}'})
      for i in range(24)
    ]
    text = '\n'.join(lines)
    (tmp_path / 'data' / split / 'captions.jsonl').write_text(text)
  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\nnumber\n')
  flags = (
    '--config.condition.task=text',
    f'--config.condition.vocab_file={vocabulary}',
  )
  code, text = resume(server, tmp_path, '--config.train.steps=2', *flags)
  assert code == errors.OK, text
  captions = tmp_path / 'data' / 'train' / 'captions.jsonl'
  was = captions.read_text()
  captions.write_text(was.replace('number 7', 'number 8'))
  code, text = resume(server, tmp_path, *flags)
  assert code == errors.DATA, text
  assert 'files: 1 changed (captions.jsonl' in text
  captions.write_text(was)
  os.truncate(vocabulary, vocabulary.stat().st_size - 1)
  code, text = resume(server, tmp_path, *flags)
  assert code == errors.DATA, text
  assert '1 changed (config.condition.vocab_file' in text


def test_a_run_of_an_older_version_gets_the_record(server, copy):
  (copy / 'run' / data_record.FILE).unlink()
  run = server.start(
    f'--config={folder_run.__file__}',
    f'--workdir={copy / "old"}',
    f'--config.data.root={copy / "data"}',
    '--config.train.steps=2',
    before='tests.faults.changed_data_test:without_record',
  )
  assert run.wait() == errors.OK, run.text()
  assert 'data' not in checkpoints.record(copy / 'old', 2)
  delete(copy / 'data' / 'train')
  run = folder_run.start(server, copy / 'old', copy / 'data')
  assert run.wait() == errors.OK, run.text()
  facts = checkpoints.record(copy / 'old', 6)['data']['train']['images']
  assert facts['count'] == 23


def without_record():
  folder_run.install()
  data_record.DataRecord.record = {}


@pytest.mark.rounds
def test_the_cost_of_many_files(tmp_path):
  count = 100_000
  names = [f'{i % 100:02d}/{i:06d}.jpg' for i in range(count)]
  for i in range(100):
    (tmp_path / f'{i:02d}').mkdir()
  for name in names:
    os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY))
  start = time.monotonic()
  found = identity.sizes(tmp_path, names)
  middle = time.monotonic()
  facts = identity.facts({'images': found})
  end = time.monotonic()
  sys.stdout.write(
    f'{count:,} files: sizes in {middle - start:.2f} s, hash in'
    f' {end - middle:.2f} s\n'
  )
  assert facts['images']['count'] == count
  assert end - start < 30
