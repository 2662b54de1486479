"""A pickle reader that builds data and calls nothing that a file names.

Python's own unpickler, cut down to the opcodes that `torch.save` writes. A name
becomes an entry of an allow-list or a placeholder; nothing is imported, and
there is no fallback. The base is `_Unpickler`, the one written in Python: the
one in C hashes any key and takes memory for any memo index, before a subclass
can look.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pickle
import pickletools
import struct
from typing import Any
from typing import BinaryIO


MAX_PICKLE_BYTES = 128 << 20
CALL_BYTES = 4  # The cost of a read, which bounds the opcodes too.
_Base: Any = pickle._Unpickler
_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}


class PickleError(ValueError):
  """The pickle is damaged, or refers to something that is not data."""


@dataclasses.dataclass(frozen=True)
class Global:
  """An allowed name: `make(*args)` stands for a call of it."""

  name: str
  make: Callable[..., Any]


class Inert:
  """Stands for an object that is neither needed nor imported."""

  def ignore(self, *_: Any) -> None:
    """Takes items of a list or a dict, and keeps none."""

  append = extend = add = __setitem__ = ignore


def checked_key(key: Any) -> Any:
  """Returns a dictionary key that is cheap to hash and to compare.

  A few nested tuples that share their parts take years to hash.

  Raises:
    PickleError: neither a scalar, nor a short tuple of scalars, nor a name.
  """
  parts = key if isinstance(key, tuple) else (key,)
  scalars = str | bytes | int | float | None | Global | Inert
  if len(parts) > 8 or not all(isinstance(p, scalars) for p in parts):
    raise PickleError(f'a key that is a {type(key).__name__}')
  return key


class _Bounded:
  """A binary file of which `MAX_PICKLE_BYTES` are read at most."""

  def __init__(self, file: BinaryIO):
    self.file, self.left = file, MAX_PICKLE_BYTES

  def _count(self, size: int) -> None:
    self.left -= size + CALL_BYTES
    if self.left < 0:
      raise PickleError(f'a pickle of more than {MAX_PICKLE_BYTES} bytes')

  def read(self, size: int) -> bytes:
    self._count(size)
    data = self.file.read(size)
    if len(data) < size:
      raise PickleError('damaged pickle: it has no end')
    return data

  def readline(self) -> bytes:
    line = self.file.readline(1024)
    self._count(len(line))
    return line


class _Opcodes(dict[int, Callable[[Any], None]]):
  """What each allowed opcode does; the others are refused by their names."""

  def __missing__(self, code: int) -> Callable[[Any], None]:
    name = _NAMES.get(chr(code), hex(code))
    raise PickleError(f'opcode {name} is not allowed')


_ALLOWED = (
  *('PROTO', 'STOP', 'MARK', 'POP', 'BINPERSID', 'GLOBAL', 'STACK_GLOBAL'),
  *('NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1'),
  *('BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
  *('BINBYTES', 'SHORT_BINBYTES', 'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET'),
  *('EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'APPEND', 'APPENDS'),
  *('BINPUT', 'LONG_BINPUT', 'BINGET', 'LONG_BINGET', 'MEMOIZE'),
)


class _Unpickler(_Base):
  """See the module."""

  dispatch = _Opcodes(
    {
      code: _Base.dispatch[code]
      for code in (getattr(pickle, name)[0] for name in _ALLOWED)
    }
  )

  def __init__(
    self,
    file: BinaryIO,
    allowed: Mapping[str, Global],
    persistent: Callable[[Any], Any],
    unknown: Callable[[str], Global],
  ):
    super().__init__(_Bounded(file))
    self.allowed, self.persistent_load = allowed, persistent
    self.unknown = unknown

  def find_class(self, module: str, name: str) -> Global:
    full = f'{module}.{name}'
    return self.allowed[full] if full in self.allowed else self.unknown(full)

  def skip_frame(self) -> None:
    self.read(8)  # the size of a frame, whose opcodes follow

  dispatch[pickle.FRAME[0]] = skip_frame

  def call(self) -> None:
    args, function = self.stack.pop(), self.stack.pop()
    if isinstance(function, Inert) and isinstance(args, tuple):
      self.append(function)
      return
    if not isinstance(function, Global) or not isinstance(args, tuple):
      raise PickleError(f'a call of a {type(function).__name__}')
    self.append(function.make(*args))

  dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = call

  def drop_state(self) -> None:
    # The state of an ordered dict is `_metadata`, that of an inert object is
    # of no use; nothing else carries one.
    self.stack.pop()
    if not isinstance(self.stack[-1], dict | Inert):
      raise PickleError(f'a state for a {type(self.stack[-1]).__name__}')

  dispatch[pickle.BUILD[0]] = drop_state


def _with_keys(code: bytes, keys: slice) -> None:
  """Makes an opcode check what of the stack will be hashed."""
  base = _Base.dispatch[code[0]]

  def checked(self: _Unpickler) -> None:
    for key in self.stack[keys]:
      checked_key(key)
    base(self)

  _Unpickler.dispatch[code[0]] = checked


_with_keys(pickle.SETITEM, slice(-2, -1))
_with_keys(pickle.SETITEMS, slice(0, None, 2))
_with_keys(pickle.ADDITEMS, slice(None))


def load(
  file: BinaryIO,
  allowed: Mapping[str, Global],
  persistent: Callable[[Any], Any],
  unknown: Callable[[str], Global],
) -> Any:
  """Reads one pickle from a file; the position is then just behind it.

  It holds numbers, strings, bytes, None, lists, tuples, sets, dicts, `Inert`,
  and what `allowed` ('module.name' -> what stands for it), `unknown` (any other
  'module.name' -> what stands for it) and `persistent` (identifier of a storage
  -> object) return.

  Raises:
    PickleError: a name that `unknown` refuses, an unknown opcode, or damage.
  """
  try:
    return _Unpickler(file, allowed, persistent, unknown).load()
  except PickleError:
    raise
  # what the base raises on damaged input
  except (
    pickle.UnpicklingError,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
  ) as error:
    raise PickleError(f'damaged pickle: {error}') from error
