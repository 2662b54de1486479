"""Hashes that values of JSON carry, so that a changed file is noticed."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any


def digest(values: Any) -> str:
  """Returns the SHA-256 of values of JSON, whatever their text looks like."""
  text = json.dumps(values, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def is_intact(values: Mapping[str, Any], seal: Any, *without: str) -> bool:
  """Whether values but for some names have a hash."""
  rest = {k: v for k, v in values.items() if k not in without}
  return digest(rest) == seal
