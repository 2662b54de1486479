"""Dotted names of fields: flat and nested values, and names close to one."""

from collections.abc import Iterable
from collections.abc import Mapping
import difflib
from typing import Any

from ml_collections import ConfigDict


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?', or '.' when nothing is like `name`."""
  names = list(known)
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  if not near:  # the right name in the wrong section
    last = name.rpartition('.')[2]
    ends = {n.rpartition('.')[2]: n for n in reversed(names)}
    found = difflib.get_close_matches(last, ends, n=1, cutoff=0.5)
    near = [ends[n] for n in found]
  return f'; did you mean {near[0]!r}?' if near else '.'


def flatten(
  values: Mapping[str, Any] | ConfigDict, prefix: str = ''
) -> dict[str, Any]:
  """Returns {'train.steps': 1000, ...}; empty sections vanish."""
  fields: dict[str, Any] = {}
  for name, value in values.items():
    if isinstance(value, dict | ConfigDict):
      fields.update(flatten(value, f'{prefix}{name}.'))
    else:
      fields[prefix + name] = value
  return fields


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns {'train': {'steps': 1000}, ...} of flat values."""
  tree: dict[str, Any] = {}
  for name, value in values.items():
    *parents, last = name.split('.')
    section = tree
    for parent in parents:
      section = section.setdefault(parent, {})
    section[last] = value
  return tree
