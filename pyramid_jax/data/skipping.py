"""Images that cannot be used: replaced by others, named and counted."""

from collections.abc import Callable
import errno
import threading
from typing import TypeVar

from absl import logging

from pyramid_jax import errors
from pyramid_jax.data.pixels import images


SHARE = 0.001  # of a set may be left out
BY_SHARE = -1  # in place of a number of images: the share decides
FEW, QUARTER = 10, 4  # In a small set these many, at most one in four.
IN_A_ROW = 3  # Images that cannot be read: then it is the storage.
_GONE = (errno.ENOENT, errno.ENOTDIR)
T = TypeVar('T')


def allowed(length: int, share: float, most: int = BY_SHARE) -> int:
  """Returns how many images of a set may be left out.

  That is `most`, whatever the set; with `BY_SHARE` it is the share, in small
  sets up to 10 or a quarter, and none where the share is 0.
  """
  if most != BY_SHARE:
    return most
  few = min(FEW, max(1, length // QUARTER)) if share else 0
  return max(few, int(length * share))


class Skipper:
  """Replaces examples that cannot be read by the next ones that can.

  The replacement depends on the files alone: the example of the next larger
  index (after the last comes the first). Reading goes on as long as no more
  than the allowed number of different images are broken or gone and one is not;
  then the set is damaged, and the error says so. Where several images in a row
  cannot be read at all, storage has failed, and no image is to blame. May be
  used by several threads.

  Attributes:
    report: `broken_images` and `vanished_images`, different ones, and
      `replaced_examples`.
  """

  def __init__(
    self,
    length: int,
    report: dict[str, int],
    share: float = SHARE,
    most: int = BY_SHARE,
  ):
    """`report` is the reader's and gets the counts; else as in `allowed`."""
    self.report = report
    self.report.update(broken_images=0, replaced_examples=0)
    self._length = length
    self._allowed = allowed(length, share, most)
    self._field = 'broken_share' if most == BY_SHARE else 'max_broken'
    self._broken: set[int] = set()
    self._gone: set[int] = set()
    self._failed = 0  # reads in a row that storage refused
    self._lock = threading.Lock()

  def first_valid(self, index: int, load: Callable[[int], T]) -> tuple[int, T]:
    """Returns the index that could be read and its example.

    `load` makes the example of an index, or raises `BrokenImage`.

    Raises:
      UserError: too many are broken, or storage failed.
    """
    last: images.BrokenImage | None = None
    for step in range(self._length):
      candidate = (index + step) % self._length
      try:
        value = load(candidate)
      except images.BrokenImage as error:
        self._note(candidate, error)
        last = error
        continue
      with self._lock:
        self._failed = 0
        self.report['replaced_examples'] += bool(step)
      return candidate, value
    raise errors.UserError(
      f'none of the {self._length} images can be read; the last is {last}.',
      errors.DATA,
    ) from last

  def _note(self, index: int, error: images.BrokenImage) -> None:
    number = errors.number(error)
    with self._lock:
      is_gone = number in _GONE
      self._failed += number is not None and not is_gone
      failed = self._failed
      kind = self._gone if is_gone else self._broken
      is_known = index in self._gone | self._broken
      if not is_known:
        kind.add(index)
      broken, gone = len(self._broken), len(self._gone)
      self.report['broken_images'] = broken
      if gone:
        self.report['vanished_images'] = gone
    if failed >= IN_A_ROW:
      raise errors.UserError(
        f'{error}; {failed} images in a row could not be read: the storage of'
        ' the data fails, no image is left out for it.',
        errors.RESTART if errors.is_transient(error) else errors.DATA,
      ) from error
    if is_known:
      return
    what = 'an image that is gone' if is_gone else 'a broken image'
    logging.warning('Skipped %s: %s', what, error)
    if broken + gone > self._allowed:
      words = [*(['broken'] if broken else []), *(['gone'] if gone else [])]
      raise errors.UserError(
        f'{broken + gone} of {self._length} images are {" or ".join(words)}, at'
        f' most {self._allowed} are skipped (config.data.{self._field}); the'
        f' last is {error}.',
        errors.DATA,
      ) from error
