"""The states of several sets of images by name, some without images yet."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Generic
from typing import Protocol
from typing import Self
from typing import TypeVar

import numpy as np

from pyramid_jax.metrics import states


class OneSet(Protocol):
  """What is kept of one set."""

  @property
  def kept(self) -> states.Kept:
    """What grows with the number of images."""

  @property
  def totals(self) -> states.Columns:
    """What does not."""

  def merge(self, other: Self) -> Self:
    """Returns the state of the images of both, which share none."""

  @classmethod
  def of_totals(cls, totals: states.Columns, kept: states.Kept) -> Self:
    """Returns the state that has these numbers."""


S = TypeVar('S', bound=OneSet)


def merged(a: S | None, b: S | None) -> S | None:
  """Returns the state of the images of both."""
  return a.merge(b) if a is not None and b is not None else a or b


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sets(Generic[S]):
  """The states of some sets, as a `states.State` without scores."""

  kind: type[S]
  parts: Mapping[str, S | None]

  def added(
    self, names: Sequence[str], make: Callable[[np.ndarray], S]
  ) -> 'Sets[S]':
    """Adds images (B,) to the sets of their names.

    `make` returns the state of some of them, given (B,) bool.
    """
    parts, all_names = dict(self.parts), np.asarray(names)
    for name in dict.fromkeys(names):
      parts[name] = merged(parts[name], make(all_names == name))
    return dataclasses.replace(self, parts=parts)

  def whole(self, name: str) -> S:
    """Returns a set; one without images is a ValueError."""
    found = self.parts[name]
    if found is None:
      raise ValueError('there are too few images to score.')
    return found

  def merge(self, other: 'Sets[S]') -> 'Sets[S]':
    """Returns the states of the images of both."""
    both = {n: merged(x, other.parts[n]) for n, x in self.parts.items()}
    return dataclasses.replace(self, parts=both)

  @property
  def kept(self) -> dict[str, states.Kept]:
    """Numbers of single images, by set."""
    parts = self.parts.items()
    return {n: states.Kept() if x is None else x.kept for n, x in parts}

  @property
  def totals(self) -> dict[str, np.ndarray]:
    """The rest, `SET|NAME` each."""
    arrays: dict[str, np.ndarray] = {}
    for name, state in self.parts.items():
      if state is not None:
        arrays |= states.named(f'{name}|', state.totals)
    return arrays

  def restored(
    self, kept: Mapping[str, states.Kept], totals: states.Columns
  ) -> 'Sets[S]':
    """Returns the states that have these numbers."""

    def part(name: str) -> S | None:
      own = states.part(f'{name}|', totals)
      if not own:
        return None
      return self.kind.of_totals(own, kept.get(name, states.Kept()))

    return dataclasses.replace(
      self, parts={name: part(name) for name in self.parts}
    )
