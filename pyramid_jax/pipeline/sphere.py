"""Perspective views of a sphere, and the equirectangular image of it.

A direction is (x, y, z): to the right, down and forward. Column c of an
equirectangular image (H, 2 H) has the longitude ((c + 1/2) / 2H - 1/2) 2 pi, to
the right, row r the latitude ((r + 1/2) / H - 1/2) pi, downwards; the column
behind the last one is the first, and the row beyond a pole is the same row half
a turn away. All arrays are float64.
"""

from collections.abc import Callable
import dataclasses
import math

import numpy as np


Place = tuple[np.ndarray, np.ndarray]  # row and column, px, between pixels too


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """A square perspective image of the sphere."""

  yaw: float  # of its centre, degrees to the right
  pitch: float  # of its centre, degrees upwards
  fov: float  # from its left to its right border, degrees below 180
  side: int  # px

  @property
  def focal(self) -> float:
    """The distance of the image from the eye, px."""
    return self.side / 2 / math.tan(math.radians(self.fov) / 2)

  @property
  def rotation(self) -> np.ndarray:
    """(3, 3) the matrix from directions of the view to those of the sphere."""
    yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
    up = np.array(
      [
        [1.0, 0.0, 0.0],
        [0.0, math.cos(pitch), -math.sin(pitch)],
        [0.0, math.sin(pitch), math.cos(pitch)],
      ]
    )
    turn = np.array(
      [
        [math.cos(yaw), 0.0, math.sin(yaw)],
        [0.0, 1.0, 0.0],
        [-math.sin(yaw), 0.0, math.cos(yaw)],
      ]
    )
    return turn @ up

  @property
  def directions(self) -> np.ndarray:
    """(side, side, 3) of the centres of pixels, of any length."""
    at = (np.arange(self.side) + 0.5 - self.side / 2) / self.focal
    x, y = np.meshgrid(at, at)
    return np.stack([x, y, np.ones_like(x)], -1) @ self.rotation.T

  def places(self, directions: np.ndarray) -> tuple[Place, np.ndarray]:
    """Returns where directions (..., 3) are in the image, and which are in it.

    Outside of it, places are those of its border.
    """
    x, y, z = np.moveaxis(directions @ self.rotation, -1, 0)
    front = z > 1e-9
    depth = np.where(front, z, 1.0)
    last, middle = self.side - 1, (self.side - 1) / 2
    place = (self.focal * y / depth + middle, self.focal * x / depth + middle)
    inside = front & np.all([(at >= 0) & (at <= last) for at in place], axis=0)
    row, column = (np.clip(at, 0, last) for at in place)
    return (row, column), inside


def directions(height: int) -> np.ndarray:
  """Returns (H, 2 H, 3) those of the pixels of an equirectangular image."""
  down = ((np.arange(height) + 0.5) / height - 0.5) * math.pi
  right = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * math.pi
  latitude, longitude = np.meshgrid(down, right, indexing='ij')
  flat = np.cos(latitude)
  x, z = flat * np.sin(longitude), flat * np.cos(longitude)
  return np.stack([x, np.sin(latitude), z], -1)


def places(directions: np.ndarray, height: int) -> Place:
  """Returns where directions (..., 3) are in an equirectangular image."""
  x, y, z = np.moveaxis(directions, -1, 0)
  latitude = np.arctan2(y, np.hypot(x, z))
  row = (latitude / math.pi + 0.5) * height - 0.5
  column = (np.arctan2(x, z) / (2 * math.pi) + 0.5) * 2 * height - 0.5
  return row, column


def on_sphere(row: np.ndarray, column: np.ndarray, height: int) -> Place:
  """Returns the pixels of an equirectangular image that rows and columns are.

  They may be one image beyond the borders.
  """
  beyond = (row < 0) | (row >= height)
  row = np.where(row < 0, -1 - row, row)
  row = np.where(row >= height, 2 * height - 1 - row, row)
  return row, (column + height * beyond) % (2 * height)


def bilinear(
  image: np.ndarray,
  place: Place,
  pixels: Callable[[np.ndarray, np.ndarray], Place],
) -> np.ndarray:
  """Returns (..., C) the values of an image (H, W, C) between its pixels.

  Args:
    image: of any kind.
    place: rows and columns, (...) each.
    pixels: (rows, columns) -> those of the pixels that serve, in the image.
  """
  low = [np.floor(at).astype(np.int64) for at in place]
  part = [at - first for at, first in zip(place, low, strict=True)]
  total = np.zeros((*place[0].shape, image.shape[-1]))
  for i in (0, 1):
    for j in (0, 1):
      row, column = pixels(low[0] + i, low[1] + j)
      weight = np.abs(1 - i - part[0]) * np.abs(1 - j - part[1])
      total += weight[..., None] * image[row, column]
  return total


def seen(panorama: np.ndarray, view: View) -> np.ndarray:
  """Returns what a view sees, (side, side, C), of an image (H, 2 H, C)."""
  height = len(panorama)
  place = places(view.directions, height)
  wrapped = lambda row, column: on_sphere(row, column, height)
  return bilinear(panorama, place, wrapped)


def painted(image: np.ndarray, view: View, height: int) -> Place:
  """Returns what a view shows in an equirectangular image, and where.

  Args:
    image: (side, side, C), between whose pixels values are interpolated.
    view: its view.
    height: H of the result.

  Returns:
    (H, 2 H, C) values, and (H, 2 H) whether the view has the pixel.
  """
  place, inside = view.places(directions(height))
  last = view.side - 1
  within = lambda row, column: (np.minimum(row, last), np.minimum(column, last))
  return bilinear(image, place, within), inside


def covering(fov: float, overlap: float, side: int) -> list[View]:
  """Returns views that cover the sphere, the ring of the horizon first.

  Rings are (1 - overlap) of the angle of a view apart, the views of a ring at
  most so far at its latitude that is nearest to the horizon. Upper rings come
  before lower ones.

  Args:
    fov: of a view, degrees.
    overlap: the share of a view that the next one repeats, in (0, 1).
    side: of a view, px.
  """
  step = fov * (1 - overlap)
  count = max(0, math.ceil((90 - fov / 2) / step))
  rings = [0.0]
  for number in range(1, count + 1):
    pitch = min(number * step, 90.0)
    rings += [pitch, -pitch]
  found = []
  for pitch in rings:
    nearest = math.radians(max(abs(pitch) - fov / 2, 0.0))
    number = max(1, math.ceil(360 * math.cos(nearest) / step - 1e-9))
    if abs(pitch) == 90:
      number = 1
    for i in range(number):
      found.append(View(yaw=360 * i / number, pitch=pitch, fov=fov, side=side))
  return found
