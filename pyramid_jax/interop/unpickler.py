"""A pickle reader that can only build data.

Python's own unpickler calls what a file tells it to call. This one is a small
stack machine over the opcodes that `torch.save` writes: it makes numbers,
strings and containers, hands storage identifiers to the caller, and calls
nothing but the functions of an allow-list. Any other opcode or global raises
with its name, and there is no fallback to the standard module.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import pickletools
from typing import Any
from typing import BinaryIO


MAX_OPCODES = 20_000_000
MAX_LONG_BYTES = 32


class PickleError(ValueError):
  """The pickle is damaged, or asks for something that is not data."""


@dataclasses.dataclass(frozen=True)
class Global:
  """An allowed name: `make(*args)` stands for a call of it."""

  name: str
  make: Callable[..., Any]


class Inert:
  """Stands for an object that we neither need nor import."""

  def __init__(self, name: str):
    self.name = name


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


class _Mark:
  pass


_MARK = _Mark()
_CONSTANTS = {
  'NONE': None,
  'NEWTRUE': True,
  'NEWFALSE': False,
  'EMPTY_TUPLE': (),
}
_VALUES = {
  'BININT',
  'BININT1',
  'BININT2',
  'LONG1',
  'BINFLOAT',
  'BINUNICODE',
  'SHORT_BINUNICODE',
  'BINUNICODE8',
  'BINBYTES',
  'SHORT_BINBYTES',
}
_SHORT_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


def load(
  file: BinaryIO,
  allowed: Mapping[str, Global],
  persistent: Callable[[Any], Any],
) -> Any:
  """Reads one pickle from a file; the position is then just behind it.

  Args:
    file: binary file.
    allowed: 'module.name' -> what stands for it.
    persistent: turns a persistent identifier (a storage) into an object.

  Returns:
    Numbers, strings, bytes, None, lists, tuples, sets, dicts, `Inert`, and
    what `allowed` and `persistent` return.

  Raises:
    PickleError: a name that is not allowed, an unknown opcode, or damage.
  """
  machine = _Machine(allowed, persistent)
  try:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
      if count > MAX_OPCODES:
        raise PickleError(f'more than {MAX_OPCODES} opcodes')
      if opcode.name == 'STOP':
        return machine.result()
      machine.step(opcode.name, argument)
  except PickleError:
    raise
  # what the standard parser and the machine raise on damaged input
  except (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
  ) as error:
    raise PickleError(f'damaged pickle: {error}') from error
  raise PickleError('damaged pickle: it has no end')


class _Machine:
  """Stack and memo of one pickle."""

  def __init__(
    self,
    allowed: Mapping[str, Global],
    persistent: Callable[[Any], Any],
  ):
    self.allowed = allowed
    self.persistent = persistent
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}

  def result(self) -> Any:
    if len(self.stack) != 1 or self.stack[0] is _MARK:
      raise PickleError('damaged pickle: it leaves no single object')
    return self.stack[0]

  def step(self, name: str, argument: Any) -> None:
    """Runs one opcode."""
    if name in _VALUES:
      if name == 'LONG1' and argument.bit_length() > 8 * MAX_LONG_BYTES:
        raise PickleError(f'an integer of {argument.bit_length()} bits')
      self.stack.append(argument)
    elif name in _CONSTANTS:
      self.stack.append(_CONSTANTS[name])
    elif name in _SHORT_TUPLES:
      items = [self.pop() for _ in range(_SHORT_TUPLES[name])]
      self.stack.append(tuple(reversed(items)))
    elif name in ('BINPUT', 'LONG_BINPUT'):
      self.memo[argument] = self.top()
    elif name in ('BINGET', 'LONG_BINGET'):
      self.stack.append(self.memo[argument])
    else:
      method = getattr(self, 'op_' + name.lower(), None)
      if method is None:
        raise PickleError(f'opcode {name} is not allowed')
      method(argument)

  def top(self) -> Any:
    if not self.stack or self.stack[-1] is _MARK:
      raise PickleError('damaged pickle: the stack is empty')
    return self.stack[-1]

  def pop(self) -> Any:
    self.top()
    return self.stack.pop()

  def pop_to_mark(self) -> list[Any]:
    items: list[Any] = []
    while self.stack and self.stack[-1] is not _MARK:
      items.append(self.stack.pop())
    if not self.stack:
      raise PickleError('damaged pickle: a mark is missing')
    self.stack.pop()
    return items[::-1]

  def find(self, name: str) -> None:
    if name not in self.allowed:
      raise PickleError(f'global {name!r} is not allowed in a weight file')
    self.stack.append(self.allowed[name])

  def call(self, function: Any, args: Any) -> None:
    if not isinstance(function, Global):
      raise PickleError(f'a call of a {type(function).__name__}')
    if not isinstance(args, tuple):
      raise PickleError(f'arguments of {function.name!r} are no tuple')
    self.stack.append(function.make(*args))

  def op_proto(self, version: int) -> None:
    if not 2 <= version <= 5:
      raise PickleError(f'pickle protocol {version}; allowed: 2 to 5')

  def op_frame(self, _: int) -> None:
    pass

  def op_mark(self, _: None) -> None:
    self.stack.append(_MARK)

  def op_memoize(self, _: None) -> None:
    self.memo[len(self.memo)] = self.top()

  def op_pop(self, _: None) -> None:
    self.pop()

  def op_tuple(self, _: None) -> None:
    self.stack.append(tuple(self.pop_to_mark()))

  def op_empty_list(self, _: None) -> None:
    self.stack.append([])

  def op_empty_dict(self, _: None) -> None:
    self.stack.append({})

  def op_empty_set(self, _: None) -> None:
    self.stack.append(set())

  def op_append(self, _: None) -> None:
    self.extend([self.pop()])

  def op_appends(self, _: None) -> None:
    self.extend(self.pop_to_mark())

  def op_additems(self, _: None) -> None:
    items = self.pop_to_mark()
    if not isinstance(self.top(), set):
      raise PickleError('damaged pickle: items for something not a set')
    self.top().update(map(checked_key, items))

  def extend(self, items: list[Any]) -> None:
    target = self.top()
    if isinstance(target, list):
      target.extend(items)
    elif not isinstance(target, Inert):
      raise PickleError('damaged pickle: items for something not a list')

  def op_setitem(self, _: None) -> None:
    value = self.pop()
    self.update([self.pop(), value])

  def op_setitems(self, _: None) -> None:
    self.update(self.pop_to_mark())

  def update(self, items: list[Any]) -> None:
    target = self.top()
    if len(items) % 2:
      raise PickleError('damaged pickle: a key without a value')
    if isinstance(target, dict):
      keys = map(checked_key, items[::2])
      target.update(zip(keys, items[1::2], strict=True))
    elif not isinstance(target, Inert):
      raise PickleError('damaged pickle: items for something not a dict')

  def op_global(self, name: str) -> None:
    self.find(name.replace(' ', '.', 1))

  def op_stack_global(self, _: None) -> None:
    name, module = self.pop(), self.pop()
    self.find(f'{module}.{name}')

  def op_reduce(self, _: None) -> None:
    args = self.pop()
    self.call(self.pop(), args)

  def op_newobj(self, _: None) -> None:
    args = self.pop()
    self.call(self.pop(), args)

  def op_build(self, _: None) -> None:
    # the state of an ordered dict is `_metadata`, that of an inert object is
    # of no use; nothing else carries one
    self.pop()
    if not isinstance(self.top(), dict | Inert):
      raise PickleError(f'a state for a {type(self.top()).__name__}')

  def op_binpersid(self, _: None) -> None:
    self.stack.append(self.persistent(self.pop()))
