"""CIFAR-10 of the binary version: its files, and the archive that has them."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import identity
from pyramid_jax.data.readers import cifar10
from tests.helpers import configs


CLASSES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer'),
  *('dog', 'frog', 'horse', 'ship', 'truck'),
)
RECORD, SIZE = 3073, 30_730_000


def image(value):
  """An image of 32 px whose values depend on place and channel."""
  y, x, c = np.mgrid[:32, :32, :3]
  return ((5 * y + 3 * x + 80 * c + value) % 256).astype(np.uint8)


def record(label, value):
  return bytes([label]) + image(value).transpose(2, 0, 1).tobytes()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The official files; records that are not written are black airplanes."""
  base = tmp_path_factory.mktemp('cifar') / 'cifar-10-batches-bin'
  base.mkdir()
  (base / 'batches.meta.txt').write_text('\n'.join(CLASSES) + '\n\n')
  (base / 'readme.html').write_text('x')
  names = [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']
  for i, name in enumerate(names):
    path = base / f'{name}.bin'
    with path.open('wb') as file:
      file.write(record(i + 1, 10 * i) + record(9, 10 * i + 1))
      file.truncate(SIZE)
  return base


@pytest.fixture(scope='module')
def archive(folder):
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w') as tar:
    tar.add(folder, folder.name)
  path = folder.parent / 'archive' / 'cifar-10-binary.tar.gz'
  path.parent.mkdir()
  path.write_bytes(gzip.compress(stream.getvalue(), 1))
  return path


def config_of(root, task='class', **fields):
  return configs.of_reader('cifar10', root, task, image_size=32, **fields)


def read(reader, indices):
  return reader.batch(np.array(indices), np.zeros(len(indices), np.uint64))


@pytest.mark.parametrize('form', ['files', 'folder', 'archive', 'beside'])
def test_every_form_gives_the_same_examples(folder, archive, form):
  root = {
    'files': folder,
    'folder': folder.parent,
    'archive': archive,
    'beside': archive.parent,
  }[form]
  reader = data.create(config_of(root), 'train')
  assert len(reader) == 50_000
  batch = read(reader, [0, 1, 2, 10_000, 40_001])
  want = [image(0), image(1), np.zeros((32, 32, 3)), image(10), image(41)]
  np.testing.assert_array_equal(batch['image'], want)
  assert batch['class'].tolist() == [2, 10, 1, 3, 10]
  assert batch['image'].dtype == np.uint8
  assert reader.label_names == ('', *CLASSES)
  for split in ('val', 'test'):
    reader = data.create(config_of(root), split)
    assert len(reader) == 10_000
    batch = read(reader, [0, 9_999])
    np.testing.assert_array_equal(batch['image'][0], image(50))
    assert batch['class'].tolist() == [7, 1]


def test_identity_has_the_files_of_the_split(folder, archive):
  parts = data.create(config_of(folder), 'val').identity()
  assert list(parts[identity.FILES]) == ['test_batch.bin']
  parts = data.create(config_of(archive), 'val').identity()
  assert list(parts[identity.FILES]) == ['cifar-10-binary.tar.gz']


def test_files_of_another_size_or_class_are_refused(folder, tmp_path):
  for path in folder.iterdir():
    os.link(path, tmp_path / path.name)
  config = config_of(tmp_path)
  batch = tmp_path / 'test_batch.bin'
  batch.unlink()
  lines = data.missing_inputs(config, ('val',))
  assert lines == [
    f'{batch} (CIFAR-10 binary version, config.data.root; or'
    ' cifar-10-binary.tar.gz there)'
  ]
  for size in (SIZE - 1, RECORD):
    batch.write_bytes(b'')
    os.truncate(batch, size)
    with pytest.raises(errors.UserError, match=f'has {size} bytes, must have'):
      data.create(config, 'val')
  batch.write_bytes(bytes([10]))
  os.truncate(batch, SIZE)
  with pytest.raises(errors.UserError, match='the class 10, must be below 10'):
    data.create(config, 'val')
  (tmp_path / 'batches.meta.txt').unlink()
  (tmp_path / 'batches.meta.txt').write_text('cat\ndog\n')
  with pytest.raises(errors.UserError, match='has 2 names, must have 10'):
    data.create(config, 'train')


def test_archives_of_something_else_are_refused(tmp_path):
  path = tmp_path / 'cifar-10-binary.tar.gz'
  path.write_bytes(gzip.compress(b'\0' * 10_240))
  with pytest.raises(errors.UserError, match='lacks batches.meta.txt'):
    data.create(config_of(path), 'train')
  path.write_bytes(b'not gzip')
  with pytest.raises(errors.UserError, match='cifar-10-binary.tar.gz: '):
    data.create(config_of(path), 'train')


def test_names_of_classes_are_texts(folder, tmp_path):
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\nautomobile\n')
  config = config_of(folder, 'text', vocab_file=str(vocab), max_length=4)
  batch = read(data.create(config, 'train'), [0])
  assert batch['condition_ids'].tolist() == [[2, 4, 3, 0]]


def test_sizes_are_those_of_the_format():
  assert cifar10._FILE == SIZE
  assert cifar10._RECORD == RECORD
