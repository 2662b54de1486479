r"""How fast images come from disk, beside what the planned chips take.

  python benchmarks/data.py [--rounds=5] [--images=512] [--workers=N] \
      [--files=1281167] [--small]

On an idle machine. The images are photographs of scikit-image at 640 x 480 in
JPEG. What is compared is timed in turn within one run: decoding, cutting and
resizing to 256 px by the threads of the pipeline, by processes that write into
shared memory, and by a bare loop of Pillow on one core; then prepared images by
their encoding, tar shards of JPEG, and latents of 32 x 32 x 4 with deviations.
`--files` are empty ones in 1,000 folders, whose index is built and then loaded.
At last the pipeline's rates beside the images per second that plans promise to
4 chips, with the cores that a host would need. `--small` takes 8 images at a
time, so that its rates are those of starting threads.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import io
import json
import math
import multiprocessing
from multiprocessing import shared_memory
import os
import pathlib
import statistics
import tarfile
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
import measuring
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import skimage.data

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.commands import prepare
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import prefetching
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.data.shards import prepared
from pyramid_jax.data.storage import folder_index


_IMAGES = flags.DEFINE_integer('images', 512, 'images of a timing')
_FILES = flags.DEFINE_integer('files', 1_281_167, 'of the index; 0: none')
_WORKERS = flags.DEFINE_integer('workers', 0, 'threads; 0: all cores')

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDE = 256
WIDE = (640, 480)
FILES = 64  # different images
BATCH = 64
LATENT = (32, 32, 4)
LATENTS = 16_384  # of a timing
CHIPS = 4  # of a host

Run = Callable[[], Any]


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  with tempfile.TemporaryDirectory() as folder:
    base = pathlib.Path(folder)
    paths = _photographs(base / 'images', 4 if measuring.SMALL.value else FILES)
    rates = {'images': _decoding(base, paths), **_stored(base, paths)}
    _indexed(base / 'many', base / 'indices')
  _shortfalls(rates)


def _count() -> int:
  return 8 if measuring.SMALL.value else _IMAGES.value


def _workers() -> int:
  return _WORKERS.value or os.cpu_count() or 1


def _photographs(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
  """Writes photographs, turned a little so that all differ."""
  folder.mkdir()
  names = 'astronaut', 'coffee', 'chelsea', 'rocket'
  given = [Image.fromarray(getattr(skimage.data, x)()[..., :3]) for x in names]
  paths = []
  for i in range(count):
    image = given[i % len(given)].rotate(i / 4, Image.Resampling.BICUBIC)
    paths.append(folder / f'{i:03d}.jpg')
    image.resize(WIDE, Image.Resampling.LANCZOS).save(paths[-1], quality=90)
  return paths


def _config(name: str, root: pathlib.Path) -> ConfigDict:
  config = config_lib.base('ldm')
  config.data.update(name=name, root=str(root), image_size=SIDE)
  config.data.update(crop='center', eval_crop='center', flip=True)
  return config


def _bare(path: pathlib.Path) -> np.ndarray:
  """Decodes, cuts and resizes as few calls as can be."""
  with path.open('rb') as file:
    content = file.read()
  side, left = WIDE[1], (WIDE[0] - WIDE[1]) // 2
  image = Image.open(io.BytesIO(content)).convert('RGB')
  box = (left, 0, left + side, side)
  return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))


def _read(reader: Any, threads: int, count: int = 0) -> None:
  """Takes batches as a run does."""
  count = count or _count()
  size = min(BATCH, count)
  order = batches_lib.Batches(reader, size, seed=0)
  steps = -(-count // size)
  with prefetching.prefetch(order, 0, steps, dict, threads=threads) as ready:
    for _ in ready:
      pass


def _in_turn(runs: dict[str, Run]) -> dict[str, tuple[float, float]]:
  """Returns the medians of wall and CPU seconds; the runs alternate."""
  for run in runs.values():
    run()
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
  for turn in range(measuring.rounds()):
    for name in list(runs)[:: -1 if turn % 2 else 1]:
      start, used = time.monotonic(), time.process_time()
      runs[name]()
      spent = time.monotonic() - start, time.process_time() - used
      times[name].append(spent)
  return {
    name: tuple(statistics.median(x) for x in zip(*kept, strict=True))
    for name, kept in times.items()
  }


class _Processes:
  """Processes that decode into memory which they share."""

  def __init__(self, config: ConfigDict, number: int):
    self._memory = shared_memory.SharedMemory(
      create=True, size=_count() * SIDE * SIDE * 3
    )
    start = config.to_json(), self._memory.name, _count()
    context = multiprocessing.get_context('spawn')
    self._pool = context.Pool(number, _start, start)

  def run(self) -> None:
    self._pool.map(_write, range(_count()), chunksize=8)

  def close(self) -> None:
    self._pool.terminate()
    self._pool.join()
    self._memory.close()
    self._memory.unlink()


_here: dict[str, Any] = {}  # of one of these processes


def _start(config: str, memory: str, count: int) -> None:
  _here['memory'] = shared_memory.SharedMemory(memory)
  _here['images'] = np.ndarray(
    (count, SIDE, SIDE, 3), np.uint8, _here['memory'].buf
  )
  given = ConfigDict(json.loads(config))
  _here['reader'] = data.create(given, 'train')


def _write(place: int) -> None:
  reader = _here['reader']
  row = reader.row(place % len(reader), np.uint64(place))
  _here['images'][place] = row['image']


def _decoding(base: pathlib.Path, paths: Sequence[pathlib.Path]) -> float:
  """Prints how fast files are decoded; returns the images/s of the threads."""
  config = _config('image_folder', base / 'images')
  reader, count = data.create(config, 'train'), _count()
  chosen = [paths[i % len(paths)] for i in range(count)]
  others = _Processes(config, _workers())
  try:
    times = _in_turn(
      {
        'bare loop, 1 core': lambda: [_bare(path) for path in chosen],
        'pipeline, 1 thread': lambda: _read(reader, 1),
        f'pipeline, {_workers()} threads': lambda: _read(reader, _workers()),
        f'{_workers()} processes': others.run,
      }
    )
  finally:
    others.close()
  (bare, _), *_ = times.values()
  print(f'JPEG of {WIDE[0]} x {WIDE[1]} to {SIDE} px, {os.cpu_count()} cores')
  measuring.print_table(
    (
      'decoding',
      'images/s',
      'CPU ms an image',
      '% of bare loops',
    ),
    (
      (
        name,
        f'{count / wall:.0f}',
        f'{1e3 * used / count:.2f}',
        f'{100 * bare / wall / _cores(name):.0f}',
      )
      for name, (wall, used) in times.items()
    ),
  )
  return count / times[f'pipeline, {_workers()} threads'][0]


def _cores(name: str) -> int:
  is_one = '1 core' in name or '1 thread' in name
  return 1 if is_one else min(_workers(), os.cpu_count() or 1)


def _stored(
  base: pathlib.Path, paths: Sequence[pathlib.Path]
) -> dict[str, float]:
  """Prints how fast stored images are read; returns images/s by kind."""
  readers, sizes = {}, {}
  for encoding in prepared.ENCODINGS:
    folder = base / encoding
    config = _config('image_folder', base / 'images')
    prepare.run(config, folder, splits=('train',), encoding=encoding)
    readers[encoding] = data.create(_config('records', folder), 'train')
    shards = folder.glob('*.array_record-*-of-?????')
    size = sum(x.stat().st_size for x in shards)
    sizes[encoding] = size / len(readers[encoding])
  tar = _tar(base / 'tar', paths)
  readers['tar shards'] = data.create(
    _config('tar_shards', tar.parent), 'train'
  )
  sizes['tar shards'] = tar.stat().st_size / len(paths)
  readers['latents'] = _latents(base / 'latents')
  sizes['latents'] = 2 * 2 * np.prod(LATENT)
  many = LATENTS if not measuring.SMALL.value else _count()
  counts = {name: _count() for name in readers} | {'latents': many}
  times = _in_turn(
    {
      name: functools.partial(_read, reader, _workers(), counts[name])
      for name, reader in readers.items()
    }
  )
  rates = {name: counts[name] / wall for name, (wall, _) in times.items()}
  measuring.print_table(
    ('stored, 256 px', 'images/s', 'CPU ms an image', 'KiB an image'),
    (
      (
        name,
        f'{rates[name]:.0f}',
        f'{1e3 * used / counts[name]:.3f}',
        f'{sizes[name] / 1024:.0f}',
      )
      for name, (_, used) in times.items()
    ),
  )
  best = max(rates[name] for name in prepared.ENCODINGS)
  others = {name: rates[name] for name in ('tar shards', 'latents')}
  return {'records': best, **others}


def _tar(folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> pathlib.Path:
  """Writes a shard of photographs of 256 px with captions."""
  folder.mkdir()
  shard = folder / '00000.tar'
  with tarfile.open(shard, 'w', format=tarfile.USTAR_FORMAT) as tar:
    for path in paths:
      file = io.BytesIO()
      Image.fromarray(_bare(path)).save(file, 'JPEG', quality=95)
      for suffix, content in (('jpg', file.getvalue()), ('txt', b'a photo')):
        info = tarfile.TarInfo(f'{path.stem}.{suffix}')
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
  return shard


def _latents(folder: pathlib.Path) -> latent_cache.LatentReader:
  """Writes latents of a Kullback-Leibler autoencoder; returns their reader."""
  count = 64 if measuring.SMALL.value else 2048
  config = _config('latents', folder)
  rng = np.random.default_rng(0)
  names = ('latent_mean_0', 'latent_std_0')
  rows = {
    name: rng.normal(size=(count, *LATENT)).astype(np.float16) for name in names
  }
  manifest = {
    'format': latent_cache.FORMAT,
    'autoencoder': '',
    'data': {'name': 'shapes', 'root': ''},
    'fixed': latent_cache.fixed_fields(config),
    'label_names': [''],
    'count': count,
    'shard_size': count,
    'flips': False,
    'layout': fixed_records.Layout.of(rows).json(),
  }
  manifests.write(folder, manifest)
  latent_cache.shards(folder, manifest).write(0, rows)
  return latent_cache.LatentReader(config, 'train')


def _indexed(folder: pathlib.Path, cache: pathlib.Path) -> None:
  """Prints how long the index of many files takes, built and then loaded."""
  count = 1000 if measuring.SMALL.value else _FILES.value
  if not count:
    return
  names = [folder / f'{i:03d}' for i in range(min(count, 1000))]
  for i, place in enumerate(names):
    place.mkdir(parents=True)
    for number in range(i, count, len(names)):
      os.close(os.open(place / f'{number:07d}.jpg', os.O_CREAT | os.O_WRONLY))
  time.sleep(4)  # Folders that have just changed are not kept.

  def rows() -> Iterator[Sequence[str]]:
    for what in ('built', 'loaded'):
      start = time.monotonic()
      found = folder_index.find_images(folder, 'files', cache)
      yield what, f'{len(found.files)}', f'{time.monotonic() - start:.2f}'

  measuring.print_table(('index', 'files', 's'), rows())


def _plans() -> Iterator[tuple[str, float, bool]]:
  """Yields each planned training run: its name, images/s of a chip, data.

  Of runs that differ by the mesh alone it is the fastest.
  """
  fastest: dict[tuple[str, bool], float] = {}
  for file in sorted(ROOT.glob('benchmarks/plans/*/plan.json')):
    given = json.loads((file.parent / 'row.json').read_text())['flags']
    if '--programs=train' not in given:
      continue
    plan = json.loads(file.read_text())
    name = f'{plan["config"].removeprefix("configs/")}, {plan["topology"]}'
    rate = plan['images_per_second'] / plan['chips']
    key = name, '--config.data.name=latents' in given
    fastest[key] = max(rate, fastest.get(key, 0.0))
  for (name, is_cached), rate in fastest.items():
    yield name, rate, is_cached


def _shortfalls(rates: dict[str, float]) -> None:
  """Prints what planned runs take of a host beside what this machine gives.

  A plan is an upper bound, and so are its cores.
  """
  cores = min(_workers(), os.cpu_count() or 1)

  def rows() -> Iterator[Sequence[str]]:
    for name, rate, is_cached in _plans():
      need = CHIPS * rate
      for kind, there in rates.items():
        lacks = max(0.0, need - there)
        yield (
          name,
          f'{kind}{", planned" if is_cached == (kind == "latents") else ""}',
          f'{need:.0f}',
          f'{there:.0f}',
          f'{lacks:.0f}',
          f'{math.ceil(need / there * cores)}',
        )

  measuring.print_table(
    (
      *('plan', 'data', f'{CHIPS} chips take, images/s'),
      *('this machine gives', 'lacking', 'cores that fill it'),
    ),
    rows(),
  )


if __name__ == '__main__':
  measuring.run(main)
