r"""Cuts and resizes images once, for `config.data.name=records`.

  python -m pyramid_jax.commands.prepare --config=configs/ldm_imagenet.py \
      --output=DIR
  python -m pyramid_jax.commands.prepare --source=image_folder:IMAGES \
      --image_size=256 --crop=adm --task=class --output=DIR

writes the data of a config, or of a reader by name and the folder of its files,
into DIR; a run then reads it with --config.data.name=records
--config.data.root=DIR, and TensorFlow Datasets with
`tfds.builder_from_directory(DIR)`. What the images are cut by are the fields of
the config. Random crops are drawn once, mirroring stays with the run.

Images are worked on by --workers threads. Of several processes
(`--config.distributed`), each writes the shards whose index is its own modulo
their number. The same command resumes after an interruption: shards that are
written stay. A broken image is replaced as in training, and counted. Exit codes
are those of `pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.prepare')

import argparse
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import functools
import io
import itertools
import json
import os
import threading
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import file_reader
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.objects import annotated_objects
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.shards import prepared
from pyramid_jax.data.shards import tf_example
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import startup
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import progress
from pyramid_jax.runs import stopping


SPLITS = ('train', 'val')
# Of an example, what a reader makes again when it reads a record.
_MADE_AGAIN = frozenset(
  (
    *('image', 'crop', 'flipped', 'caption', 'mask'),
    *('lr_image', 'hole_strokes', 'hole_boxes', 'inpaint_mask', 'edges'),
    *('condition_ids', 'caption_ids', 'caption_mask', 'triples'),
    *('boxes', 'labels', 'box_flags', 'n_boxes', 'boxes_full'),
  )
)


def run(
  config: ConfigDict,
  output: stores.Path,
  *,
  splits: Sequence[str] = SPLITS,
  encoding: str = next(iter(prepared.ENCODINGS)),
  shard_size: int = 4096,
  workers: int = 0,
) -> None:
  """Writes the images of a config into the folder `output`.

  Args:
    config: its data, and the task that they are for.
    output: the folder.
    splits: those of the config's data.
    encoding: a key of `prepared.ENCODINGS`.
    shard_size: the images of a shard.
    workers: threads; 0 for one for each core.

  Raises:
    UserError: data that cannot be prepared, or a folder that cannot be used.
  """
  prepared.array_record()
  if config.data.buckets:
    raise errors.UserError(
      f'config.data.buckets is {config.data.buckets}, must be 0: prepared'
      ' images have one shape.'
    )
  with errors.user_errors():
    readers = {split: data.create(config, split) for split in splits}
    makers = {k: RecordMaker(x, encoding) for k, x in readers.items()}
    manifest = prepared.manifest_of(config, readers, encoding, shard_size)
  _check_room(output, manifest, makers)
  processes.decided(functools.partial(_begin, output, manifest, readers))
  process, number = processes.process_part()
  todo = [
    (split, name, range(len(makers[split]))[i * shard_size :][:shard_size])
    for split in splits
    for i, name in enumerate(
      prepared.shard_names(split, len(makers[split]), shard_size)
    )
  ][process::number]
  with futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
    most = max((len(places) for _, _, places in todo), default=0)
    with progress.Progress(range(len(todo)), most, 'shard') as numbers:
      for done in numbers:
        split, name, places = todo[done]
        if not prepared.is_written(output, name):
          fill = functools.partial(_fill, pool, makers[split], places)
          prepared.write_shard(output, name, len(places), fill)
  processes.barrier()
  if processes.is_main_process():
    replaced = prepared.finish(output, manifest)
    counts = ', '.join(f'{len(x)} of {k}' for k, x in makers.items())
    logging.info('%s in %s; %d were broken', counts, output, replaced)


def _begin(
  output: stores.Path, manifest: Mapping[str, Any], readers: Mapping[str, Any]
) -> None:
  manifests.write(output, manifest)
  for split, reader in readers.items():
    if isinstance(reader, annotated_objects.AnnotatedObjectsReader):
      file = output / prepared.index_name(split)
      whole_files.save_arrays(file, vars(reader.index))


def _check_room(
  output: stores.Path,
  manifest: Mapping[str, Any],
  makers: Mapping[str, 'RecordMaker'],
) -> None:
  """Refuses a folder without room for all that is not there yet."""
  need = 0
  for split, maker in makers.items():
    with errors.user_errors(value=errors.DATA):
      size = len(maker(0)[1])
    count, most = len(maker), manifest['shard_size']
    for i, name in enumerate(prepared.shard_names(split, count, most)):
      if not prepared.is_written(output, name):
        need += size * len(range(count)[i * most :][:most])
  errors.check_room(f'prepared images in {output}', need, output)


def _fill(
  pool: futures.Executor,
  maker: 'RecordMaker',
  places: range,
  write: Callable[[bytes], None],
) -> dict[int, int]:
  """Writes the records of some places in order; returns which were replaced."""
  replaced = {}
  for place, (found, record) in zip(
    places, _in_order(pool, maker, places), strict=True
  ):
    write(record)
    if found != place:
      replaced[place] = found
  return replaced


def _in_order(
  pool: futures.Executor,
  maker: 'RecordMaker',
  places: range,
  ahead: int = 256,
) -> Iterator[tuple[int, bytes]]:
  """Yields what the threads make, of which so many are ahead."""
  left = iter(places)
  first = itertools.islice(left, ahead)
  pending = deque(pool.submit(maker, place) for place in first)
  try:
    while pending:
      result = stopping.wait(pending.popleft())
      pending.extend(pool.submit(maker, x) for x in itertools.islice(left, 1))
      yield result
  finally:
    for future in pending:
      future.cancel()


class RecordMaker:
  """Makes the records of a split; threads may do so at the same time."""

  def __init__(self, reader: Any, encoding: str):
    """Takes a reader of files, which it changes: images are not mirrored.

    Raises:
      UserError: a reader of something else.
    """
    if not isinstance(reader, file_reader.FileReader):
      raise errors.UserError(
        'only images in files are prepared: config.data.name is none of'
        ' shapes, latents.'
      )
    reader.keep_text = True
    self._transform = _Remembering(**{**vars(reader.transform), 'flip': False})
    reader.transform = self._transform
    self._reader = reader
    self._options = prepared.ENCODINGS[encoding]
    self._order = batches_lib.Batches(reader, 1, seed=0, shuffle=False)

  def __len__(self) -> int:
    return len(self._reader)

  def __call__(self, index: int) -> tuple[int, bytes]:
    """Returns which image was taken for that of an index, and its record."""
    _, draws = self._order.order(index)
    found, example = self._reader.first_valid(index, draws[0])
    crop = self._transform.last.crop
    fields = {
      name: (value.dtype.name, value.tolist())
      for name, value in example.items()
      if name not in _MADE_AGAIN
    }
    facts = {'crop': crop.tolist(), 'fields': fields}
    features: dict[str, tf_example.Values] = {
      'image': [_encoded(example['image'], self._options)],
      'facts': [json.dumps(facts).encode()],
    }
    if 'caption' in example:
      features['caption'] = [bytes(example['caption'])]
    if 'mask' in example:
      features['mask'] = [_encoded(example['mask'], {'format': 'PNG'})]
    if isinstance(self._reader, annotated_objects.AnnotatedObjectsReader):
      features |= _objects(self._reader, found, crop)
    elif 'boxes' in example:
      raise errors.UserError(
        'images with boxes of TensorFlow Datasets are not prepared.'
      )
    else:
      label = np.asarray(example.get('class', 0))
      features['label'] = label[None] - 1
    return found, tf_example.pack(features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Remembering(transforms.Transform):
  """A transform that keeps its last crop in each thread.

  Examples have crops in float32.
  """

  last: threading.local = dataclasses.field(default_factory=threading.local)

  def __call__(
    self, *arguments: Any, **named: Any
  ) -> tuple[np.ndarray, np.ndarray, bool]:
    """Applies the transform."""
    pixels, crop, flipped = super().__call__(*arguments, **named)
    self.last.crop = crop
    return pixels, crop, flipped


def _encoded(pixels: np.ndarray, options: Mapping[str, Any]) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, **options)
  return file.getvalue()


def _objects(
  reader: annotated_objects.AnnotatedObjectsReader,
  index: int,
  crop: np.ndarray,
) -> dict[str, tf_example.Values]:
  """Returns the objects that a crop shows, as TensorFlow Datasets has them."""
  table = reader.index
  rows = np.arange(table.starts[index], table.starts[index + 1])
  boxes = table.boxes[rows]
  seen = annotated_objects.visible(boxes, crop, len(rows))
  cut = annotated_objects.boxes_in_crop(boxes[seen], crop, flipped=False)
  rows = rows[seen]
  return {
    'objects/bbox': cut[:, [1, 0, 3, 2]].astype(np.float32),
    'objects/label': table.labels[rows] - 1,
    'objects/is_crowd': table.flags[rows] & 1,
  }


def _config(flags: argparse.Namespace) -> ConfigDict:
  """Returns the config of the flags, without overrides.

  Raises:
    UserError: neither or both of --config and --source, or a flag that the
      config decides.
  """
  if (flags.config is None) == (flags.source is None):
    raise errors.UserError(
      'one of --config=FILE.py and --source=NAME:ROOT is needed.'
    )
  given = {
    'data.image_size': flags.image_size,
    'condition.task': flags.task,
    'data.crop': flags.crop,
    'data.eval_crop': flags.crop,
  }
  given = {name: value for name, value in given.items() if value is not None}
  if flags.config is not None:
    if given:
      name = next(iter(given))
      raise errors.UserError(
        f'--{name.partition(".")[2]} is for --source; give --config.{name}.'
      )
    return config_lib.load(flags.config)
  name, colon, root = flags.source.partition(':')
  if not colon or not root:
    raise errors.UserError(f'--source={flags.source} must be NAME:ROOT.')
  fields = {'data.name': name, 'data.root': root, **given}
  fields.setdefault('data.image_size', 256)
  config = config_lib.base('ldm')
  config_lib.override(config, {k: str(v) for k, v in fields.items()})
  return config


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.prepare',
    description='Cuts and resizes images once.',
  )
  add = parser.add_argument
  add('--config', type=command_line.path, help='FILE.py[:variant,...]')
  add('--source', help='NAME:ROOT, a reader and the folder of its files')
  folder = command_line.folder('--output')
  add('--output', required=True, type=folder, help='to write')
  positive = command_line.above_zero(int)
  add('--image_size', type=positive, help='of --source; 256 by default')
  add('--crop', choices=transforms.CROPS, help='of --source')
  add('--task', help='that the images of --source are for')
  add('--splits', default=','.join(SPLITS), help='train,val by default')
  names = list(prepared.ENCODINGS)
  add('--encoding', choices=names, default=names[0], help='of the images')
  add('--shard_size', type=positive, default=4096, help='images of a shard')
  at_least = command_line.at_least(0)
  add('--workers', type=at_least, default=0, help='threads; 0: all cores')

  def body(flags: argparse.Namespace, config: Any) -> None:
    splits = tuple(flags.splits.split(','))
    if not set(splits) <= set(data.SPLITS):
      raise errors.UserError(
        f'--splits={flags.splits}: must be of {",".join(data.SPLITS)}.'
      )
    with stopping.listening(), startup.joined(config.distributed):
      run(
        config,
        flags.output,
        splits=splits,
        encoding=flags.encoding,
        shard_size=flags.shard_size,
        workers=flags.workers,
      )

  return command_line.run(parser, body, arguments, _config)
