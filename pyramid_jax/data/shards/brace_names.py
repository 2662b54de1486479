"""Names of many files in one text: `{00000..00099}.tar`, `{a,b}/x.tar`."""

import itertools
import re

from pyramid_jax import errors
from pyramid_jax import limits


_GROUP = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d{1,12})\.\.(\d{1,12})')


def has_braces(text: str) -> bool:
  """Whether a text names several files."""
  return '{' in text


def expanded(text: str, field: str) -> list[str]:
  """Returns the names that a text stands for, in its order.

  As in bash, a range of numbers keeps its width if its first number begins with
  0, and several groups are combined, the last one changing first.

  Args:
    text: with groups {FIRST..LAST} or {NAME,NAME}, or without any.
    field: of the config, for messages.

  Raises:
    UserError: another group, or too many names.
  """
  parts = _GROUP.split(text)
  groups = [
    [part] if i % 2 == 0 else _choices(part, text, field)
    for i, part in enumerate(parts)
  ]
  if any('{' in part or '}' in part for part in parts):
    raise errors.UserError(f'{field} is {text!r}, its braces do not match.')
  count = 1
  for group in groups:
    count *= len(group)
  if count > limits.SHARDS:
    raise errors.UserError(
      f'{field} is {text!r}, {count} files; at most {limits.SHARDS} are read.'
    )
  return [''.join(names) for names in itertools.product(*groups)]


def _choices(group: str, text: str, field: str) -> list[str]:
  match = _RANGE.fullmatch(group)
  if match is None and ',' in group:
    return group.split(',')
  if match is None:
    raise errors.UserError(
      f'{field} is {text!r}, in braces must be {{FIRST..LAST}}, two numbers, or'
      f' {{NAME,NAME}}, got {{{group}}}.'
    )
  first, last = int(match[1]), int(match[2])
  if not 0 <= last - first < limits.SHARDS:
    raise errors.UserError(
      f'{field} is {text!r}, {{{group}}} must rise, by at most'
      f' {limits.SHARDS} files.'
    )
  width = len(match[1]) if match[1].startswith('0') else 1
  return [f'{number:0{width}d}' for number in range(first, last + 1)]
