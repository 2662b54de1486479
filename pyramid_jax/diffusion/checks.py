"""Checks of arguments; each raises a ValueError of one line."""

from collections.abc import Collection
from typing import Any


def check(name: str, value: Any, ok: bool, allowed: str) -> None:
  """Refuses a value that is not `ok`; `allowed` says what would be."""
  if not ok:
    raise ValueError(f'{name} is {value}, must be {allowed}')


def one_of(name: str, value: Any, allowed: Collection[Any]) -> None:
  """Refuses a value that is not among those allowed."""
  if value not in allowed:
    raise ValueError(f'{name} {value!r} is not one of {allowed}')


def check_steps(steps: int, most: int | None = None) -> None:
  """Refuses a number of sampling steps that is not in 1..most."""
  allowed = f'lie in 1..{most}' if most else 'be at least 1'
  if steps < 1 or (most and steps > most):
    raise ValueError(f'sampling steps {steps} must {allowed}')
