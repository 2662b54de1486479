"""The examples of a split whose images are scored, batch by batch."""

import functools

from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.conditioning import request as request_lib
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.synthetic import condition_alignment
from pyramid_jax.evaluation import examples as examples_lib
from pyramid_jax.evaluation import protocols
from pyramid_jax.metrics import states
from pyramid_jax.pipeline import rows as rows_lib


SEED = 17  # of the order of the conditions


class SplitExamples:
  """The first `count` examples of a split; programs are compiled once.

  Where the split has fewer, its examples repeat in turn: image i has example i
  modulo their number. In several runs, each has the same examples. Where a
  protocol has several images of an example, they are in one batch.
  """

  def __init__(
    self,
    config: ConfigDict,
    reader: reader_lib.Reader,
    mesh: Mesh,
    count: int,
    shuffle: bool = False,
    protocol: protocols.Protocol | None = None,
  ):
    """Takes examples from all over the split with `shuffle`.

    `count` are the images of a run. A protocol says how many runs there are,
    how many images an example has, and where classes come from.

    Raises:
      UserError: a batch is too small for the images of an example.
    """
    runs, each = (1, 1)
    self._classes: rows_lib.DrawnClasses | None = None
    if protocol is not None:
      runs, each = protocol.runs, protocol.per_condition
      if protocol.classes == protocols.UNIFORM:
        self._classes = _classes(config, reader)
    self.run_size, self.count = count, runs * count
    # The number of examples.
    self.distinct = min(-(-count // each), len(reader))
    self.size = min(config.evaluate.batch_size, count)  # of a batch
    self._each = each
    if self.size < each:
      raise errors.UserError(
        f'config.evaluate.batch_size={config.evaluate.batch_size} and'
        f' config.evaluate.count={count}: the protocol'
        f' {config.evaluate.protocol} needs at least {each}, the images of one'
        ' condition.'
      )
    self.size -= self.size % each
    self._examples = self.size // each  # of a batch
    self._batches = -(-self.distinct // self._examples)  # with all examples
    self.steps = -(-self.count // self.size)
    if each > 1:
      self.steps = self._batches * -(-self.count // (self.distinct * each))
    self._order = batches_lib.Batches(reader, self.size, SEED, shuffle)
    self._seed = config.data.seed
    self._finish = examples_lib.Finisher(config, reader, mesh, self.size)
    self._finish_others = self._finish
    if 'sketch' in config and config.sketch.shuffled_condition:
      # The conditions of others are other ones already.
      plain = config.copy_and_resolve_references()
      with plain.unlocked():
        plain.sketch.shuffled_condition = False
      self._finish_others = examples_lib.Finisher(
        plain, reader, mesh, self.size
      )

  def places(self, step: int) -> np.ndarray:
    """Returns the numbers of the images of a batch, in some fewer, rising."""
    if self._each == 1:
      first = step * self.size
      return np.arange(first, min(first + self.size, self.count))
    turn, first = divmod(step, self._batches)
    first *= self._examples
    last = min(first + self._examples, self.distinct)
    turns = turn * self._each + np.arange(self._each)
    places = turns[:, None] * self.distinct + np.arange(first, last)
    return places[places < self.count]  # in the order of the turns

  def filled(self, step: int) -> np.ndarray:
    """Returns the numbers of `size` images, those of the batch first."""
    if self._each == 1:
      return step * self.size + np.arange(self.size)
    return np.resize(self.places(step), self.size)

  def alike(self, step: int) -> list[np.ndarray]:
    """Returns the rows of a batch that have the same example, if several."""
    if self._each == 1:
      return []
    examples = self.places(step) % self.distinct
    groups = [np.flatnonzero(examples == x) for x in np.unique(examples)]
    return [rows for rows in groups if len(rows) > 1]

  def own(self, step: int) -> np.ndarray:
    """Returns which images of a batch this process counts, rising."""
    own = self._finish.share.own
    return own[own < len(self.places(step))]

  def fresh(self, places: np.ndarray) -> int:
    """Returns how many of rising places have examples of their own."""
    return int((places < self.distinct).sum())

  def at(self, step: int) -> examples_lib.Examples:
    """Returns `size` examples, in the last batch more than are scored.

    Those that this process counts are on the host; all processes call it.
    """

    filled = self.filled(step)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
      places = filled[rows]
      host = self._order.rows(places % self.run_size % self.distinct)
      return host if self._classes is None else host | self._classes(places)

    return self._finish.own(read)

  def others(self, step: int) -> states.Columns | None:
    """Returns conditions of other examples for the `fresh` ones, (R, ...).

    The whole set of conditions is the same, each at the place of another; None
    if there is only one. All processes call it, each for its `own` images.
    """
    places = self.places(step)
    if self.distinct < 2 or not self.fresh(places):
      return None
    numbers = self._moved[places[: self.fresh(places)]]
    filled = np.resize(numbers, self.size)  # one program serves all batches
    rows = self._finish_others.own(lambda r: self._order.rows(filled[r])).rows
    count = self.fresh(places[self.own(step)])
    return {name: x[:count] for name, x in rows.items()}

  @property
  def has_own_conditions(self) -> bool:
    """Whether examples have the conditions of their real images."""
    return self._classes is None

  @functools.cached_property
  def _moved(self) -> np.ndarray:
    return condition_alignment.other_places(self.distinct, self._seed)


def _classes(
  config: ConfigDict, reader: reader_lib.Reader
) -> rows_lib.DrawnClasses | None:
  """Returns the source of classes, None of models without classes."""
  if config.condition.task != 'class':
    return None
  count = request_lib.class_count(config, reader.label_names)
  return rows_lib.DrawnClasses(count=count, seed=config.sample.seed, rest={})
