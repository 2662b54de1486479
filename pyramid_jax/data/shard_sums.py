"""Whether shards have the SHA-256 of their records.

A shard on a disk is compared when it is first read, the copy of an object when
it is fetched, once for each host.
"""

import pathlib
from typing import Any

from pyramid_jax import errors
from pyramid_jax.files import copies
from pyramid_jax.files import json_text
from pyramid_jax.files import stores


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """Returns a JSON object; anything else is a UserError."""
  try:
    value = json_text.read(file)
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{file}: {error}', errors.DATA) from error
  if not isinstance(value, dict):
    raise errors.UserError(f'{file} is not a JSON object.', errors.DATA)
  return value


def of_record(file: pathlib.Path) -> Any:
  """Returns the SHA-256 of a shard by the record beside it."""
  return read_json(file.with_suffix('.json')).get('sha256')


def verified(file: pathlib.Path) -> pathlib.Path:
  """Returns the path of a file that has its SHA-256, or of such a copy.

  Raises:
    UserError: it has another one, or is not there.
  """
  want = str(of_record(file))
  try:
    if stores.is_remote(file):
      return copies.local(file, want)
    copies.check(file, want)
  except errors.UserError:
    raise
  except OSError as error:
    raise errors.UserError(errors.reason(error), errors.MISSING) from error
  except ValueError as error:
    text = f'{file} {error}: damaged; delete it and write it again.'
    raise errors.UserError(text, errors.DATA) from error
  return file
