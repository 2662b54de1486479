"""Values as the texts that processes of one run send each other.

They are not foreign: nothing is refused, and NaN stays NaN.
"""

import json
from typing import Any


def packed(value: Any) -> str:
  """Returns the text of a value of JSON's types; tuples become lists."""
  return json.dumps(value)


def unpacked(text: str | bytes) -> Any:
  """Returns the value of a text of `packed`."""
  return json.loads(text)
