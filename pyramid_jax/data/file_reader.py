"""What readers of image files have in common."""

from collections.abc import Mapping
import functools

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditions import tokenizers
from pyramid_jax.data import images
from pyramid_jax.data import skipping


class FileReader:
  """Batches of `example(index, draw)`, without the broken images.

  A subclass makes the examples and has `label_names`; see `reader.Reader`.

  Attributes:
    report: counts of broken images and of examples that were replaced.
    transform: the resize, crop and flip of the split.
    tokenizer: of the condition, None if it is no text.
    keep_text: whether examples have the text itself: not in training.
  """

  label_names: tuple[str, ...]

  def __init__(
    self,
    config: ConfigDict,
    split: str,
    length: int,
    resize: images.Resize,
  ):
    """Reads `config.data` and `config.condition`.

    Args:
      config: a whole config.
      split: train, val or test.
      length: number of examples.
      resize: how pictures get their size.

    Raises:
      ValueError: an unknown crop, or a vocabulary that cannot be used.
    """
    train = split == 'train'
    self.report: dict[str, int] = {}
    self.transform = images.Transform(
      size=config.data.image_size,
      crop=config.data.crop if train else config.data.eval_crop,
      flip=config.data.flip and train,
      resize=resize,
    )
    self.tokenizer: tokenizers.Tokenizer | None = None
    if config.condition.task in tokenizers.TEXT_TASKS:
      self.tokenizer = tokenizers.create(config)
    self.keep_text = not train
    self._length = length
    self._skipper = skipping.Skipper(length, self.report)

  def __len__(self) -> int:
    return self._length

  def example(self, index: int, draw: np.uint64) -> dict[str, np.ndarray]:
    """Returns one example, or raises `BrokenImage`."""
    raise NotImplementedError

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns stacked examples; broken images are replaced.

    Args:
      indices: (B,) int64 in [0, len).
      draws: (B,) uint64, the seed of each example.

    Raises:
      UserError: too many images are broken (see `skipping.Skipper`).
    """
    rows = []
    for index, draw in zip(np.asarray(indices), np.asarray(draws), strict=True):
      load = functools.partial(self.example, draw=np.uint64(draw))
      rows.append(self._skipper.first_valid(int(index), load)[1])
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Makes the pictures float32 in [-1, 1]; pure, runs inside jit."""
    return images.finish(batch)

  def text_arrays(self, text: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a text condition.

    `condition_ids` and `caption_ids` (L,), `caption_mask` (L,) and, with
    `keep_text`, `caption`, the text as bytes.

    Raises:
      ValueError: the configured condition is no text.
    """
    if self.tokenizer is None:
      raise ValueError('the configured condition is no text.')
    ids = self.tokenizer.encode(text)
    mask = np.arange(len(ids)) < len(self.tokenizer.tokens(text))
    arrays = {'condition_ids': ids, 'caption_ids': ids, 'caption_mask': mask}
    if self.keep_text:
      arrays['caption'] = np.asarray(text.encode())
    return arrays
