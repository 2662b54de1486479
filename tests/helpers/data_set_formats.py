"""Formats of data sets, each with one file that tests damage.

A format is read as a run reads it: the reader is made and all of its examples
are taken.
"""

from collections.abc import Callable
from collections.abc import Collection
import functools
import gzip
import hashlib
import io
import json
import pathlib
import struct
import tempfile
from typing import Any
import zipfile

from ml_collections import ConfigDict
import numpy as np
import scipy.io

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.commands import prepare
from tests.helpers import archives as made
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import fuzzed
from tests.helpers import open_images_files
from tests.helpers import visual_genome_files


CODES = (errors.DATA, errors.MISSING)
TENCH, RETRIEVER = 'n01440764', 'n02099601'
RECORDS = 4  # of a file of CIFAR-10 here
MANY_CLASSES = {'task': 'class', 'num_classes': limits.VOCABULARY}
SHARD = 'prepared-train.array_record-00000-of-00001'


class Refused(Exception):
  """A file that is refused as data, in one line that names its folder."""


def read_all(
  config: ConfigDict,
  folder: pathlib.Path,
  split: str = 'train',
  codes: Collection[int] = CODES,
) -> None:
  """Takes all examples of a split as a run does.

  `folder` is that of the damaged file, which a message has to name; `codes`
  are those of `Refused`.
  """
  try:
    with errors.user_errors(value=errors.DATA, missing=errors.MISSING):
      reader = data.create(config, split)
      count = len(reader)
      batch = reader.batch(np.arange(count), np.zeros(count, np.uint64))
  except errors.UserError as error:
    if error.code in codes and str(folder) in str(error):
      raise Refused(str(error)) from error
    raise AssertionError(f'{error.code}: {error}') from error
  assert len(batch['image']) == count


def of(name: str, folder: pathlib.Path, root: pathlib.Path, **fields) -> None:
  fields = {'image_size': 4, 'max_length': 6, 'max_broken': 100, **fields}
  read_all(configs.of_reader(name, root, **fields), folder)


def png(value: int) -> bytes:
  return made.encoded(made.pixels(value))


def synsets() -> dict[str, bytes]:
  return {
    f'{synset}.tar': made.tarred(
      {f'{synset}_{i}.JPEG': png(i + 3 * k) for i in range(3)}
    )
    for k, synset in enumerate((TENCH, RETRIEVER))
  }


# -- ImageNet ---------------------------------------------------------------


def read_train(path: pathlib.Path) -> None:
  of('imagenet', path.parent, path.parent, task='class')


def read_synset(path: pathlib.Path) -> None:
  of('imagenet', path.parent, path.parent.parent, task='class')


def write_synset(folder: pathlib.Path) -> None:
  other = f'{RETRIEVER}.tar'
  made.written(folder, {other: synsets()[other]})


def read_val(path: pathlib.Path) -> None:
  fields = {'image_size': 4, **MANY_CLASSES}
  config = configs.of_reader('imagenet', path.parent, **fields)
  read_all(config, path.parent, 'val')


def write_val(folder: pathlib.Path, labels: bool = True) -> None:
  names = [f'ILSVRC2012_val_0000000{i}.JPEG' for i in (1, 2, 3)]
  tar = made.tarred({name: png(i) for i, name in enumerate(names)})
  made.written(folder, {'ILSVRC2012_img_val.tar': tar})
  if labels:
    name = 'ILSVRC2012_validation_ground_truth.txt'
    made.written(folder, {name: b'2\n1\n2\n'})


