"""What a cache is of: the file `manifest.json` beside its shards."""

from collections.abc import Callable
from collections.abc import Mapping
import json
from typing import Any

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import identity as identity_lib
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


NAME = 'manifest.json'
# By field: what it must be, and a test of it.
Fields = Mapping[str, tuple[str, Callable[[Any], bool]]]


def _is_layout(value: Any) -> bool:
  try:
    fixed_records.Layout.of_json(value)
  except ValueError:
    return False
  return True


COMMON: Fields = {
  'fixed': ('an object', lambda x: isinstance(x, dict)),
  'count': ('a number from 0', lambda x: type(x) is int and x >= 0),
  'shard_size': ('a number from 1', lambda x: type(x) is int and x >= 1),
  'layout': ('the types and shapes of arrays', _is_layout),
}


def write(folder: stores.Path, manifest: Mapping[str, Any]) -> None:
  """Writes the manifest of a cache, or compares it with the existing one.

  Raises:
    UserError: the folder holds another cache.
  """
  whole_files.make_folder(folder)
  file = folder / NAME
  if not file.is_file():
    whole_files.save_text(file, json.dumps(manifest, indent=2) + '\n')
    return
  was = json_object(file)
  for name, value in _as_json(manifest).items():
    if was.get(name) != value:
      raise errors.UserError(
        f'{folder} holds another cache: its {name} is {was.get(name)!r:.200},'
        f' not {value!r:.200}.',
        errors.OUTPUT,
      )


def read(
  folder: stores.Path, number: int, fields: Fields, command: str
) -> dict[str, Any]:
  """Returns the manifest of a cache.

  Args:
    folder: of the cache.
    number: of the format.
    fields: what a manifest must have; the number of shards is bounded where
      `count` is among them.
    command: that writes a cache.

  Raises:
    UserError: one of another format, or none.
  """
  file = folder / NAME
  found = json_object(file)
  if found.get('format') != number:
    raise errors.UserError(
      f'{file} has format {found.get("format")!r:.60}, needed {number}: make'
      f' the cache anew with `{command}`.',
      errors.DATA,
    )
  for name, (words, test) in fields.items():
    value = found.get(name)
    if not test(value):
      raise errors.UserError(
        f'{file} has "{name}": {value!r:.60}, must be {words}.', errors.DATA
      )
  if 'count' not in fields:
    return found
  shards = -(-found['count'] // found['shard_size'])
  if shards > limits.CACHE_SHARDS:
    raise errors.UserError(
      f'{file} is of {shards} shards, at most {limits.CACHE_SHARDS} are read.',
      errors.DATA,
    )
  return found


def check_fixed(
  folder: stores.Path, manifest: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
  """Raises a UserError if a cache is of other values of fields than a run."""
  for name, value in _as_json(now).items():
    was = manifest['fixed'].get(name)
    if was != value:
      raise errors.UserError(
        f'config.{name} is {now[name]!r:.200}, the cache in {folder} is of'
        f' {was!r:.200}.'
      )


def identity(folder: stores.Path) -> dict[str, str]:
  """Returns the SHA-256 of the manifest, by its name."""
  return identity_lib.of_files({NAME: folder / NAME})


def check_makers(reader: Any, digests: Mapping[str, str]) -> None:
  """Raises a UserError for caches that other networks made than a run has.

  Args:
    reader: of the training split; one of a cache has `made_by`, the hashes of
      pretrained parts by their names.
    digests: of the pretrained parts of the run.
  """
  for part, was in getattr(reader, 'made_by', {}).items():
    now = digests.get(part)
    if now != was:
      raise errors.UserError(
        f'the cache of the training data was made by the {part} with the hash'
        f' {was}, that of this run is {now}.',
        errors.DATA,
      )


def json_object(file: stores.Path) -> dict[str, Any]:
  """Returns a JSON object; anything else is a UserError."""
  try:
    value = json_text.read(file)
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{file}: {error}', errors.DATA) from error
  if not isinstance(value, dict):
    raise errors.UserError(f'{file} is not a JSON object.', errors.DATA)
  return value


def _as_json(value: Any) -> Any:
  return json.loads(json.dumps(value))
