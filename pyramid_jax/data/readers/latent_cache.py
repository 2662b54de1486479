"""Latents computed beforehand: how they lie on disk, and their reader.

A folder holds `manifest.json`, which says what the latents are of and which
autoencoder made them, and shards: `SPLIT-00000.npz`, each beside a `.json` with
its SHA-256. A shard has `latent_mean_S` (N, h, w, C) float16 of every scale S,
coarse first; `latent_std_0` of a Kullback-Leibler autoencoder; the same of the
mirrored images under `flipped_...`, where asked for; and whatever else the
examples have for the networks. `pyramid_jax.commands.cache_latents` writes it.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import buckets as buckets_lib
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data import shard_sums
from pyramid_jax.files import arrays
from pyramid_jax.files import copies
from pyramid_jax.files import digests
from pyramid_jax.files import remote_path
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib
from pyramid_jax.runs import whole_files


MANIFEST = 'manifest.json'
FORMAT = 1
SPLIT = 'train'
FLIPPED = 'flipped_'
LATENTS = ('latent_mean_', 'latent_std_')
# Fields that a cache fixes; a run that uses it must have the same.
FIXED = {
  'data': ('image_size', 'level', 'max_objects', 'lr_factor', 'maps'),
  'condition': (
    *('task', 'also', 'encoder', 'max_length'),
    *('max_objects', 'no_tokens', 'encode_crop', 'shift'),
  ),
}
# Images that are encoded with the condition cannot be cached; places would
# have to be mirrored with the image.
UNSERVED = ('inpaint',)
FLIPPABLE = ('none', 'class')
_STREAM = 300  # word of the hash that mirrors


# The same, of tasks with labels and with texts, which came later: manifest of
# a cache without them -> the value that it was made with.
LATER: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
  'data.category_file': lambda m: m['data'].get('category_file', ''),
  'data.unlisted_categories': lambda m: 'append',
  'condition.drop_full_stops': lambda m: m['data'].get('name') == 'coco',
}


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that a cache fixes, those that are not empty."""
  d, c = config.data, config.condition
  fields = {
    f'{section}.{field}': config[section][field]
    for section, fields in FIXED.items()
    for field in fields
    if config[section].get(field, ()) != ()
  }
  if c.task in reader_lib.LABELLED:
    fields['data.category_file'] = d.category_file
    fields['data.unlisted_categories'] = d.unlisted_categories
  if c.task in tokenizers.TEXT_TASKS:
    fields['condition.drop_full_stops'] = c.drop_full_stops
  return fields


def encoded(
  network: first_stages.Network, params: Any, image: jax.Array
) -> dict[str, jax.Array]:
  """Returns the latents of images (B, H, W, 3) in [-1, 1] as shards have them.

  Args:
    network: the first stage.
    params: its weights.
    image: the images.
  """
  apply = lambda method: params_lib.apply(network, params, image, method=method)
  if network.is_stochastic:
    mean, logvar = apply('posterior')
    arrays = {'latent_mean_0': mean, 'latent_std_0': jnp.exp(0.5 * logvar)}
  else:
    arrays = {f'latent_mean_{s}': z for s, z in enumerate(apply('encode'))}
  return {k: v.astype(jnp.float16) for k, v in arrays.items()}


def shard_name(index: int) -> str:
  """Returns the file of a shard."""
  return f'{SPLIT}-{index:05d}.npz'


def write_manifest(folder: stores.Path, manifest: Mapping[str, Any]) -> None:
  """Writes the manifest of a cache, or compares it with the existing one.

  Raises:
    UserError: the folder holds another cache.
  """
  file = folder / MANIFEST
  if not file.is_file():
    whole_files.save_text(file, json.dumps(manifest, indent=2) + '\n')
    return
  was = shard_sums.read_json(file)
  for name in manifest:
    if was.get(name) != _as_json(manifest[name]):
      raise errors.UserError(
        f'{folder} holds another cache: its {name} is {was.get(name)!r}, not'
        f' {manifest[name]!r}.',
        errors.OUTPUT,
      )


