"""Fields from the command line: `--config.train.steps=1000`."""

from collections.abc import Mapping
import functools
import types
import typing
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import formats
from pyramid_jax.config import names
from pyramid_jax.config import paths
from pyramid_jax.config import sections


_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}


def override(config: ConfigDict, values: Mapping[str, str | None]) -> None:
  """Sets fields from the command line, in place, whether locked or not.

  Args:
    config: the config of any system.
    values: {'train.steps': '1000', ...}, read by the type of the field; None
      turns a field on that is true or false. Names and values of format 1 are
      taken with a warning.

  Raises:
    UserError: no such field, the text is not of the field's type, or a path
      begins with the home folder of nobody.
  """
  fields = names.flatten(config)
  for given, text in values.items():
    plain = given.removeprefix(sections.FIRST_STAGE)
    new = formats.RENAMED.get(plain, plain)
    name = given.removesuffix(plain) + new
    if name != given:
      logging.warning('--config.%s is now called --config.%s.', given, name)
    if name not in fields and (default := sections.left_out(fields, name)):
      fields[name] = default[0]
    if name not in fields:
      raise errors.UserError(
        f'--config.{given}: there is no such field of the system'
        f' {fields.get("system.name", "")!r}{names.nearest(name, fields)}'
      )
    value = _parse(name, text, fields)
    meanings = formats.VALUES.get(new, {})
    if isinstance(value, str) and value in meanings:
      today = meanings[value]
      logging.warning('--config.%s=%s is now called %s.', name, value, today)
      value = today
    *parents, last = name.split('.')
    section = functools.reduce(ConfigDict.__getitem__, parents, config)
    with section.ignore_type(), section.unlocked():
      section[last] = value
  paths.expand_all(config)


def _parse(name: str, text: str | None, fields: Mapping[str, Any]) -> Any:
  """Reads a text as the type of a field."""
  old, field = fields[name], sections.find(fields, name)
  if text is None:
    if isinstance(old, bool):
      return True
    raise errors.UserError(f'--config.{name}: must be --config.{name}=VALUE.')
  kind: Any
  if field is None:  # of the constructor of a network
    kind = sections.network_type(fields, name)
    kind = _of_value(old) if kind in (None, Any) else kind
    wanted = f'{type(old).__name__}, as {old!r} is'
  else:
    kind, wanted = field.item_kind, field.type_name
    many = types.GenericAlias(tuple, (kind, ...))
    if field.one_or_many:
      kind = kind | many
    elif field.kind is tuple:
      kind = many
  try:
    return _read(text, kind)
  except (KeyError, ValueError):
    raise errors.UserError(
      f'--config.{name}={text}: must be {wanted}.'
    ) from None


def _of_value(old: Any) -> Any:
  """Returns the annotation that a value suggests."""
  if isinstance(old, tuple):
    item = _of_value(old[0]) if old else int | float | str
    return types.GenericAlias(tuple, (item, ...))
  return int | float | str if old is None else type(old)


def _read(text: str, kind: Any) -> Any:
  """Reads a text as an annotation says, or raises a ValueError or KeyError."""
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    return _read_any(text, typing.get_args(kind))
  if kind in (None, type(None)):
    return {'none': None}[text.lower()]
  if kind is bool:
    return _BOOLEANS[text.lower()]
  if kind in (int, float, str):
    return kind(text)
  if typing.get_origin(kind) is typing.Literal:
    return text
  item = next(iter(typing.get_args(kind)), int | float | str)
  if item is Ellipsis:
    item = int | float | str
  inside = _without(text.strip(), '()', '[]')
  return tuple(
    _read(_without(t.strip(), "''", '""'), item)
    for t in inside.split(',')
    if t.strip()
  )


def _without(text: str, *pairs: str) -> str:
  """Returns a text without the brackets or quotes around it."""
  for pair in pairs:
    if len(text) > 1 and text.startswith(pair[0]) and text.endswith(pair[1]):
      return text[1:-1]
  return text


def _read_any(text: str, kinds: tuple[Any, ...]) -> Any:
  """Reads a text as the first of several types that it can be."""
  is_many = ',' in text or text.strip()[:1] in ('(', '[')
  many = [
    k for k in kinds if typing.get_origin(k) not in (None, types.UnionType)
  ]
  candidates = many if is_many and many else kinds
  # Tuples come after single values, and a text, which is everything, last.
  for kind in sorted(candidates, key=lambda k: 2 * (k is str) + (k in many)):
    try:
      return _read(text, kind)
    except (KeyError, ValueError):
      continue
  raise ValueError(text)
