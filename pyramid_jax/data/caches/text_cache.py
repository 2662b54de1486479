"""Texts encoded beforehand: how they lie on disk, and what reads them.

A folder holds `manifest.json`, which names the encoder by its hash; the file
`keys-00000.records` with the sorted keys of the texts, each a hash of its ids;
and the shards of `records` in the order of the keys: `texts-00000.records`. A
record has `condition_ids` (L,), the ids of a text, and `condition_tokens`, what
the encoder makes of them, in the element type that it has in training. The
empty text, the null condition, is one of them.
`pyramid_jax.commands.cache_texts` writes it.

A text is looked up by its ids, so captions may be drawn from several, and a
cache serves every reader and order of the same texts and the same tokenizer.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import hashlib
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.conditioning import stored_tokens
from pyramid_jax.conditioning import tokens as tokens_lib
from pyramid_jax.data import identity
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.caches import manifests
from pyramid_jax.files import stores


FORMAT = 1
PART = 'condition'  # the pretrained part with the weights of the encoder
FIELD = 'condition.cache'
TEXTS = 'texts'
_KEYS = 'keys'
_KEY_BYTES = 8
# Fields that a cache fixes; a run that uses it must have the same.
_FIXED = ('encoder', 'max_length', 'pooled', 'drop_full_stops')
_FIELDS: manifests.Fields = {
  **manifests.COMMON,
  'encoder': ('a text', lambda x: isinstance(x, str)),
}
_COMMAND = (
  'python -m pyramid_jax.commands.cache_texts --config=CONFIG --output=NEW'
)


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that a cache fixes."""
  fields = {f'condition.{name}': config.condition[name] for name in _FIXED}
  return {**fields, 'dtype': config.dtype}


def keys_of(ids: np.ndarray) -> np.ndarray:
  """Returns the keys (N,) uint64 of ids (N, L) int32."""
  rows = np.ascontiguousarray(ids, '<i4')
  sums = (hashlib.blake2b(x, digest_size=_KEY_BYTES).digest() for x in rows)
  return np.frombuffer(b''.join(sums), '<u8')


def in_order(ids: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the keys (N,) of different texts, rising, and their ids (N, L).

  Raises:
    ValueError: two texts have one key, which does not happen by chance.
  """
  rows = np.stack([np.frombuffer(x, '<i4') for x in _different(ids)])
  keys = keys_of(rows)
  order = np.argsort(keys)
  keys = keys[order]
  if (keys[1:] == keys[:-1]).any():
    raise ValueError('two texts have the same key')
  return keys, rows[order]


def _different(ids: Iterable[np.ndarray]) -> list[bytes]:
  return list(dict.fromkeys(np.asarray(x, '<i4').tobytes() for x in ids))


def layout_of(encoder: tokens_lib.PretrainedEncoder) -> fixed_records.Layout:
  """Returns the layout of the records of an encoder's texts."""
  shape = stored_tokens.shape_of(encoder)
  return fixed_records.Layout.of(
    {
      stored_tokens.IDS: np.zeros((1, encoder.max_length), np.int32),
      stored_tokens.KEY: jax.ShapeDtypeStruct((1, *shape.shape), shape.dtype),
    }
  )


def shards(
  folder: stores.Path, manifest: Mapping[str, Any]
) -> fixed_records.Shards:
  """Returns the shards of a cache, given its manifest."""
  layout = fixed_records.Layout.of_json(manifest['layout'])
  size, count = manifest['shard_size'], manifest['count']
  return fixed_records.Shards(folder, TEXTS, layout, size, count)


def keys(folder: stores.Path, count: int) -> fixed_records.Shards:
  """Returns the file of the keys: one record of all of them."""
  layout = fixed_records.Layout.of({_KEYS: np.zeros((1, count), np.uint64)})
  return fixed_records.Shards(folder, _KEYS, layout, 1, 1)


def write_keys(folder: stores.Path, values: np.ndarray) -> None:
  """Writes the keys (N,) uint64 of a cache."""
  keys(folder, len(values)).write(0, {_KEYS: values[None]})


def missing_inputs(config: ConfigDict) -> list[str]:
  """Returns 'path (what it is)' of what is not there."""
  if not config.condition.cache:
    return []
  file = stores.path(config.condition.cache).expanduser() / manifests.NAME
  return [] if file.is_file() else [f'{file} (texts, config.{FIELD})']


class TextCache:
  """The encoded texts of `config.condition.cache`, an `added_arrays.Source`."""

  def __init__(self, config: ConfigDict, encoder: tokens_lib.PretrainedEncoder):
    """Opens a cache; `encoder` is that of the run.

    Raises:
      UserError: a cache that is damaged, incomplete or of another config.
    """
    self.folder = stores.path(config.condition.cache).expanduser()
    manifest = manifests.read(self.folder, FORMAT, _FIELDS, _COMMAND)
    manifests.check_fixed(self.folder, manifest, fixed_fields(config))
    self.encoder: str = manifest['encoder']
    self._shards = shards(self.folder, manifest)
    wanted = layout_of(encoder)
    if self._shards.layout != wanted:
      raise errors.UserError(
        f'the cache in {self.folder} (config.{FIELD}) has records of'
        f' {self._shards.layout.json()}, the encoder of this run makes'
        f' {wanted.json()}.',
        errors.DATA,
      )
    self.sizes = self._shards.check()
    file = keys(self.folder, self._shards.count)
    self.sizes |= file.check()
    self._keys = file.read(np.zeros(1, np.int64))[_KEYS][0]
    self.null = self.tokens(stored_tokens.null_ids(encoder)[None])[0]
    self.made_by = {PART: self.encoder}

  def arrays(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `condition_tokens` (B, L', D) of the texts of a batch."""
    return {stored_tokens.KEY: self.tokens(batch[stored_tokens.IDS])}

  def identity(self) -> identity.Identity:
    """Returns the encoder, and the sizes of the files."""
    return {TEXTS: {'encoder': self.encoder, **self.sizes}}

  def tokens(self, ids: np.ndarray) -> np.ndarray:
    """Returns the encodings (B, L', D) of ids (B, L) int32.

    Raises:
      UserError: a text that the cache does not have, or a damaged record.
    """
    wanted = keys_of(ids)
    places = np.searchsorted(self._keys, wanted)
    places = np.minimum(places, max(len(self._keys) - 1, 0))
    absent = np.flatnonzero(self._keys[places] != wanted)
    if not absent.size:
      found = self._shards.read(places)
      same = (found[stored_tokens.IDS] == ids).all(axis=1)
      absent = np.flatnonzero(~same)
    if absent.size:
      raise errors.UserError(
        f'the cache in {self.folder} (config.{FIELD}) does not have the text'
        f' with the ids {ids[absent[0]].tolist()!s:.80}...: it is of other'
        ' texts or of another vocabulary.',
        errors.DATA,
      )
    return found[stored_tokens.KEY]
