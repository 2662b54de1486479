"""What readers of image files have in common."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import os

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from pyramid_jax.conditioning import edges
from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import degradation
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data import skipping
from pyramid_jax.data.pixels import buckets as buckets_lib
from pyramid_jax.data.pixels import holes
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms


_HOLES = 107  # word of the hash that makes holes
Example = dict[str, np.ndarray]


class FileReader:
  """Batches of `example(index, draw)`, without the broken images.

  A subclass makes the examples, and has `label_names` and `id_counts`; see
  `reader.Reader`.

  Attributes:
    transform: the resize, crop and flip of the split.
    tokenizer: the tokenizer of the condition, None unless it is a text.
    keep_text: whether examples have the text itself: not in training.
  """

  label_names: tuple[str, ...]
  id_counts: Mapping[str, int]
  buckets: buckets_lib.Buckets | None = None

  def __init__(
    self, config: ConfigDict, split: str, length: int, preferred: str
  ):
    """Reads `config.data` and `config.condition`.

    `length` is the number of examples, `preferred` the key of
    `transforms.RESIZES` that serves where `config.data.resize` is empty.

    Raises:
      ValueError: an unknown crop or map, a vocabulary that cannot be used, or
        a size that `lr_factor` does not divide.
    """
    d, train = config.data, split == 'train'
    self._config = config
    self.report: dict[str, int] = {}
    self.transform = transforms.Transform(
      size=d.image_size,
      crop=d.crop if train else d.eval_crop,
      flip=d.flip and train,
      resize=transforms.RESIZES[d.resize or preferred],
      short_side=d.short_side,
    )
    self._maps = reader_lib.wanted_maps(config)
    # Maps have the size of their images, 'random-2d' counts their pixels.
    is_fast = d.fast_decode and self.transform.crop != 'random-2d'
    self._least = 2 * d.image_size * (is_fast and 'mask' not in self._maps)
    self._edges = d.edges if 'edges' in self._maps else ''
    self._degradation: tuple[str, int] | None = None
    if reader_lib.has_low_resolution(config):
      self._degradation = (d.degradation, d.lr_factor)
    self.tokenizer: tokenizers.Tokenizer | None = None
    if config.condition.task in tokenizers.TEXT_TASKS:
      self.tokenizer = tokenizers.create(config)
    self._warned_of_cut = False
    self.keep_text = not train
    self._length = length
    self._skipper = skipping.Skipper(
      length, self.report, d.broken_share, d.max_broken
    )

  def __len__(self) -> int:
    return self._length

  def example(self, index: int, draw: np.uint64) -> Example:
    """Returns one example, or raises `BrokenImage`."""
    raise NotImplementedError

  def loader(self, index: int, draw: np.uint64) -> Callable[[int], Example]:
    """Returns a function that makes an example in place of that at `index`."""
    del index
    return functools.partial(self.example, draw=draw)

  def row(self, index: int, draw: np.uint64) -> Example:
    """Returns an example, or if it is broken another in its place.

    Raises:
      UserError: too many images are broken (see `skipping`).
    """
    return self.first_valid(index, draw)[1]

  def first_valid(self, index: int, draw: np.uint64) -> tuple[int, Example]:
    """Returns the index of the image that `row` takes, and the example."""
    return self._skipper.first_valid(index, self.loader(index, draw))

  def stacked(self, rows: Sequence[Example]) -> Example:
    """Returns examples as one batch; see `prefetching.Rowwise`."""
    out = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    if self._edges in edges.ON_HOST:
      found = edges.detector(self._edges)(out['image'])
      out['edges'] = np.asarray(255 * found, np.uint8)
    return out

  def batch(self, indices: np.ndarray, draws: np.ndarray) -> Example:
    """Returns stacked examples; broken images are replaced.

    Raises:
      UserError: too many images are broken (see `skipping`).
    """
    pairs = zip(np.asarray(indices), np.asarray(draws), strict=True)
    return self.stacked([self.row(int(i), np.uint64(d)) for i, d in pairs])

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Makes the images float32 in [-1, 1]; pure, runs inside jit.

    Where there are holes it draws `inpaint_mask` (B, H, W) uint8, 1 = hole;
    where edges are asked for, it finds `edges` (B, H, W) float32 in [0, 1].
    """
    out = images.finish(batch)
    if self._edges and 'edges' not in out:
      out['edges'] = jnp.asarray(edges.detector(self._edges)(batch['image']))
    if 'hole_strokes' in batch:
      hole = holes.draw(
        batch['hole_strokes'], batch['hole_boxes'], self.transform.size
      )
      out['inpaint_mask'] = jnp.asarray(hole)
    return out

  def opened(
    self, data: bytes, name: str | os.PathLike[str], upright: bool = False
  ) -> Image.Image:
    """Decodes the bytes of an image file for `cut`.

    With `config.data.fast_decode` large JPEG files at a smaller size, so not
    those whose places are counted in pixels; see `images.decode_image`.

    Raises:
      BrokenImage: see `images.decode_image`.
    """
    return images.decode_image(data, name, upright, self._least)

  def cut(
    self,
    image: transforms.AnyImage | transforms.Cut,
    index: int,
    draw: np.uint64,
    shape: buckets_lib.Shape | None = None,
  ) -> tuple[Example, np.ndarray, bool]:
    """Returns what every example has, its crop as float64, and its flip.

    The example has `image` (uint8 until `finish`), `crop`, `flipped` and `id`;
    for super-resolution `lr_image` (h, w, 3) uint8; where holes are asked for,
    the arrays of `holes.sample`. `shape` is the height and width of the result,
    if it is no square.
    """
    pixels, crop, flipped = self.transform(image, draw, shape)
    example = {
      'image': np.ascontiguousarray(pixels),
      'crop': crop.astype(np.float32),
      'flipped': np.asarray(flipped),
      'id': np.asarray(index, np.int64),
    }
    if self._degradation is not None:
      kind, factor = self._degradation
      example['lr_image'] = degradation.degrade(kind, pixels, factor, draw)
    if 'inpaint_mask' in self._maps:
      u = hashing.uniforms(draw, _HOLES, np.arange(holes.UNIFORMS))
      example |= {name: x[0] for name, x in holes.sample(u[None]).items()}
    return example, crop, flipped

  def text_arrays(self, text: str) -> Example:
    """Returns the arrays of a text condition.

    `condition_ids` and `caption_ids` (L,), `caption_mask` (L,) and, with
    `keep_text`, `caption`, the text as bytes. The first text that is cut to
    fit is named in a warning.

    Raises:
      ValueError: the configured condition is no text.
    """
    if self.tokenizer is None:
      raise ValueError('the configured condition is no text.')
    ids = self.tokenizer.encode(text)
    mask = np.arange(len(ids)) < len(self.tokenizer.tokens(text))
    if mask.all() and not self._warned_of_cut:
      self._warned_of_cut = tokenizers.warn_of_cut(self.tokenizer, [text])
    arrays = {'condition_ids': ids, 'caption_ids': ids, 'caption_mask': mask}
    if self.keep_text:
      arrays['caption'] = np.asarray(text.encode())
    return arrays