def write_shard(
  folder: stores.Path, index: int, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes a shard of arrays (N, ...), then the file that makes it count."""
  file = folder / shard_name(index)
  whole_files.remove_left(file)
  whole_files.save_arrays(file, arrays)
  digest = retries.repeat(lambda: digests.sha256(file), file)
  record = {'sha256': digest, 'count': len(next(iter(arrays.values())))}
  whole_files.save_text(file.with_suffix('.json'), json.dumps(record))


def is_there(folder: stores.Path, index: int) -> bool:
  """Whether there are the files of a shard."""
  file = folder / shard_name(index)
  return file.is_file() and file.with_suffix('.json').is_file()


def is_written(folder: stores.Path, index: int) -> bool:
  """Whether a shard is there, whole."""
  file = folder / shard_name(index)
  if not is_there(folder, index):
    return False
  return shard_sums.of_record(file) == digests.sha256(file)


def _as_json(value: Any) -> Any:
  return json.loads(json.dumps(value))


def _manifest(folder: stores.Path) -> dict[str, Any]:
  """Returns the manifest of a cache; one that is none is a UserError."""
  file = folder / MANIFEST
  found = shard_sums.read_json(file)
  if found.get('format') != FORMAT:
    raise errors.UserError(
      f'{file} has format {found.get("format")!r}, needed {FORMAT}.',
      errors.DATA,
    )
  for name, (words, test) in _FIELDS.items():
    value = found.get(name)
    if not test(value):
      raise errors.UserError(
        f'{file} has "{name}": {value!r:.60}, must be {words}.', errors.DATA
      )
  shards = -(-found['count'] // found['shard_size'])
  if shards > limits.LATENT_SHARDS:
    raise errors.UserError(
      f'{file} is of {shards} shards, at most {limits.LATENT_SHARDS} are read.',
      errors.DATA,
    )
  return found


def _is_source(value: Any) -> bool:
  names = ('name', 'root')
  is_text = lambda name: isinstance(value.get(name), str)
  return isinstance(value, dict) and all(map(is_text, names))


def _are_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


# Fields of a manifest: what they must be, and a test of it.
_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
  'autoencoder': ('a text', lambda x: isinstance(x, str)),
  'data': ('the fields of the data', _is_source),
  'fixed': ('an object', lambda x: isinstance(x, dict)),
  'label_names': ('a list of texts', _are_texts),
  'count': ('a number from 0', lambda x: type(x) is int and x >= 0),
  'shard_size': ('a number from 1', lambda x: type(x) is int and x >= 1),
  'flips': ('true or false', lambda x: isinstance(x, bool)),
}


def _without_record(folder: stores.Path, names: Sequence[str]) -> list[str]:
  """Returns which of the shards in a folder are not there or not whole."""
  if stores.is_remote(folder):
    there = remote_path.RemotePath(folder).entries()
    is_there = lambda path: path.name in there
  else:
    is_there = pathlib.Path.is_file
  return [n for n in names if not is_there((folder / n).with_suffix('.json'))]


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = (SPLIT,)
) -> list[str]:
  """Returns 'path (what it is)' of what is not there."""
  del splits
  if not config.data.root:
    return ['the folder of latents (config.data.root is empty)']
  file = stores.path(config.data.root).expanduser() / MANIFEST
  return [] if file.is_file() else [f'{file} (latents, config.data.root)']


def source(config: ConfigDict) -> ConfigDict:
  """Returns the config of the data that a cache was made of.

  Raises:
    UserError: the cache cannot be read.
  """
  folder = stores.path(config.data.root).expanduser()
  fields = _manifest(folder)['data']
  copy = ConfigDict(config.to_dict())
  copy.data.name, copy.data.root = fields['name'], fields['root']
  return copy


class LatentReader:
  """Reads a cache in place of the training images (see `reader.Reader`).

  Examples have the latents, and all that the networks are conditioned on, but
  not the image. The SHA-256 of shards are checked as `shard_sums` says.
  """

  buckets: buckets_lib.Buckets | None = None  # all images have one shape

  def __init__(self, config: ConfigDict, split: str):
    """Opens a cache of the training split; others are read from the source.

    Raises:
      UserError: a cache that is damaged, incomplete or of another config.
    """
    if split != SPLIT:
      raise ValueError(f'latents are cached for train only, not for {split}.')
    self._folder = stores.path(config.data.root).expanduser()
    manifest = _manifest(self._folder)
    for name, value in fixed_fields(config).items():
      was = manifest['fixed'].get(name)
      if name in LATER and name not in manifest['fixed']:
        was = LATER[name](manifest)
      if was != _as_json(value):
        raise errors.UserError(
          f'config.{name} is {value!r}, the latents in {self._folder} are of'
          f' {was!r:.200}.'
        )
    self.autoencoder: str = manifest['autoencoder']
    self.label_names = tuple(manifest['label_names'])
    self.id_counts = id_ranges.counts(config, self.label_names, None)
    self.report: dict[str, int] = {}
    self._flips = manifest['flips']
    self._size = manifest['shard_size']
    self._length = manifest['count']
    self._open = functools.cache(self._checked)
    self._rows: dict[str, tuple[int, ...]] | None = None  # their shapes
    self._workers = config.data.workers
    self._shards = [
      shard_name(i) for i in range(-(-self._length // self._size))
    ]
    absent = _without_record(self._folder, self._shards)
    if absent:
      raise errors.UserError(
        f'{self._folder} lacks {len(absent)} of its shards, the first is'
        f' {absent[0]}; run the command that writes it again.',
        errors.MISSING,
      )
    self._are_verified = False

  def verify(self) -> None:
    """Compares the shards, where several processes share the work.

    All of them call it, before the first batch.

    Raises:
      UserError: a shard that is damaged or not there.
    """
    self._are_verified = shard_sums.verify_together(
      [self._folder / name for name in self._shards], self._workers
    )

  def _checked(self, index: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a shard, mapped into memory."""
    file = self._folder / shard_name(index)
    found = mapped(file if self._are_verified else shard_sums.verified(file))
    self._check_rows(file, found, index)
    return found

  def _check_rows(
    self, file: pathlib.Path, found: Mapping[str, np.ndarray], index: int
  ) -> None:
    """Raises a UserError for arrays that are not those of the other shards."""
    count = min(self._size, self._length - index * self._size)
    rows = {name: np.shape(x)[1:] for name, x in found.items()}
    if self._rows is None:
      self._rows = rows
    is_whole = all(np.shape(x)[:1] == (count,) for x in found.values())
    mirrored = {FLIPPED + name for name in rows if name.startswith(LATENTS)}
    lacks_flips = self._flips and not mirrored <= rows.keys()
    if rows != self._rows or not is_whole or lacks_flips:
      raise errors.UserError(
        f'{file} does not have {count} rows of the arrays of the other shards'
        ' and its manifest.',
        errors.DATA,
      )

  def identity(self) -> identity.Identity:
    """Returns the shards and what they are of; see `reader.Reader`."""
    with futures.ThreadPoolExecutor(self._workers) as pool:
      paths = (self._folder / name for name in self._shards)
      sums = list(pool.map(shard_sums.of_record, paths))
    return {
      identity.SHARDS: dict(zip(self._shards, sums, strict=True)),
      identity.SOURCE: {
        'autoencoder': self.autoencoder,
        'images': self._length,
        'flips': self._flips,
      },
    }

  def __len__(self) -> int:
    return self._length

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns stacked examples; `draws` decides which are mirrored."""
    flips = np.zeros(len(indices), bool)
    if self._flips:
      flips = hashing.below(2, np.asarray(draws), _STREAM) == 1
    columns: dict[str, list[np.ndarray]] = {}
    for index, flip in zip(np.asarray(indices), flips, strict=True):
      shard, row = divmod(int(index), self._size)
      columns_of = self._open(shard)
      for name in columns_of:
        if not name.startswith(FLIPPED):
          mirrored = flip and name.startswith(LATENTS)
          stored = columns_of[f'{FLIPPED}{name}' if mirrored else name]
          columns.setdefault(name, []).append(stored[row])
    return {name: np.stack(rows) for name, rows in columns.items()}

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the batch: its arrays were finished before they were stored."""
    return dict(batch)


def mapped(file: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an uncompressed .npz without reading them.

  Raises:
    UserError: not such a file.
  """
  found: dict[str, np.ndarray] = {}
  try:
    here = copies.local(file)
    with arrays.opened(here) as archive:
      for name in archive:
        with archive.member(name) as (header, _):
          if header.place is None:
            raise ValueError(f'{name} is compressed')
          if header.is_fortran:
            raise ValueError(f'{name} is in Fortran order')
        found[name] = np.memmap(
          here, header.dtype, 'r', header.place, header.shape
        )
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{file}: {error}', errors.DATA) from error
  return found


def verify(reader: Any) -> None:
  """Verifies latents as `LatentReader.verify` does, other data not at all."""
  if isinstance(reader, LatentReader):
    reader.verify()


def check(reader: Any, digests: Mapping[str, str]) -> None:
  """Raises a UserError for latents that another autoencoder made.

  `digests` are of the frozen parts of the system.
  """
  if not isinstance(reader, LatentReader):
    return
  got = digests.get('first_stage')
  if got != reader.autoencoder:
    raise errors.UserError(
      f'the latents in config.data.root were made by the autoencoder'
      f' {reader.autoencoder}, the first stage of this run is {got}.',
      errors.DATA,
    )
