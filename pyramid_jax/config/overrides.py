"""Fields from the command line: `--config.train.steps=1000`."""

from collections.abc import Mapping
import types
import typing
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import formats
from pyramid_jax.config import names
from pyramid_jax.config import sections
from pyramid_jax.config import tree


_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}


def override(config: ConfigDict, values: Mapping[str, str]) -> None:
  """Sets fields from the command line, in place.

  Args:
    config: locked or not.
    values: {'train.steps': '1000', ...}, read by the type of the field. Names
      and values of format 1 are taken with a warning.

  Raises:
    UserError: no such field, or the text is not of the field's type.
  """
  fields = tree.flatten(config)
  for given, text in values.items():
    name = _renamed(given)
    if name not in fields:
      raise errors.UserError(
        f'--config.{given}: there is no such field of the system'
        f' {fields.get("system.name", "")!r}{names.nearest(name, fields)}'
      )
    value = _current(name, _parse(name, text, fields))
    *parents, last = name.split('.')
    section = config
    for parent in parents:
      section = section[parent]
    with section.ignore_type():
      section[last] = value


def _split(name: str) -> tuple[str, str]:
  """Returns 'first_stage.' or '', and the name without it."""
  plain = name.removeprefix(sections.FIRST_STAGE)
  return name.removesuffix(plain), plain


def _renamed(name: str) -> str:
  """Returns the name of today, with a warning where another was given."""
  prefix, plain = _split(name)
  if plain not in formats.RENAMED:
    return name
  new = prefix + formats.RENAMED[plain]
  logging.warning('--config.%s is now called --config.%s.', name, new)
  return new


def _current(name: str, value: Any) -> Any:
  """Returns the value of today, with a warning where another was given."""
  meanings = formats.VALUES.get(_split(name)[1], {})
  if not isinstance(value, str) or value not in meanings:
    return value
  new = meanings[value]
  logging.warning('--config.%s=%s is now called %s.', name, value, new)
  return new


def _parse(name: str, text: str, fields: Mapping[str, Any]) -> Any:
  """Reads a text as the type of a field."""
  old = fields[name]
  field = sections.find(fields, name)
  if field is not None:
    wanted, kind = field.type_name, _type_of(field)
  else:
    kind = _network_type(name, fields)
    wanted = f'{type(old).__name__}, as {old!r} is'
  try:
    return _read(text, kind)
  except (KeyError, ValueError):
    raise errors.UserError(
      f'--config.{name}={text}: must be {wanted}.'
    ) from None


def _type_of(field: Any) -> Any:
  """Returns the annotation that a declared field would have."""
  if field.one_or_many:
    return field.item_kind | tuple[field.item_kind, ...]
  return tuple[field.item_kind, ...] if field.kind is tuple else field.kind


def _network_type(name: str, fields: Mapping[str, Any]) -> Any:
  """Returns the annotation of a constructor field, or what its value tells."""
  found = sections.network_type(fields, name)
  return _of_value(fields[name]) if found in (None, Any) else found


def _of_value(old: Any) -> Any:
  if isinstance(old, tuple):
    item = _of_value(old[0]) if old else int | float | str
    return types.GenericAlias(tuple, (item, ...))
  return int | float | str if old is None else type(old)


def _read(text: str, kind: Any) -> Any:
  """Reads a text as what an annotation says.

  Raises:
    ValueError: it is nothing of the kind.
    KeyError: it is no boolean.
  """
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    return _read_any(text, typing.get_args(kind))
  if kind in (None, type(None)):
    if text.lower() != 'none':
      raise ValueError(text)
    return None
  if kind is bool:
    return _BOOLEANS[text.lower()]
  if kind in (int, float, str):
    return kind(text)
  if typing.get_origin(kind) is typing.Literal:
    return text
  item = next(iter(typing.get_args(kind)), int | float | str)
  if item is Ellipsis:
    item = int | float | str
  inside = text.strip()
  for left, right in ('()', '[]'):
    if inside.startswith(left) and inside.endswith(right):
      inside = inside[1:-1]
  return tuple(_read(t.strip(), item) for t in inside.split(',') if t.strip())


def _read_any(text: str, kinds: tuple[Any, ...]) -> Any:
  """Reads a text as the first of several types that it can be."""
  is_many = ',' in text or text.strip()[:1] in ('(', '[')
  many = [
    k for k in kinds if typing.get_origin(k) not in (None, types.UnionType)
  ]
  one = [k for k in kinds if k not in many]
  # A text is everything, so it comes last.
  for kind in sorted(many if is_many and many else (*one, *many), key=_rank):
    try:
      return _read(text, kind)
    except (KeyError, ValueError):
      continue
  raise ValueError(text)


def _rank(kind: Any) -> int:
  return kind is str
