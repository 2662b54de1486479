"""Files of repositories and sites: found, fetched and verified."""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.files import digests
from pyramid_jax.files import downloads
from pyramid_jax.files import json_text
from pyramid_jax.files import known


File = known.File
INDEX = '.safetensors.index.json'  # names further files of its folder


def fetched(file: File, what: str) -> pathlib.Path:
  """Returns the local path of a file, and fetches it if there is none."""
  path = file.place if file.place.is_file() else None
  if path is None and file.repository:
    path = _of_cache(file, what)
  if path is None:
    with _failures(file, what):
      path = _from_site(file) if file.site else _from_hub(file)
  _check(file, path, what)
  if file.path.endswith(INDEX):
    for shard in _shards(path, what):
      beside = pathlib.PurePosixPath(file.path).with_name(shard)
      fetched(dataclasses.replace(file, path=str(beside)), what)
  return path


def _of_cache(file: File, what: str) -> pathlib.Path | None:
  """Returns a file of the cache of `huggingface_hub`, which asks no server."""
  try:
    import huggingface_hub
  except ImportError:
    raise errors.UserError(
      f'{_unavailable(file, what)}: the package huggingface_hub is not'
      f' installed (pip install "pyramid_jax[hub]"). {_by_hand(file)}',
      errors.MISSING,
    ) from None
  revisions = [file.revision or None]
  if file.revision and file.sha256:
    revisions.append(None)  # the newest, which may be the same file
  for revision in revisions:
    with _failures(file, what):
      found = huggingface_hub.try_to_load_from_cache(
        file.repository, file.path, revision=revision
      )
    if isinstance(found, str):
      return pathlib.Path(found)
  return None


def _from_hub(file: File) -> pathlib.Path:
  """Downloads a file into the cache; one of another hash is not kept there."""
  import huggingface_hub

  logging.info('fetching %s', file.address)
  revision = file.revision or None
  address = huggingface_hub.hf_hub_url(
    file.repository, file.path, revision=revision
  )
  size = huggingface_hub.get_hf_file_metadata(address).size or 0
  if size > limits.FETCH_BYTES or (file.size and size not in (0, file.size)):
    most = file.size or limits.FETCH_BYTES
    raise OSError(f'it has {size:,} bytes; needed: {most:,}')
  path = pathlib.Path(
    huggingface_hub.hf_hub_download(
      file.repository, file.path, revision=revision
    )
  )
  if problem := _difference(file, path):
    path.resolve().unlink()  # the cache has links to its files
    path.unlink(missing_ok=True)
    raise OSError(f'what came {problem}')
  return path


def _from_site(file: File) -> pathlib.Path:
  """Downloads a file to its place; one of another hash is not kept."""
  if os.environ.get('HF_HUB_OFFLINE', '').upper() in ('1', 'ON', 'YES', 'TRUE'):
    raise OSError('HF_HUB_OFFLINE is set')
  logging.info('fetching %s', file.address)
  aside = file.place.with_name(f'.{file.place.name}.{os.getpid()}')
  try:
    with errors.writing(file.place):
      file.place.parent.mkdir(parents=True, exist_ok=True)
      target = aside.open('wb', buffering=0)
    with target:
      for chunk in downloads.chunks(file.address, file.size):
        with errors.writing(file.place):
          target.write(chunk)
    if problem := _difference(file, aside):
      raise OSError(f'what came {problem}')
    aside.rename(file.place)
  finally:
    aside.unlink(missing_ok=True)
  return file.place


@contextlib.contextmanager
def _failures(file: File, what: str) -> Iterator[None]:
  """Turns what goes wrong on the way to a file into one line.

  The libraries raise many kinds of errors, of their own and of others.
  """
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:
    if errors.number(error) in errors.FULL:  # of the cache of the library
      with errors.writing(file.place):
        raise
    first = (str(error).splitlines() or [''])[0]
    reason = f'{type(error).__name__}: {first}'[:300]
    raise errors.UserError(
      f'{_unavailable(file, what)}: {reason}. {_by_hand(file)}', errors.MISSING
    ) from error


def _unavailable(file: File, what: str) -> str:
  source = f'of {file.repository} ' if file.repository else ''
  return f'{what} needs {file.path} {source}({file.address})'


def _by_hand(file: File) -> str:
  return f'Put it at {file.place}, or give the path of the file.'


def _shards(index: pathlib.Path, what: str) -> list[str]:
  """Returns the names of the files that an index lists."""
  try:
    places = json_text.read(index)['weight_map']
    names = sorted({str(name) for name in places.values()})
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f'{index} ({what}) is no index of safetensors files.', errors.DATA
    ) from error
  odd = [n for n in names if not re.fullmatch(r'[^/\\]+\.safetensors', n)]
  if odd:
    raise errors.UserError(
      f'{index} ({what}): {odd[0]!r} is no safetensors file beside it.',
      errors.DATA,
    )
  return names


def _check(file: File, path: pathlib.Path, what: str) -> None:
  """Raises a UserError for a file of another size or hash."""
  if problem := _difference(file, path):
    raise errors.UserError(
      f'{path} ({what}) {problem}; remove it, or give the path of a file that'
      ' is to be read whatever it is.',
      errors.DATA,
    )


def _difference(file: File, path: pathlib.Path) -> str:
  """Returns what is wrong with a file, '' for nothing."""
  status = path.stat()
  if file.size not in (None, status.st_size):
    return f'has {status.st_size:,} bytes, needed {file.size:,}'
  if not file.sha256:
    return ''
  # A large file is hashed once, unless it changes.
  record = known.folder() / 'verified' / file.sha256
  state = [status.st_ino, status.st_size, status.st_mtime_ns]
  if _json(record) == state:
    return ''
  found = digests.sha256(path)
  if found != file.sha256:
    return f'has the SHA-256 {found[:8]}..., needed {file.sha256[:8]}...'
  with contextlib.suppress(OSError):  # it is hashed again then
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(state))
  return ''


def _json(path: pathlib.Path) -> Any:
  try:
    return json_text.read(path)
  except (OSError, ValueError):
    return None
