import pytest

from pyramid_jax import errors
from pyramid_jax.data.shards import shard_files
from tests.helpers import configs


def make(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def found(root, split='train', **fields):
  config = configs.of_reader('tar_shards', root, **fields)
  return [p.name for p in shard_files.find(config, split, '.tar')]


def test_every_split_reads_a_plain_folder(tmp_path):
  make(tmp_path, '1.tar', '0.tar', '0.json', '.2.tar', 'deep/3.tar')
  for split in shard_files.SPLITS:
    assert found(tmp_path, split) == ['0.tar', '1.tar']


def test_folders_of_splits(tmp_path):
  make(tmp_path, 'train/0.tar', 'val/1.tar', '9.tar')
  assert found(tmp_path) == ['0.tar']
  assert found(tmp_path, 'val') == found(tmp_path, 'test') == ['1.tar']
  make(tmp_path, 'test/2.tar')
  assert found(tmp_path, 'test') == ['2.tar']


def test_names_of_splits(tmp_path):
  make(tmp_path, 'train-0.tar', 'train-1.tar', 'validation-0.tar', 'tests.tar')
  assert found(tmp_path) == ['train-0.tar', 'train-1.tar']
  assert found(tmp_path, 'val') == ['validation-0.tar']
  assert found(tmp_path, 'test') == ['validation-0.tar']
  make(tmp_path, 'test-0.tar')
  assert found(tmp_path, 'test') == ['test-0.tar']


def test_names_in_braces(tmp_path):
  assert found(f'{tmp_path}/{{08..10}}.tar') == ['08.tar', '09.tar', '10.tar']
  splits = ('{0..1}.tar', '2.tar', '2.tar')
  make(tmp_path, '2.tar')
  assert found(tmp_path, splits=splits) == ['0.tar', '1.tar']
  assert found(tmp_path, 'val', splits=splits) == ['2.tar']
  make(tmp_path, 'a/train-1.tar', 'a/x.tar')
  got = found(tmp_path, splits=('a', 'a', 'a'))
  assert got == ['train-1.tar', 'x.tar']
  with pytest.raises(errors.UserError, match='splits is .*, must name the f'):
    found(tmp_path, splits=('a',))


def test_what_is_missing(tmp_path):
  def missing(root, **fields):
    config = configs.of_reader('tar_shards', root, **fields)
    return shard_files.missing(config, ('train', 'val'), '.tar')

  assert missing('') == [
    'the files .tar of the data (config.data.root is empty)'
  ]
  (line,) = missing(f'{tmp_path}/{{0..4}}.tar')
  assert line.startswith(f'5 of 5 files ({tmp_path}/0.tar, ')
  assert line.endswith('(config.data.root)')
  train, val = missing(tmp_path)
  assert 'no files .tar for the split train (config.data.root or' in train
  make(tmp_path, 'train-0.tar')
  (val,) = missing(tmp_path)
  assert 'for the split val' in val
