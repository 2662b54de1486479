"""A pickle reader that builds data and calls nothing that a file names.

Python's own unpickler, cut down to the opcodes that `torch.save` writes. A name
becomes an entry of an allow-list or a placeholder; nothing is imported, and
there is no fallback. The base is `_Unpickler`, the one written in Python: the
one in C hashes any key and takes memory for any memo index, before a subclass
can look. What a file may cost is counted by a `Budget`.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pickle
import pickletools
import struct
import sys
from typing import Any
from typing import BinaryIO

from pyramid_jax import limits


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


class Object(Inert):
  """Stands for an object whose state is looked at; its class is not imported.

  Attributes:
    name: the name of its class.
    state: its attributes by name, whatever the file says of them.
  """

  def __init__(self, name: str, state: Any = None):
    self.name, self.state = name, state


def is_plain(key: Any) -> bool:
  """Whether a dictionary key is one whose hash nobody can choose.

  Many keys of one hash take for ever. Those of texts are random, those of
  numbers below `sys.hash_info.modulus` differ.
  """
  if type(key) is int:
    return abs(key) < sys.hash_info.modulus
  return isinstance(key, str | bytes | bool | float | None | Global | Inert)


class Budget:
  """What the pickles of one file may still cost.

  `most` is their number of bytes, None for `limits.PICKLE_BYTES`.
  """

  def __init__(self, most: int | None = None) -> None:
    self._steps = limits.PICKLE_STEPS
    self._most = limits.PICKLE_BYTES if most is None else most
    self._bytes = self._most
    self._odd_keys = limits.PICKLE_ODD_KEYS

  def spend(self, steps: int, size: int = 0) -> None:
    """Counts steps and bytes.

    Raises:
      PickleError: there were too many.
    """
    self._steps -= steps
    self._bytes -= size
    if self._bytes < 0:
      raise PickleError(f'a pickle of more than {self._most} bytes')
    if self._steps < 0:
      raise PickleError(f'a pickle of more than {limits.PICKLE_STEPS} steps')

  def key(self, key: Any) -> None:
    """Counts a dictionary key unless it is plain.

    A few nested tuples that share their parts take years to hash.

    Raises:
      PickleError: one that is neither plain, nor a large number, nor a short
        tuple of such, or too many of them.
    """
    if is_plain(key):
      return
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) > 8 or not all(type(p) is int or is_plain(p) for p in parts):
      raise PickleError(f'a key that is a {type(key).__name__}')
    self._odd_keys -= 1
    if self._odd_keys < 0:
      raise PickleError(
        f'more than {limits.PICKLE_ODD_KEYS} keys that are tuples or very large'
      )


class _Counted:
  """A binary file whose reads are counted."""

  def __init__(self, file: BinaryIO, budget: Budget):
    self._file, self._spend = file, budget.spend

  def read(self, size: int) -> bytes:
    self._spend(1, size)
    data = self._file.read(size)
    if len(data) < size:
      raise PickleError('damaged pickle: it has no end')
    return data

  def readline(self) -> bytes:
    line = self._file.readline(1024)
    self._spend(1, len(line))
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
    budget: Budget,
  ):
    super().__init__(_Counted(file, budget))
    self.allowed, self.persistent_load = allowed, persistent
    self.unknown, self.budget = unknown, budget

  def find_class(self, module: str, name: str) -> Global:
    if len(module) + len(name) > limits.PICKLE_NAME:
      raise PickleError(
        f'a name of {len(module) + len(name)} characters; limit:'
        f' {limits.PICKLE_NAME}'
      )
    full = f'{module}.{name}'
    return self.allowed[full] if full in self.allowed else self.unknown(full)

  def skip_frame(self) -> None:
    self.read(8)  # the size of a frame, whose opcodes follow

  dispatch[pickle.FRAME[0]] = skip_frame

  def empty_set(self) -> None:
    self.budget.spend(4)  # the most expensive object for its one byte
    self.append(set())

  dispatch[pickle.EMPTY_SET[0]] = empty_set

  def call(self) -> None:
    args, function = self.stack.pop(), self.stack.pop()
    # an argument is often looked at as a whole
    for part in (args, *(args if isinstance(args, tuple) else ())):
      if isinstance(part, tuple | list | dict):
        self.budget.spend(len(part))
    if isinstance(function, Inert) and isinstance(args, tuple):
      self.append(function)
      return
    if not isinstance(function, Global) or not isinstance(args, tuple):
      raise PickleError(f'a call of a {type(function).__name__}')
    self.append(function.make(*args))

  dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = call

  def take_state(self) -> None:
    # The state of an ordered dict is `_metadata`, that of an inert object is
    # of no use; nothing else but an `Object` carries one.
    state, target = self.stack.pop(), self.stack[-1]
    if isinstance(target, Object):
      target.state = state
    elif not isinstance(target, dict | Inert):
      raise PickleError(f'a state for a {type(target).__name__}')

  dispatch[pickle.BUILD[0]] = take_state


def _with_keys(code: bytes, keys: slice) -> None:
  """Makes an opcode check what of the stack will be hashed."""
  base = _Base.dispatch[code[0]]

  def checked(self: _Unpickler) -> None:
    for key in self.stack[keys]:
      self.budget.key(key)
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
  budget: Budget,
) -> Any:
  """Reads one pickle from a file; the position is then just behind it.

  It holds numbers, strings, bytes, None, lists, tuples, sets, dicts, `Inert`,
  and what `allowed` ('module.name' -> what stands for it), `unknown` (any other
  'module.name' -> what stands for it) and `persistent` (identifier of a storage
  -> object) return. `budget` is that of all pickles of the file.

  Raises:
    PickleError: a name that `unknown` refuses, an unknown opcode, damage, or
      more than the budget allows.
  """
  try:
    return _Unpickler(file, allowed, persistent, unknown, budget).load()
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
    text = ' '.join(str(error).split())[:200]
    raise PickleError(f'damaged pickle: {text}') from error
