"""Checks of the attributes and arguments of modules."""

from collections.abc import Iterable
from typing import Any

import jax


def check(module: Any, **allowed: Iterable[str]) -> None:
  """Raises ValueError if an attribute has none of its allowed values."""
  for name, choices in allowed.items():
    value = getattr(module, name)
    if value not in choices:
      raise ValueError(f'{name} is {value!r}, allowed: {", ".join(choices)}.')


def check_image(name: str, x: jax.Array, smallest: int) -> None:
  """Raises ValueError if x is not (B, H, W, 3), sides of `smallest` or more."""
  if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < smallest:
    raise ValueError(
      f'{name} needs (B, H, W, 3) with sides of at least {smallest}, got'
      f' {x.shape}.'
    )
