"""Members of tar and zip archives, read in place at any position.

Nothing is unpacked to a disk. The headers of an archive are read once; where
its members are is kept between runs for as long as the size of the archive and
its time of change stay the same (`index_cache.of_files`). After that a
member takes one read.

An archive that somebody else made is refused if it has members that are no
regular files (links, devices, pipes), names that leave the folder in which an
archive would be unpacked, two members of one name, or members that reach beyond
its end. Names serve as keys alone, and no member is larger in memory than an
image file may be.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import gzip
import io
import os
import pathlib
import tarfile
import threading
import weakref
import zipfile
import zlib

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.files import remote_path
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import zips


TAR, ZIP = '.tar', '.zip'
SUFFIXES = (TAR, ZIP)
_KEPT_OPEN = 16  # archives; the files of more are opened for each read
_THREADS = 8  # that read the headers of archives
_SAID = 100_000  # members after which the log says how many were found
_REQUEST = 8 << 20  # bytes of a store that are fetched at once
_BLOCK = 512  # bytes of a header of a tar
_DAMAGE = (ValueError, tarfile.TarError)
_PACKED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
  """What an archive says of one of its files."""

  name: str
  start: int  # where its bytes begin in the file of the archive
  stored: int  # how many they are there
  size: int  # bytes of the content
  is_packed: int = 0  # whether the bytes are deflated
  crc: int = -1  # CRC-32 of the content; -1 for none


Read = Callable[[int, int], bytes]  # bytes by their place and number
_COLUMNS = ('start', 'stored', 'size', 'is_packed', 'crc')


class Archives:
  """The regular files in one or more archives, in the order of their names.

  Names are those in the archives, with `FOLDER/` before them if the archive is
  one of several or lies in another: the images of `n01440764.tar` are
  `n01440764/n01440764_10026.JPEG`. May be used by several threads, and by
  processes that were forked or got a pickled copy.

  Attributes:
    names: of the files.
  """

  def __init__(
    self,
    paths: Sequence[stores.Path],
    name: str,
    cache: pathlib.Path | None = None,
  ):
    """Finds the members.

    Args:
      paths: of the archives, at least one, that end in one of `SUFFIXES`.
      name: what they are, for messages.
      cache: see `index_cache.folder`; None for that of the user.

    Raises:
      UserError: an archive is damaged, has what is never read, or has no files.
      OSError: one cannot be read.
    """
    paths = [_of_disk(path) for path in paths]
    self._paths = paths
    self._files = [File(path, len(paths) <= _KEPT_OPEN) for path in paths]
    with errors.user_errors(value=errors.DATA):
      arrays = index_cache.of_files(
        paths,
        {'of': 'archives', 'version': 1},
        lambda: _table(self._files, name),
        cache,
      )
    text = arrays['names'].tobytes().decode('utf-8', 'surrogateescape')
    self.names: tuple[str, ...] = tuple(text.split('\0'))
    self._table = {k: x for k, x in arrays.items() if k != 'names'}

  def __len__(self) -> int:
    return len(self.names)

  def where(self, row: int) -> str:
    """Returns what messages call a member."""
    return f'{self._paths[self._table["archive"][row]]}/{self.names[row]}'

  def sizes(self, rows: Iterable[int]) -> dict[str, int | None]:
    """Returns the bytes of members by their names."""
    rows = list(rows)
    found = self._table['size'][rows].tolist()
    return {self.names[row]: x for row, x in zip(rows, found, strict=True)}

  def load(self, row: int) -> bytes:
    """Returns the content of a member.

    Raises:
      BrokenImage: it is larger than any image file, damaged, or the archive
        cannot be read.
    """
    where, entry = self.where(row), self._member(row)
    if max(entry.size, entry.stored) > limits.IMAGE_BYTES:
      most = limits.IMAGE_BYTES
      raise images.BrokenImage(
        where, f'{entry.size} bytes, at most {most} are read'
      )
    file = self._files[self._table['archive'][row]]
    with images.unreadable(where):
      data = retries.repeat(lambda: file.read(entry.start, entry.stored), where)
      return _content(data, entry)

  def head(self, row: int, count: int) -> bytes:
    """Returns the first bytes of a member, all of one that is packed.

    Raises:
      BrokenImage: as `load` does.
    """
    where, entry = self.where(row), self._member(row)
    if entry.is_packed or entry.stored <= count:
      return self.load(row)
    file = self._files[self._table['archive'][row]]
    with images.unreadable(where):
      return retries.repeat(lambda: file.read(entry.start, count), where)

  def _member(self, row: int) -> Member:
    column = self._table
    return Member(
      name=self.names[row],
      **{key: int(column[key][row]) for key in _COLUMNS},
    )


def is_archive(path: stores.Path) -> bool:
  """Whether a path ends as an archive that is read here.

  Raises:
    UserError: it is one that is compressed as a whole, of which no member can
      be read without those before it.
  """
  name = path.name.lower()
  if name.endswith(_PACKED):
    raise errors.UserError(
      f'{path} is compressed as a whole, which cannot be read in place: unpack'
      f' it to a {TAR} (gunzip, bunzip2 or unxz).',
      errors.DATA,
    )
  return name.endswith(SUFFIXES)


def unpacked(path: stores.Path, most: int) -> dict[str, bytes]:
  """Returns the files of a small .tar.gz by their names.

  Args:
    path: the archive.
    most: bytes that it may have, and that it may unpack to.

  Raises:
    UserError: it has more, is damaged, or has what is never read.
    OSError: it cannot be read.
  """
  packed = retries.repeat(lambda: _bounded(path, most), path)
  try:
    with gzip.open(io.BytesIO(packed)) as file:
      data = file.read(most + 1)
    if len(data) > most:
      raise ValueError(f'it unpacks to more than {most} bytes')
    view = _View(lambda start, count: data[start : start + count], 0, len(data))
    return {
      info.name: data[info.offset_data : info.offset_data + info.size]
      for info in _of_tar(view)
    }
  except (*_DAMAGE, gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise errors.UserError(f'{path}: {error}.', errors.DATA) from error


def _bounded(path: stores.Path, most: int) -> bytes:
  try:
    return bounded.read(path, most)
  except ValueError as error:
    raise errors.UserError(f'{path}: {error}.', errors.DATA) from error


def _of_disk(path: stores.Path) -> stores.Path:
  """Returns where an archive is read: a zip in a store is copied first."""
  is_far = stores.is_remote(path) and path.name.lower().endswith(ZIP)
  return copies.local(path) if is_far else path


class File:
  """A file of which parts are read at any place."""

  def __init__(self, path: stores.Path, is_kept: bool):
    self.path = path
    self._is_kept = is_kept
    self._lock = threading.Lock()
    self._handle: int | None = None

  def __reduce__(self):
    return File, (self.path, self._is_kept)

  def read(self, start: int, count: int) -> bytes:
    """Returns so many bytes; ValueError if the file ends before."""
    if stores.is_remote(self.path):
      data = remote_path.RemotePath(self.path).part(start, start + count)
    elif self._is_kept:
      data = _pread(self._opened(), start, count)
    else:
      handle = os.open(self.path, os.O_RDONLY)
      try:
        data = _pread(handle, start, count)
      finally:
        os.close(handle)
    if len(data) != count:
      raise ValueError(f'the archive ends within it ({len(data)} of {count})')
    return data

  def _opened(self) -> int:
    with self._lock:
      if self._handle is None:
        self._handle = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
      return self._handle


def _pread(handle: int, start: int, count: int) -> bytes:
  """Returns bytes at a place, fewer at the end of the file."""
  data = os.pread(handle, count, start)
  while 0 < len(data) < count:
    more = os.pread(handle, count - len(data), start + len(data))
    if not more:
      break
    data += more
  return data


def _content(data: bytes, entry: Member) -> bytes:
  """Unpacks what is stored; ValueError if it is not what was said."""
  if entry.is_packed:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
      data = unpacker.decompress(data, entry.size)
    except zlib.error as error:
      raise ValueError(f'damaged: {error}') from None
    if len(data) != entry.size:
      raise ValueError(f'damaged: {len(data)} of {entry.size} bytes')
  if entry.crc >= 0 and zlib.crc32(data) != entry.crc:
    raise ValueError('damaged: the checksum of the archive does not fit')
  return data


def _table(files: Sequence[File], name: str) -> index_cache.Arrays:
  """Returns the members of archives as arrays, sorted by name."""
  rows: list[tuple[str, int, Member]] = []
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(_members, files)
    for i, members in enumerate(found):
      stem = files[i].path.name[: -len(TAR)]
      folder = f'{stem}/' if len(files) > 1 else ''
      rows += [(f'{folder}{x.name}', i, x) for x in members]
      if len(rows) > limits.ARCHIVE_MEMBERS:
        raise ValueError(f'{name}: {len(rows)} members or more')
  if not rows:
    raise ValueError(f'{name} has no files')
  rows.sort(key=lambda row: row[0])
  for (one, *_), (other, *_) in zip(rows, rows[1:], strict=False):
    if one == other:
      raise ValueError(f'{name} has two members of the name {one[:200]!r}')
  names = '\0'.join(row[0] for row in rows)
  columns = {
    key: np.array([getattr(row[2], key) for row in rows], np.int64)
    for key in _COLUMNS
  }
  return {
    'names': np.frombuffer(names.encode('utf-8', 'surrogateescape'), np.uint8),
    'archive': np.array([row[1] for row in rows], np.int32),
    **columns,
  }


def _members(file: File) -> list[Member]:
  """Returns the regular files of an archive, and of the tars in a tar."""
  path = file.path
  try:
    if path.name.lower().endswith(ZIP):
      return list(_of_zip(path))
    bounded.check(path, limits.FILE_BYTES)
    size = path.stat().st_size
    return list(_of_tars(_View(file.read, 0, size)))
  except _DAMAGE as error:
    raise ValueError(f'{path}: {error}') from error


def members_of_tar(read: Read, size: int) -> Iterator[Member]:
  """Yields the regular files of a tar in its order.

  Args:
    read: gives bytes of the tar by place and number, see `forwards`.
    size: bytes of the tar.

  Raises:
    ValueError: damage, or what is never read.
    OSError: it cannot be read.
  """
  try:
    for info in _of_tar(_View(read, 0, size)):
      yield _named(info, info.name, 0)
  except tarfile.TarError as error:
    raise ValueError(f'no tar, or damaged: {error}') from error


def forwards(file: File, size: int) -> Read:
  """Returns `file.read` for a pass over a file: with few requests to a store.

  Raises:
    ValueError: no regular file.
    OSError: it is not there.
  """
  bounded.check(file.path, limits.FILE_BYTES)
  if not stores.is_remote(file.path):
    return file.read
  start, data = 0, b''

  def part(at: int, count: int) -> bytes:
    nonlocal start, data
    if not start <= at <= at + count <= start + len(data):
      start, data = at, file.read(at, min(max(count, _REQUEST), size - at))
    return data[at - start : at - start + count]

  return part


def _of_zip(path: stores.Path) -> Iterator[Member]:
  with bounded.opened(path, limits.FILE_BYTES) as file:
    most = limits.INFLATED_BYTES, limits.ARCHIVE_ZIP_RATIO
    archive = zips.opened(file, limits.ARCHIVE_MEMBERS, *most)
    for info in archive.infolist():
      if info.filename.endswith('/'):
        continue
      kind = info.external_attr >> 16 & 0o170000
      name = os.path.normpath(info.filename) if info.filename else ''
      _check(name, kind in (0, 0o100000))
      is_packed = info.compress_type != zipfile.ZIP_STORED
      stored = info.compress_size if is_packed else info.file_size
      yield Member(
        name=name,
        start=zips.start(file, info, stored),
        stored=stored,
        size=info.file_size,
        is_packed=int(is_packed),
        crc=info.CRC,
      )


class _View(io.RawIOBase):
  """A part of a file, as a library reads the headers of a tar in it."""

  def __init__(self, read: Callable[[int, int], bytes], start: int, size: int):
    super().__init__()
    self.read_at, self.start, self.size = read, start, size
    self._at = 0

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._at

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}
    self._at = max(0, base[whence] + offset)
    return self._at

  def read(self, size: int = -1) -> bytes:
    left = max(0, self.size - self._at)
    count = left if size < 0 else min(size, left)
    if count > limits.ARCHIVE_HEADER_BYTES:
      raise ValueError(
        f'a header of {count} bytes; limit: {limits.ARCHIVE_HEADER_BYTES}'
      )
    data = self.read_at(self.start + self._at, count) if count else b''
    self._at += len(data)
    return data

  def part(self, start: int, size: int) -> '_View':
    """Returns a part of this part."""
    return _View(self.read_at, self.start + start, size)


def _of_tars(view: _View) -> Iterator[Member]:
  """Yields the files of a tar; those of a tar in it are named by both."""
  inner = []
  count = 0
  for info in _of_tar(view):
    if info.name.endswith(TAR):
      inner.append(info)
      continue
    count += 1
    yield _named(info, info.name, view.start)
    if not count % _SAID:
      logging.info('%d members so far', count)

  def within(info: tarfile.TarInfo) -> list[Member]:
    part = view.part(info.offset_data, info.size)
    folder = info.name[: -len(TAR)]
    try:
      return [
        _named(x, f'{folder}/{x.name}', part.start) for x in _of_tar(part)
      ]
    except _DAMAGE as error:
      raise ValueError(f'{info.name}: {error}') from error

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for i, members in enumerate(pool.map(within, inner), 1):
      count += len(members)
      yield from members
      if not i % 100:
        logging.info('%d of %d tars, %d members', i, len(inner), count)


def _named(info: tarfile.TarInfo, name: str, start: int) -> Member:
  return Member(
    name=name,
    start=start + info.offset_data,
    stored=info.size,
    size=info.size,
  )


def _of_tar(view: _View) -> Iterator[tarfile.TarInfo]:
  """Yields the regular files of one tar."""
  end = 0
  with tarfile.open(fileobj=view, mode='r:') as tar:
    while (info := tar.next()) is not None:
      tar.members.clear()  # type: ignore[attr-defined] # They take 1 KB each.
      if info.offset < end or info.size < 0:
        raise ValueError(f'damaged at byte {end}')
      end = info.offset_data
      if info.isdir():
        continue
      info.name = os.path.normpath(info.name) if info.name else ''
      _check(info.name, info.isreg() and not info.issparse())
      end += -(-info.size // _BLOCK) * _BLOCK
      if info.offset_data + info.size > view.size:
        raise ValueError(f'{info.name[:200]!r} reaches beyond the end')
      yield info
  view.seek(end)
  if any(view.read(_BLOCK)) or end + _BLOCK > view.size:
    raise ValueError('it is cut off, or no tar: its end is missing')


def _check(name: str, is_regular: bool) -> None:
  """Raises a ValueError for a member that is never read."""
  parts = name.replace('\\', '/').split('/')
  shown = repr(name[:200])
  if not is_regular:
    raise ValueError(
      f'{shown} is a link or another thing that is no regular file'
    )
  if len(name) > limits.ARCHIVE_NAME:
    raise ValueError(
      f'{shown} is a name of {len(name)} characters; limit:'
      f' {limits.ARCHIVE_NAME}'
    )
  if not parts[0] or parts[0].endswith(':') or '..' in parts or '\0' in name:
    raise ValueError(f'{shown} is a name outside of the archive')
