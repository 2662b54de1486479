"""What is known of the camera of a picture, in words and as ids."""

from collections.abc import Mapping
from typing import Any


# By batch key, the values in the order of their ids, which begin at 1; 0 is
# not known.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
  'pitch': ('descending', 'eye level', 'ascending'),
  'depth_of_field': ('shallow', 'deep'),
}


def ids(words: Mapping[str, Any]) -> dict[str, int]:
  """Returns the id of every attribute, 0 where nothing is said.

  Args:
    words: {attribute: value, or '' or None}; other keys are not looked at.

  Raises:
    ValueError: a value that there is not.
  """
  found = {}
  for name, allowed in ATTRIBUTES.items():
    value = words.get(name) or ''
    if value not in ('', *allowed):
      raise ValueError(
        f'{name} is {value!r}, must be one of {", ".join(allowed)}'
      )
    found[name] = 1 + allowed.index(value) if value else 0
  return found