@functools.cache
def meta() -> bytes:
  """The table of the development kit."""
  kind = [('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('words', 'O')]
  rows = [(np.uint8(1), RETRIEVER, 'dog'), (np.uint8(2), TENCH, 'tench')]
  stream = io.BytesIO()
  table = np.array(rows, kind).reshape(2, 1)
  scipy.io.savemat(stream, {'synsets': table}, do_compression=True)
  return stream.getvalue()


def kit() -> bytes:
  folder = 'ILSVRC2012_devkit_t12/data'
  files = {
    f'{folder}/meta.mat': meta(),
    f'{folder}/ILSVRC2012_validation_ground_truth.txt': b'2\n1\n2\n',
  }
  return gzip.compress(made.tarred(files))


# -- LSUN, FFHQ, CelebA-HQ, CIFAR-10, MNIST -----------------------------------


@functools.cache
def lmdb_file() -> bytes:
  import lmdb

  with tempfile.TemporaryDirectory() as folder:
    with (
      lmdb.open(folder, map_size=1 << 22) as environment,
      environment.begin(write=True) as transaction,
    ):
      for i in range(40):
        value = png(i) if i % 2 else made.encoded(made.pixels(i, (48, 48)))
        transaction.put(f'{i:040x}'.encode(), value)
    return (pathlib.Path(folder) / 'data.mdb').read_bytes()


def read_lmdb(path: pathlib.Path) -> None:
  of('lsun', path.parent, path.parent)


EDM = {f'00000/img0000000{i}.png': i % 2 for i in range(4)}


def edm(kind: int = zipfile.ZIP_STORED) -> bytes:
  labels = json.dumps({'labels': [[k, v] for k, v in EDM.items()]})
  files = {name: png(i) for i, name in enumerate(EDM)}
  return made.zipped({**files, 'dataset.json': labels.encode()}, kind)


def read_zip(path: pathlib.Path) -> None:
  of('ffhq', path.parent, path, **MANY_CLASSES)


def read_labels(path: pathlib.Path) -> None:
  of('ffhq', path.parent, path.parent, **MANY_CLASSES)


def write_faces(folder: pathlib.Path) -> None:
  made.written(folder, {name: png(i) for i, name in enumerate(EDM)})


def npy() -> bytes:
  stream = io.BytesIO()
  np.save(stream, made.pixels(3).transpose(2, 0, 1)[None])
  return stream.getvalue()


def read_npy(path: pathlib.Path) -> None:
  of('celebahq', path.parent, path.parent)


def write_npy(folder: pathlib.Path) -> None:
  made.written(folder, {'imgHQ00002.npy': npy()})


def cifar(number: int) -> bytes:
  rng = np.random.default_rng(number)
  pixels = rng.integers(0, 256, (RECORDS, 3072), np.uint8)
  classes = np.arange(RECORDS, dtype=np.uint8)[:, None]
  return np.concatenate([classes, pixels], axis=1).tobytes()


CIFAR = {
  **{f'data_batch_{i}.bin': cifar(i) for i in range(1, 6)},
  'test_batch.bin': cifar(6),
  'batches.meta.txt': '\n'.join(
    (
      *('airplane', 'automobile', 'bird', 'cat', 'deer'),
      *('dog', 'frog', 'horse', 'ship', 'truck'),
    )
  ).encode(),
}


def write_cifar(folder: pathlib.Path) -> None:
  made.written(folder, CIFAR)


def read_cifar(path: pathlib.Path) -> None:
  of('cifar10', path.parent, path.parent, task='class')


def read_cifar_archive(path: pathlib.Path) -> None:
  of('cifar10', path.parent, path, task='class')


def digits() -> bytes:
  pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
  return struct.pack('>4I', 0x803, *pixels.shape) + pixels.tobytes()


def read_digits(path: pathlib.Path) -> None:
  name = 'diffit_mnist.py:class,debug'
  config = configs.load(name, **{'data.root': str(path.parent)})
  read_all(config, path.parent)


def write_digits(folder: pathlib.Path) -> None:
  labels = struct.pack('>2I', 0x801, 5) + bytes([7, 0, 9, 3, 1])
  files = {
    'train-images-idx3-ubyte.gz': gzip.compress(digits()),
    'train-labels-idx1-ubyte.gz': gzip.compress(labels),
  }
  made.written(folder, files)


# -- Shards -------------------------------------------------------------------


def shard() -> bytes:
  return made.tarred(
    {
      f'{i:03d}.{suffix}': content
      for i in range(4)
      for suffix, content in (
        ('png', png(i)),
        ('txt', b'a cat'),
        ('json', json.dumps({'width': 9, 'caption': 'x'}).encode()),
        ('cls', str(i % 3).encode()),
      )
    }
  )


def read_shard(path: pathlib.Path) -> None:
  of('tar_shards', path.parent, path.parent, task='class', num_classes=3)


def read_metadata(path: pathlib.Path) -> None:
  fields = {'text_field': 'caption', 'min_side': 2}
  vocabulary = path.parent.parent / 'vocab.txt'
  vocabulary.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\n')
  fields['vocab_file'] = str(vocabulary)
  of('tar_shards', path.parent, path.parent, task='text', **fields)


def parquet() -> bytes:
  import pyarrow
  from pyarrow import parquet as library

  rows = [{'bytes': png(i), 'path': f'{i}.png'} for i in range(5)]
  table = pyarrow.table({'image': rows, 'label': [0, 1, 2, 0, -1]})
  stream = io.BytesIO()
  library.write_table(table, stream, row_group_size=2)
  return stream.getvalue()


def read_parquet(path: pathlib.Path) -> None:
  of('parquet', path.parent, path.parent, task='class', num_classes=3)


@functools.cache
def prepared(task: str = 'class') -> dict[str, bytes]:
  """The files of prepared images."""
  with tempfile.TemporaryDirectory() as place:
    base = pathlib.Path(place)
    if task == 'class':
      files = {f'{"ab"[i % 2]}/{i}.png': png(i) for i in range(4)}
      made.written(base / 'given', files)
      config = configs.of_reader(
        'image_folder', base / 'given', task, image_size=4
      )
    else:
      coco_files.write_all(base)
      config = coco_files.make_config(base, task, image_size=4)
    prepare.run(config, base / 'out', splits=('train',))
    return {x.name: x.read_bytes() for x in (base / 'out').iterdir()}


def of_prepared(name: str, task: str = 'class') -> fuzzed.Format:
  """Returns the format of a prepared file."""

  def read(path: pathlib.Path) -> None:
    if task == 'class':
      config = configs.of_reader('records', path.parent, task, image_size=4)
    else:
      config = coco_files.make_config(path.parent, task, image_size=4)
      config = config.copy_and_resolve_references()
      config.data.update(name='records', root=str(path.parent))
    # A config and a manifest that differ may both be right.
    codes = (*CODES, errors.USAGE) if name == 'manifest.json' else CODES
    read_all(config, path.parent, codes=codes)

  def write(folder: pathlib.Path) -> None:
    made.written(folder, prepared(task))

  return fuzzed.Format(prepared(task)[name], read, write)


# -- Annotations ---------------------------------------------------------------


def of_annotations(module: Any, name: str) -> fuzzed.Format:
  """Returns the format of a file of Open Images or of Visual Genome."""

  def read(path: pathlib.Path) -> None:
    config = module.make_config(path.parent, image_size=8)
    read_all(config, path.parent)

  with tempfile.TemporaryDirectory() as folder:
    module.write_all(pathlib.Path(folder))
    whole = (pathlib.Path(folder) / name).read_bytes()
  return fuzzed.Format(whole, read, module.write_all)


SUMS = ''.join(
  f'{hashlib.sha256(png(i)).hexdigest()}  {i}.png\n' for i in range(3)
).encode()


def read_sums(path: pathlib.Path) -> None:
  root = path.parent / 'images'
  of('image_folder', path.parent, root, checksums=str(path))


def write_images(folder: pathlib.Path) -> None:
  files = {f'images/{i}.png': png(i) for i in range(3)}
  made.written(folder, files)


LAYOUTS = {
  'images': [
    {'id': i, 'file_name': f'{i}.png', 'width': 4, 'height': 4}
    for i in range(3)
  ],
  'categories': [{'id': 5, 'name': 'tree'}, {'id': 10, 'name': 'man'}],
  'annotations': [
    {'image_id': i, 'category_id': 5, 'bbox': [0, 1, 4, 2]} for i in range(3)
  ],
}
GRAPHS = [
  {
    'file': f'{i}.png',
    'objects': [{'label': 'man', 'box': [0.25, 0, 0.5, 1]}, {'label': 'cow'}],
    'relations': [[0, 'near', 1]],
  }
  for i in range(3)
]


def read_layouts(path: pathlib.Path) -> None:
  fields = {'min_objects': 0, 'max_objects_image': 9, 'min_area': 0.0}
  fields |= {'encoder': 'boxes'}
  of('image_folder', path.parent, path.parent, task='layout', **fields)


def read_graphs(path: pathlib.Path) -> None:
  vocabulary = path.parent.parent / 'vocab.txt'
  vocabulary.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\nman\ncow\nnear\n')
  fields = {'vocab_file': str(vocabulary), 'graphs': 'file'}
  of('image_folder', path.parent, path.parent, task='scene_graph', **fields)


def write_flat(folder: pathlib.Path) -> None:
  made.written(folder, {f'{i}.png': png(i) for i in range(3)})


# By the place of the damaged file below a folder of the test.
FORMATS: dict[str, Callable[[], fuzzed.Format]] = {
  'a/ILSVRC2012_img_train.tar': lambda: fuzzed.Format(
    made.tarred(synsets()), read_train
  ),
  f'b/train/{TENCH}.tar': lambda: fuzzed.Format(
    synsets()[f'{TENCH}.tar'], read_synset, write_synset
  ),
  'c/meta.mat': lambda: fuzzed.Format(meta(), read_val, write_val),
  'd/ILSVRC2012_devkit_t12.tar.gz': lambda: fuzzed.Format(
    kit(), read_val, functools.partial(write_val, labels=False)
  ),
  'e/LOC_val_solution.csv': lambda: fuzzed.Format(
    f'ImageId,PredictionString\nILSVRC2012_val_00000001,{TENCH} 8 1 4 2 \n'
    f'ILSVRC2012_val_00000002,{RETRIEVER} 1 2 3 4 \n'.encode(),
    read_val,
    functools.partial(write_val, labels=False),
  ),
  'lsun/data.mdb': lambda: fuzzed.Format(lmdb_file(), read_lmdb),
  'ffhq.zip': lambda: fuzzed.Format(edm(), read_zip),
  'packed.zip': lambda: fuzzed.Format(edm(zipfile.ZIP_DEFLATED), read_zip),
  'ffhq/dataset.json': lambda: fuzzed.Format(
    json.dumps({'labels': [[k, v] for k, v in EDM.items()]}).encode(),
    read_labels,
    write_faces,
  ),
  'celebahq/imgHQ00001.npy': lambda: fuzzed.Format(npy(), read_npy, write_npy),
  'cifar/data_batch_2.bin': lambda: fuzzed.Format(
    CIFAR['data_batch_2.bin'], read_cifar, write_cifar
  ),
  'cifar/batches.meta.txt': lambda: fuzzed.Format(
    CIFAR['batches.meta.txt'], read_cifar, write_cifar
  ),
  'cifar.tar.gz': lambda: fuzzed.Format(
    gzip.compress(made.tarred({f'x/{k}': v for k, v in CIFAR.items()}), 1),
    read_cifar_archive,
  ),
  'mnist/train-images-idx3-ubyte.gz': lambda: fuzzed.Format(
    gzip.compress(digits()), read_digits, write_digits
  ),
  'shards/00000.tar': lambda: fuzzed.Format(shard(), read_shard),
  'metadata/00000.tar': lambda: fuzzed.Format(shard(), read_metadata),
  'parquet/train-00000-of-00001.parquet': lambda: fuzzed.Format(
    parquet(), read_parquet
  ),
  **{
    f'prepared/{name}': functools.partial(of_prepared, name)
    for name in (
      *(SHARD, f'{SHARD}.json', 'manifest.json', 'dataset_info.json'),
    )
  },
  'objects/train.index.npz': lambda: of_prepared('train.index.npz', 'layout'),
  **{
    f'openimages/{name}': functools.partial(
      of_annotations, open_images_files, name
    )
    for name in (
      *('oidv6-train-annotations-bbox.csv', 'class-descriptions-boxable.csv'),
    )
  },
  **{
    f'vg/{name}': functools.partial(of_annotations, visual_genome_files, name)
    for name in (
      *('image_data.json', 'objects.json', 'relationships.json'),
      *('vg_splits.json', 'object_alias.txt', 'relationship_alias.txt'),
    )
  },
  'SHA256SUMS': lambda: fuzzed.Format(SUMS, read_sums, write_images),
  'own/layouts.json': lambda: fuzzed.Format(
    json.dumps(LAYOUTS).encode(), read_layouts, write_flat
  ),
  'own/graphs.jsonl': lambda: fuzzed.Format(
    ''.join(json.dumps(x) + '\n' for x in GRAPHS).encode(),
    read_graphs,
    write_flat,
  ),
}
