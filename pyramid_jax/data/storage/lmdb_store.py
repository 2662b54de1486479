"""Images in an LMDB, whose pages are read here and not mapped into memory.

The library of LMDB trusts the numbers in a file: a damaged one ends the process
with a fault of its memory. Here each number is compared with the size of the
file before it is used, and a file in a store (gs://) is read like one on a
disk. What is read is the main database of version 1 of the format, with keys of
their own in the order of their bytes, as the library writes it on machines of
64 bits (openldap: libraries/liblmdb/mdb.c).

The pages of the tree are read once; where the values are is kept between runs,
see `index_cache.of_files`. After that a value takes one read.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import pathlib
import struct

import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import archives
from pyramid_jax.files import bounded
from pyramid_jax.files import retries
from pyramid_jax.files import stores


DATA = 'data.mdb'
_MAGIC, _VERSION = 0xBEEFC0DE, 1
# Of a page: its number, padding, flags, and where free space begins and ends.
_PAGE = struct.Struct('<QHHHH')
_BRANCH, _LEAF = 1, 2
# Of a meta page behind that: magic, version, address, size of the map; of the
# free and the main database their padding (of the first: the size of a page),
# flags, depth, numbers of pages, entries and root; last page, transaction.
_DATABASE = 'IHH5Q'
_META_HEAD = struct.Struct(f'<IIQQ{_DATABASE}{_DATABASE}QQ')
# Of an entry: two parts of a number, flags, bytes of the key. A branch has the
# page of a child in all three, a leaf the bytes of a value in two.
_NODE = struct.Struct('<HHHH')
_ELSEWHERE = 1  # a value on pages of its own
_PAGE_SIZES = tuple(1 << i for i in range(9, 17))
_DEPTH = 32  # of a tree, as in the library
_THREADS = 8  # that read pages
_Read = Callable[[int, int], bytes]
_Value = tuple[
  bytes, int, int
]  # a key, and where its value begins and its size


def is_lmdb(path: stores.Path) -> bool:
  """Whether a path is the folder of an LMDB."""
  return (path / DATA).is_file()


class Lmdb:
  """The values of an LMDB by their keys (see `image_stores.Store`).

  May be used by several threads, and by processes that were forked or got a
  pickled copy.

  Attributes:
    names: the keys as text, in the order of their bytes.
  """

  def __init__(self, path: stores.Path, cache: pathlib.Path | None = None):
    """Reads the tree, or what is kept of it.

    Args:
      path: the folder.
      cache: see `index_cache.folder`; None for that of the user.

    Raises:
      UserError: the file is damaged, cut off or of another kind, or there are
        no keys.
    """
    self._path = path
    self._file = archives.File(path / DATA, is_kept=True)
    with errors.user_errors(value=errors.DATA):
      arrays = index_cache.of_files(
        [path / DATA], {'of': 'lmdb', 'version': 2}, self._table, cache
      )
    text = arrays['names'].tobytes().decode('utf-8', 'surrogateescape')
    self.names: tuple[str, ...] = tuple(text.split('\0'))
    self._starts, self._sizes = arrays['starts'], arrays['sizes']

  def _table(self) -> index_cache.Arrays:
    path = self._path / DATA
    try:
      bounded.check(path, limits.FILE_BYTES)
      tree = _tree(self._file.read, path.stat().st_size)
      values = list(_values(self._file.read, tree))
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
    if not values:
      raise ValueError(f'{path} has no images')
    keys = [key for key, _, _ in values]
    if any(b'\0' in key for key in keys):
      raise ValueError(f'{path}: its keys are no names')
    return {
      'names': np.frombuffer(b'\0'.join(keys), np.uint8),
      'starts': np.array([start for _, start, _ in values], np.int64),
      'sizes': np.array([size for _, _, size in values], np.int64),
    }

  def where(self, row: int) -> str:
    """Returns what messages call an image."""
    return f'{self._path}/{self.names[row]}'

  def sizes(self, rows: Iterable[int]) -> dict[str, int | None]:
    """Returns the size of the file of all, and of values by their keys."""
    size = (self._path / DATA).stat().st_size
    found = {self.names[row]: int(self._sizes[row]) for row in rows}
    return {DATA: size, **found}

  def head(self, row: int, count: int) -> bytes:
    """Returns the first bytes of an image, or raises `BrokenImage`."""
    where, size = self.where(row), min(count, int(self._sizes[row]))
    read = lambda: self._file.read(int(self._starts[row]), size)
    with images.unreadable(where):
      return retries.repeat(read, where)

  def load(self, row: int) -> bytes:
    """Returns an encoded image, or raises `BrokenImage`."""
    where, size = self.where(row), int(self._sizes[row])
    if size > limits.IMAGE_BYTES:
      most = limits.IMAGE_BYTES
      raise images.BrokenImage(where, f'{size} bytes, at most {most} are read')
    read = lambda: self._file.read(int(self._starts[row]), size)
    with images.unreadable(where):
      return retries.repeat(read, where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tree:
  """The main database.

  Attributes:
    page: bytes of a page.
    count: pages of the file.
    depth: levels of the tree, 0 if there are no keys.
    root: the number of the page where it begins.
  """

  page: int
  count: int
  depth: int
  root: int


def _tree(read: _Read, size: int) -> _Tree:
  """Returns what the newer of the two meta pages says.

  Raises:
    ValueError: damage, another kind of database, or a file that is cut off.
  """
  first = _meta(read, size, 0)
  page = first[4]
  if page not in _PAGE_SIZES:
    raise ValueError(f'damaged: pages of {page} bytes')
  second = _meta(read, size, page)
  *_, last, _ = meta = max(first, second, key=lambda x: x[-1])
  _, flags, depth, *_, root = meta[12:20]
  if flags:
    raise ValueError(f'a database of another kind (flags {flags})')
  need = (last + 1) * page
  if need > size:
    raise ValueError(f'is cut off: {size} of {need} bytes')
  if depth > _DEPTH:
    raise ValueError(f'damaged: a tree of {depth} levels')
  return _Tree(page=page, count=last + 1, depth=depth, root=root)


def _meta(read: _Read, size: int, start: int) -> tuple[int, ...]:
  """Returns the fields of a meta page, `_META_HEAD`."""
  if size < start + _PAGE.size + _META_HEAD.size:
    raise ValueError(f'no LMDB: {size} bytes')
  raw = read(start, _PAGE.size + _META_HEAD.size)
  found = _META_HEAD.unpack_from(raw, _PAGE.size)
  if found[:2] != (_MAGIC, _VERSION):
    raise ValueError('no LMDB of version 1 of a machine of 64 bits')
  return found


def _values(read: _Read, tree: _Tree) -> Iterator[_Value]:
  """Yields the values in the order of their keys.

  Args:
    read: gives bytes of the file by place and number.
    tree: the database.

  Raises:
    ValueError: damage, or values of another kind.
  """
  numbers, visited, last = [tree.root], 0, None
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for level in range(tree.depth):
      visited += len(numbers)
      if visited > tree.count:
        raise ValueError('damaged: its tree has more pages than the file')
      kind = _LEAF if level == tree.depth - 1 else _BRANCH
      pages = pool.map(lambda x, k=kind: _page(read, tree, x, k), numbers)
      children: list[int] = []
      for number, (raw, places) in zip(numbers, pages, strict=True):
        if kind == _BRANCH:
          children += [_child(raw, place) for place in places]
          continue
        for place in places:
          value = _value(raw, place, number, tree)
          if last is not None and value[0] <= last:
            raise ValueError(
              f'damaged: the keys of page {number} have no order'
            )
          last = value[0]
          yield value
      numbers = children


def _page(
  read: _Read, tree: _Tree, number: int, kind: int
) -> tuple[bytes, tuple[int, ...]]:
  """Returns a page of the tree, and where its entries begin.

  An entry and its key are within the page.
  """
  if not 2 <= number < tree.count:
    raise ValueError(f'damaged: page {number} of {tree.count}')
  raw = read(number * tree.page, tree.page)
  own, _, flags, low, high = _PAGE.unpack_from(raw)
  is_sound = own == number and flags == kind
  if not is_sound or not _PAGE.size <= low <= high <= tree.page or low % 2:
    raise ValueError(f'damaged: the head of page {number}')
  places = struct.unpack_from(f'<{(low - _PAGE.size) // 2}H', raw, _PAGE.size)
  for place in places:
    is_inside = high <= place <= tree.page - _NODE.size
    if not is_inside or _data(raw, place) > tree.page:
      raise ValueError(f'damaged: an entry of page {number}')
  return raw, places


def _data(raw: bytes, place: int) -> int:
  """Returns where in a page the data of an entry begin, behind its key."""
  return place + _NODE.size + _NODE.unpack_from(raw, place)[3]


def _child(raw: bytes, place: int) -> int:
  """Returns the page that an entry of a branch leads to."""
  low, middle, high, _ = _NODE.unpack_from(raw, place)
  return low | middle << 16 | high << 32


def _value(raw: bytes, place: int, number: int, tree: _Tree) -> _Value:
  """Returns the key of an entry of a leaf, and where its value is."""
  low, high, flags, _ = _NODE.unpack_from(raw, place)
  size, data = low | high << 16, _data(raw, place)
  key = raw[place + _NODE.size : data]
  if flags == 0 and data + size <= tree.page:
    return key, number * tree.page + data, size
  if flags == _ELSEWHERE and data + 8 <= tree.page:
    other = int.from_bytes(raw[data : data + 8], 'little')
    start = other * tree.page + _PAGE.size
    if start + size <= tree.count * tree.page:
      return key, start, size
  raise ValueError(f'damaged: the value of {key[:100]!r}, or of another kind')
