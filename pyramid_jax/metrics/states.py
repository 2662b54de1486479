"""What scores keep of a set of images: small numbers, batch by batch.

A state is a frozen value. `update` adds a batch of images, `merge` what another
state has of other images of the set, `finish` makes rows of a table. No state
keeps images, and all of it is arrays, to be written to disk and read back.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Protocol
from typing import Self

import numpy as np

from pyramid_jax.metrics import bootstrap


Array = np.ndarray
Columns = Mapping[str, Array]  # (B, ...) by name
Row = bootstrap.Row
_PLACE = 'place'  # the column of the places


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """Some images of a set, and what they are compared with."""

  places: np.ndarray  # (B,) their numbers in the set, rising
  images: np.ndarray  # (B, H, W, 3) uint8
  examples: Columns = dataclasses.field(default_factory=dict)  # conditions
  # (R, H, W, 3) uint8, the real images of the first R <= B conditions, those
  # that no earlier batch has; None where they are not known.
  real: np.ndarray | None = None
  # (R, ...) conditions of other real images, None if nobody needs them.
  others: Columns | None = None
  # (M, H, W, 3) uint8, the first images of a set of real ones at `places`.
  reference: np.ndarray | None = None
  codes: Sequence[np.ndarray] = ()  # (B, ...) of each codebook
  # (B, H, W, 3) uint8 of each scale but the finest, if they are scored.
  coarse: Sequence[np.ndarray] = ()
  # All images (G, H, W, 3) uint8 of a condition that has several, at the row of
  # one of them; the others may be in the batches of other processes.
  alike: Sequence[tuple[int, np.ndarray]] = ()

  @property
  def conditions(self) -> Columns:
    """The conditions of `real`, (R, ...) each."""
    count = 0 if self.real is None else len(self.real)
    return {name: x[:count] for name, x in self.examples.items()}


@dataclasses.dataclass(frozen=True)
class Kept:
  """Numbers of single images."""

  # Those of some images each; only ever appended to.
  parts: tuple[Columns, ...] = ()

  def add(self, places: np.ndarray, columns: Columns) -> 'Kept':
    """Adds columns (B, ...) of images at places (B,)."""
    if not columns or not len(places):
      return self
    return Kept((*self.parts, {_PLACE: np.asarray(places), **columns}))

  def merge(self, other: 'Kept') -> 'Kept':
    """Returns the numbers of the images of both, which share none."""
    return Kept(self.parts + other.parts)

  @property
  def places(self) -> np.ndarray:
    """(N,) of the images, rising."""
    none = np.zeros(0, np.int64)
    return np.sort(np.concatenate([none, *(x[_PLACE] for x in self.parts)]))

  def columns(self) -> dict[str, np.ndarray]:
    """Returns the columns (N, ...) in the order of the places."""
    joined = join(self.parts)
    order = np.argsort(joined.pop(_PLACE, np.zeros(0)), kind='stable')
    return {name: x[order] for name, x in joined.items()}


def join(parts: Sequence[Columns]) -> dict[str, np.ndarray]:
  """Returns the columns of all parts, which have the same names."""
  names = parts[0] if parts else ()
  return {name: np.concatenate([x[name] for x in parts]) for name in names}


class Numbers(Protocol):
  """What is kept of images, as arrays."""

  def merge(self, other: Self) -> Self:
    """Returns the state of the images of both, which share none."""

  @property
  def kept(self) -> Mapping[str, Kept]:
    """What grows with the number of images."""

  @property
  def totals(self) -> Columns:
    """What does not, arrays of any shape."""

  def restored(self, kept: Mapping[str, Kept], totals: Columns) -> Self:
    """Returns this state with other numbers, those of `kept` and `totals`."""


class State(Numbers, Protocol):
  """What one or several scores keep."""

  def update(self, batch: Batch) -> Self:
    """Returns the state with the images of a batch."""

  def finish(self) -> list[Row]:
    """Returns the scores of all images so far."""


class Measure(Protocol):
  """Scores that follow from numbers of single images."""

  def of_images(self, batch: Batch) -> Columns:
    """Returns columns (B, ...) of the images of a batch."""

  def of_real(self, batch: Batch) -> Columns:
    """Returns columns (R, ...) of its real images, for ceilings and floors."""

  def needs_others(self, examples: Columns) -> bool:
    """Whether `of_real` needs conditions of other real images."""

  def rows(self, images: Columns, real: Columns) -> list[Row]:
    """Returns the scores, given the columns of all images."""


class Means:
  """A `Measure` of means over images, without ceilings and floors.

  `of_images` gives `bootstrap.mean_pairs`.
  """

  def of_real(self, batch: Batch) -> Columns:
    del batch
    return {}

  def needs_others(self, examples: Columns) -> bool:
    del examples
    return False

  def rows(self, images: Columns, real: Columns) -> list[Row]:
    del real
    return rows(bootstrap.ratios(images), {}, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerImage:
  """The state of a measure."""

  measure: Measure
  images: Kept = Kept()
  real: Kept = Kept()

  def update(self, batch: Batch) -> 'PerImage':
    images = self.images.add(batch.places, self.measure.of_images(batch))
    real = self.real
    if batch.real is not None and len(batch.real):
      places = batch.places[: len(batch.real)]
      real = real.add(places, self.measure.of_real(batch))
    return dataclasses.replace(self, images=images, real=real)

  def merge(self, other: 'PerImage') -> 'PerImage':
    images, real = self.images.merge(other.images), self.real.merge(other.real)
    return dataclasses.replace(self, images=images, real=real)

  def finish(self) -> list[Row]:
    return self.measure.rows(self.images.columns(), self.real.columns())

  @property
  def kept(self) -> dict[str, Kept]:
    return {'images': self.images, 'real': self.real}

  @property
  def totals(self) -> Columns:
    return {}

  def restored(self, kept: Mapping[str, Kept], totals: Columns) -> 'PerImage':
    del totals
    return dataclasses.replace(self, images=kept['images'], real=kept['real'])


# Names of the columns of real images: with their own conditions and with those
# of others.
CEILING, FLOOR = 'ceiling|', 'floor|'


def named(prefix: str, columns: Columns) -> dict[str, np.ndarray]:
  """Returns columns under longer names."""
  return {prefix + name: x for name, x in columns.items()}


def part(prefix: str, columns: Columns) -> dict[str, np.ndarray]:
  """Returns the columns that have a prefix, under their names without it."""
  return {
    name.removeprefix(prefix): x
    for name, x in columns.items()
    if name.startswith(prefix)
  }


def number(count: int) -> str:
  """Returns a number of images as the names of scores have it: 50k, 2048."""
  return f'{count // 1000}k' if count and count % 1000 == 0 else str(count)


def rows(
  scores: Mapping[str, bootstrap.Score],
  ceilings: Mapping[str, bootstrap.Score],
  floors: Mapping[str, bootstrap.Score],
) -> list[Row]:
  """Returns rows of scores with the bounds that there are."""
  return [Row(n, s, ceilings.get(n), floors.get(n)) for n, s in scores.items()]
