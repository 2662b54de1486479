"""Saved images and their conditions, batch by batch."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data.caches import stored_arrays
from pyramid_jax.data.synthetic import condition_alignment
from pyramid_jax.data.synthetic import render as shapes_render
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import shares
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import measures
from pyramid_jax.metrics import states


Arrays = Mapping[str, stored_arrays.StoredArray]


def measure(config: ConfigDict, conditions: Arrays) -> states.Measure | None:
  """Returns the scores of images by their saved conditions.

  There are ceilings and floors where the real images of the conditions are
  known. None where the detector does not know the data.
  """
  level = None
  if 'level' in conditions:
    levels = conditions['level'][np.arange(len(conditions['level']))]
    level = condition_alignment.level_of({'level': levels})
  bounds = bool({'geometry', 'image'} & conditions.keys())
  return measures.of_samples(config, level, bounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedSamples:
  """The batches of saved images."""

  images: image_sources.Images
  conditions: Arrays  # of each image, by their example names; may be empty
  size: int  # images of a batch
  measures: Sequence[states.Measure]  # of the conditions
  seed: int  # of the order in which conditions are those of others
  reference: image_sources.Images | None = None  # real images to compare with

  @property
  def steps(self) -> int:
    """The number of batches."""
    return -(-self.images.count // self.size)

  def check(self) -> None:
    """Raises a ValueError for conditions that are not one for each image."""
    count = self.images.count
    if not self.measures:
      return
    for name, rows in self.conditions.items():
      if len(rows) != count:
        raise ValueError(
          f'{count} images and {len(rows)} examples ({name}) must be equally'
          ' many.'
        )

  def batches(self, first: int) -> Iterator[states.Batch]:
    """Yields all batches but for the `first` ones.

    Each process reads the images that it counts.
    """
    own = shares.of_batch(mesh_lib.pure_data(), self.size).own
    reference: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
    if self.reference is not None:
      reference = self.reference.batches(self.size, first, own)
    none = (np.zeros(0), None)
    for places, images in self.images.batches(self.size, first, own):
      if not len(places):
        yield states.Batch(places=places, images=images)
        continue
      examples = self._rows(places)
      real = self._whole_images(places, examples, images.shape[1])
      yield states.Batch(
        places=places,
        images=images,
        examples=examples,
        real=real,
        others=self._others(places, examples),
        reference=next(reference, none)[1],
      )

  def _rows(self, places: np.ndarray) -> dict[str, np.ndarray]:
    if not self.measures:
      return {}
    return {name: rows[places] for name, rows in self.conditions.items()}

  def _others(
    self, places: np.ndarray, examples: states.Columns
  ) -> states.Columns | None:
    """Returns the conditions of other images."""
    count = self.images.count
    if count < 2 or not any(x.needs_others(examples) for x in self.measures):
      return None
    return self._rows(self._moved[places])

  @functools.cached_property
  def _moved(self) -> np.ndarray:
    return condition_alignment.other_places(self.images.count, self.seed)

  def _whole_images(
    self, places: np.ndarray, examples: states.Columns, size: int
  ) -> np.ndarray | None:
    """Returns the real images of conditions, None if they are not there."""
    if 'geometry' not in examples:
      return examples.get('image')
    # A scene of shapes, drawn again; one program serves all batches.
    rows = np.resize(np.arange(len(places)), self.size)
    spec = {n: jnp.asarray(examples[n][rows]) for n in shapes_render.SPEC}
    drawn = processes.to_host(shapes_render.image(spec, size))
    return drawn.astype(np.uint8)[: len(places)]
