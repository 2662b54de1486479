"""A declaration of one field of a config: its default, meaning and range.

Modules declare `FIELDS`, a mapping from dotted names to `Field`, with the
code that reads them, and `CHECKS` of what two fields must have in common.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from pyramid_jax.config import ranges


Values = Mapping[str, Any]  # {'train.steps': 1000, ...}
FINITE = 'a finite number'
UNICODE = 'of whole characters, in UTF-8'


@dataclasses.dataclass(frozen=True)
class Field:
  """A field that a config has."""

  default: Any  # in `config.base`; its type is the field's
  doc: str  # one sentence with the meaning and the unit
  _: dataclasses.KW_ONLY
  low: float | None = None  # the smallest number allowed
  high: float | None = None  # the largest number allowed
  above: float | None = None  # a number that the value must exceed
  below: float | None = None  # a number that the value must not reach
  also: tuple[float, ...] = ()  # values allowed outside of the range
  choices: tuple[Any, ...] = ()  # the values allowed; empty for all of the type
  length: tuple[int, ...] = ()  # numbers of items of a tuple; empty for any
  items: type | None = None  # of a tuple; None: that of the default's first
  one_or_many: bool = False  # one value, or a tuple with one value a stage
  resumable: bool = False  # whether a resume may change it
  path: bool = False  # whether it names a file or folder; see config.paths

  @property
  def kind(self) -> type:
    """The type of the value, `tuple` for a tuple."""
    return type(self.default)

  @property
  def item_kind(self) -> type:
    """The type of the items of a tuple, of the value itself otherwise."""
    if self.items is not None:
      return self.items
    if isinstance(self.default, tuple):
      return type(self.default[0]) if self.default else str
    return self.kind

  @property
  def type_name(self) -> str:
    """What a value must be, for messages: 'int' or 'tuple of float'."""
    item = self.item_kind.__name__
    if self.one_or_many:
      return f'{item} or tuple of {item}'
    return f'tuple of {item}' if self.kind is tuple else item

  @property
  def bounds(self) -> tuple[float, float]:
    """The ends of the range of a number; they are finite for every field."""
    most = ranges.WHOLE if self.item_kind is int else ranges.REAL
    lows = [x for x in (self.low, self.above) if x is not None]
    highs = [x for x in (self.high, self.below) if x is not None]
    return (lows or [-most])[0], (highs or [most])[0]

  @property
  def range(self) -> str:
    """What else a value must be, for messages; '' for anything of the type."""
    parts = []
    if self.choices:
      shown = [str(choice) or "''" for choice in self.choices]
      parts.append(f'one of {", ".join(shown)}')
    elif self.item_kind in (int, float):
      left = '[' if self.above is None else '('
      right = ']' if self.below is None else ')'
      low, high = map(_shown, self.bounds)
      parts.append(f'in {left}{low}, {high}{right}')
    if self.also:
      parts.append(' or '.join(map(_shown, self.also)))
    text = ' or '.join(parts)
    if not self.length:
      return text
    numbers = ' or '.join(str(count) for count in self.length)
    whole = f'{numbers} {"value" if numbers == "1" else "values"}'
    return f'{whole}, each {text}' if text else whole

  def problem(self, value: Any) -> str:
    """Returns what the value must be, or '' where it is allowed."""
    article = 'an' if self.type_name[0] in 'aeio' else 'a'
    is_tuple = isinstance(value, tuple)
    items = value if is_tuple else (value,)
    if is_tuple != (self.kind is tuple) and not self.one_or_many:
      return f'{article} {self.type_name}'
    is_number = lambda x: isinstance(x, int | float) and type(x) is not bool
    is_kind = lambda x: type(x) is self.item_kind
    if not all(map(is_number if self.item_kind is float else is_kind, items)):
      return f'{article} {self.type_name}'
    if is_tuple and self.length and len(value) not in self.length:
      return self.range
    if is_tuple and self.one_or_many and not value:
      return f'{article} {self.type_name}, not empty'
    if is_tuple and len(value) > ranges.WIDTH:
      return f'at most {ranges.WIDTH} values'
    if not all(math.isfinite(x) for x in items if isinstance(x, float)):
      return FINITE
    if not all(_is_unicode(x) for x in items if isinstance(x, str)):
      return UNICODE
    return '' if all(map(self._allows, items)) else self.range

  def _allows(self, item: Any) -> bool:
    if self.choices:
      return item in self.choices
    if isinstance(item, str | bool) or item in self.also:
      return True
    low, high = self.bounds
    if isinstance(item, float) and 0 < abs(item) < ranges.TINY:
      return False
    return low <= item <= high and item not in (self.above, self.below)


def free_problem(value: Any, low: int | None = None) -> str:
  """Returns what a value without a declaration must be, '' if it is allowed.

  Such are the arguments of the constructors of networks.

  Args:
    value: of any type.
    low: the least whole number; None for the largest with a minus.
  """
  if isinstance(value, list | tuple):
    return next(filter(None, (free_problem(x, low) for x in value)), '')
  if isinstance(value, str):
    return '' if _is_unicode(value) else UNICODE
  if isinstance(value, bool) or not isinstance(value, int | float):
    return ''
  if isinstance(value, float) and not math.isfinite(value):
    return FINITE
  is_whole = isinstance(value, int)
  high = ranges.NETWORK if is_whole else ranges.REAL
  least = low if is_whole and low is not None else -high
  if least <= value <= high:
    return ''
  return f'in [{_shown(least)}, {_shown(high)}]'


def _is_unicode(text: str) -> bool:
  """Whether a text has no bytes of another encoding, which JSON cannot hold."""
  return not any('\ud800' <= character <= '\udfff' for character in text)


def _shown(number: float) -> str:
  """Returns a number as it is read: 2147483647, 0.5, 1e+09."""
  return str(number) if isinstance(number, int) else f'{number:g}'


@dataclasses.dataclass(frozen=True)
class Broken:
  """A rule between fields that a config breaks."""

  name: str  # The name of the field whose value is refused.
  allowed: str  # what it must be, to follow 'must be'


Check = Callable[[Values], Broken | None]
