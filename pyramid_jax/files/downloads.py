"""One file from an address: bounded in bytes and seconds, whole or an error."""

from collections.abc import Iterator
import time
from typing import Any
import urllib.parse
import urllib.request

from pyramid_jax import limits


_CHUNK = 1 << 20


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Goes on to other addresses, from https to https alone."""

  def redirect_request(
    self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
  ) -> Any:
    schemes = {'https', urllib.parse.urlsplit(req.full_url).scheme}
    if urllib.parse.urlsplit(newurl).scheme not in schemes:
      raise OSError(f'it is elsewhere, without https: {newurl[:200]}')
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def chunks(address: str, size: int | None) -> Iterator[bytes]:
  """Yields the bytes of an address, which are of no use after an error.

  Args:
    address: of a site.
    size: the bytes that it has to have; None if not known.

  Raises:
    OSError: it cannot be reached, has more or fewer bytes than it says or than
      are allowed, or comes too slowly.
  """
  opener = urllib.request.build_opener(_Redirects)
  most = limits.FETCH_BYTES if size is None else size
  start, done = time.monotonic(), 0
  with opener.open(address, timeout=limits.FETCH_WAIT_SECS) as source:
    said = source.headers.get('Content-Length') or ''
    length = int(said) if said.isdecimal() and len(said) < 20 else None
    if length is not None and length > most:
      raise OSError(f'it has {length:,} bytes; limit: {most:,}')
    while chunk := source.read1(_CHUNK):
      done += len(chunk)
      if done > most:
        raise OSError(f'more than {most:,} bytes came')
      yield chunk
      late = time.monotonic() - start - limits.FETCH_PATIENCE_SECS
      if done < late * limits.FETCH_BYTES_PER_SEC:
        raise OSError(f'{done:,} bytes in {time.monotonic() - start:.0f} s')
  if length is not None and done < length:
    raise OSError(f'{done:,} of {length:,} bytes came')
