"""What happens at a broken image: it is named, counted and replaced."""

from collections.abc import Callable
import threading
from typing import TypeVar

from absl import logging

from pyramid_jax import errors
from pyramid_jax.data import images


T = TypeVar('T')

# So many broken images are borne in a set of any size; above, one in SHARE.
ALWAYS = 10
SHARE = 1000


class Skipper:
  """Replaces examples that cannot be read by the next ones that can.

  The replacement depends on the files alone: the example of the next larger
  index (after the last comes the first). Reading goes on as long as at most
  max(10, one in 1000) different images are broken and one is not; then the
  set is damaged, and the error says so. May be used by several threads.

  Attributes:
    report: `broken_images`, different ones, and `replaced_examples`.
  """

  def __init__(self, length: int, report: dict[str, int]):
    """`report` is the reader's; it gets both counts at 0."""
    self.report = report
    self.report.update(broken_images=0, replaced_examples=0)
    self._length = length
    self._allowed = max(ALWAYS, length // SHARE)
    self._broken: set[int] = set()
    self._lock = threading.Lock()

  def first_valid(self, index: int, load: Callable[[int], T]) -> tuple[int, T]:
    """Returns the index that could be read and its example.

    Args:
      index: the wanted one.
      load: makes the example of an index, or raises `BrokenImage`.

    Raises:
      UserError: too many are broken.
    """
    for step in range(self._length):
      candidate = (index + step) % self._length
      try:
        value = load(candidate)
      except images.BrokenImage as error:
        self._note(candidate, error)
        continue
      if step:
        with self._lock:
          self.report['replaced_examples'] += 1
      return candidate, value
    raise errors.UserError(
      f'none of the {self._length} images can be read.', errors.DATA
    )

  def _note(self, index: int, error: images.BrokenImage) -> None:
    with self._lock:
      if index in self._broken:
        return
      self._broken.add(index)
      count = len(self._broken)
      self.report['broken_images'] = count
    logging.warning('Skipped a broken image: %s', error)
    if count > self._allowed:
      raise errors.UserError(
        f'{count} of {self._length} images are broken, at most '
        f'{self._allowed} are skipped; the last is {error}.',
        errors.DATA,
      ) from error
