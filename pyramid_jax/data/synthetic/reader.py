"""The reader of the `shapes` set: scenes, then images on the device."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import layout
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.pixels import buckets as buckets_lib
from pyramid_jax.data.pixels import holes
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.data.synthetic import text


# Every index is a scene; this many so that an index is an int32.
LENGTH = 2**31 - 1
TASKS = (
  *('none', 'text', 'layout', 'label', 'scene_graph', 'class', 'map'),
  *('superres', 'inpaint'),
)
_SHUFFLE = 16  # word of the hash that orders the labels


class ShapesReader:
  """Makes examples of `shapes` from nothing (see `data.reader.Reader`).

  `batch` computes what is cheap on the host: specifications, conditions and
  tokens. `finish` draws the images on the device from the specifications.

  Attributes:
    keep_text: whether examples have every condition and the text itself: not in
      training.
  """

  buckets: buckets_lib.Buckets | None = None  # all images have one shape

  def __init__(
    self, config: ConfigDict, split: str, *, full: bool | None = None
  ):
    """Reads `config.data` and `config.condition`.

    `full` says whether `batch` adds every condition, not only those of the
    task; None: outside of training. Among them is `caption`, bytes that cannot
    enter jit.

    Raises:
      ValueError: unknown split, level, task or map, a sequence of boxes or
        labels that is too short for the level, or a size that `lr_factor` does
        not divide.
    """
    d, c = config.data, config.condition
    self.keep_text = split != 'train' if full is None else full
    self.label_names = scenes.LABEL_NAMES
    self.report: dict[str, int] = {}
    self.level = d.level
    self.image_size = d.image_size
    self._seed = scenes.split_seed(d.seed, split)
    self._max_objects = d.max_objects
    self._condition = c
    self._maps = reader_lib.wanted_maps(config)
    self._captions = text.tokenizer()
    self._tokenizer: tokenizers.Tokenizer = (
      tokenizers.create(config)
      if c.encoder in tokenizers.PRETRAINED
      else text.tokenizer(c.max_length)
    )
    if self.level not in range(len(scenes.LEVELS)):
      raise ValueError(
        f'data.level must be 0..{len(scenes.LEVELS) - 1}, got {self.level!r}.'
      )
    reader_lib.check_task(config, TASKS)
    most = scenes.LEVELS[self.level].max_objects
    if c.task in ('layout', 'label') and c.max_objects < most:
      raise ValueError(
        f'condition.max_objects must be at least {most} at data.level '
        f'{self.level}, got {c.max_objects}.'
      )
    self.id_counts = {
      'mask': 1 + scenes.THINGS + len(scenes.BACKGROUNDS),
      **id_ranges.counts(config, self.label_names, self._tokenizer),
    }
    small = reader_lib.has_low_resolution(config)
    self._lr_factor = d.lr_factor if small else None

  def __len__(self) -> int:
    return LENGTH

  def identity(self) -> identity.Identity:
    """Returns what makes the scenes; see `reader.Reader`."""
    values = {
      'generator': scenes.GENERATOR,
      'level': self.level,
      'seed': self._seed,
      'image_size': self.image_size,
    }
    return {identity.SOURCE: values}

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the conditions and specifications of scenes."""
    indices = np.asarray(indices, np.int64)
    spec = scenes.sample(self._seed, indices, self.level)
    pad = max(self._max_objects - spec.labels.shape[1], 0)

    def widen(x: np.ndarray, value: int = 0) -> np.ndarray:
      widths = [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2)
      return np.pad(x, widths, constant_values=value) if pad else x

    largest = spec.geometry[..., 2].argmax(1)[:, None]
    out = {
      'id': indices,
      'level': np.full(len(spec), self.level, np.int32),
      'boxes': widen(spec.boxes),
      'labels': widen(spec.labels),
      'box_flags': np.zeros((len(spec), spec.labels.shape[1] + pad), np.int32),
      'n_boxes': spec.n_boxes,
      'class': np.take_along_axis(spec.labels, largest, 1)[:, 0],
      'geometry': widen(spec.geometry),
      'parents': widen(spec.parents, -1),
      'background': spec.background,
      'texture': spec.texture,
    }
    if 'inpaint_mask' in self._maps:
      u = scenes.uniforms(self._seed, indices, scenes.INPAINT, holes.UNIFORMS)
      out.update(holes.sample(u))
    self._add_texts(out, spec)
    ids = self._condition_ids(out, draws)
    if ids is not None:
      out['condition_ids'] = np.asarray(ids, np.int32)
    return out

  def _add_texts(self, out: dict[str, np.ndarray], spec: scenes.Scenes) -> None:
    """Adds captions, triples and the ids of the text of the task."""
    task = self._condition.task
    texts: list[str] = []
    if self.keep_text or task == 'text':
      texts = text.captions(self._seed, out['id'], spec)
      ids = np.stack([self._captions.encode(x) for x in texts])
      out['caption_ids'] = ids
      out['caption_mask'] = ids != self._captions.pad_id
    if self.keep_text:
      out['caption'] = np.array([x.encode() for x in texts])
    if self.keep_text or task == 'scene_graph':
      width = out['labels'].shape[1]
      out['triples'] = text.triples(self._seed, out['id'], spec, width)
    if task == 'scene_graph':
      texts = text.graphs(spec, out['triples'])
    if task in tokenizers.TEXT_TASKS:
      ids = np.stack([self._tokenizer.encode(x) for x in texts])
      out['condition_ids'] = ids

  def _condition_ids(
    self, batch: Mapping[str, np.ndarray], draws: np.ndarray
  ) -> layout.Array | None:
    """Returns (B, L) token ids of the boxes or labels, if those are asked."""
    c, labels = self._condition, batch['labels']
    if c.task == 'layout':
      whole = np.tile(np.array([0, 0, 1, 1], np.float32), (len(labels), 1))
      return layout.layout_tokens(
        batch['boxes'],
        labels,
        None,
        c.max_objects,
        layout.Vocabulary.of(c, scenes.THINGS),
        whole if c.encode_crop else None,
      )
    if c.task == 'label':
      slots = np.arange(labels.shape[1])
      keys = hashing.hash64(np.asarray(draws)[:, None], _SHUFFLE, slots)
      order = np.argsort(keys, axis=1, kind='stable')
      return layout.label_tokens(
        np.take_along_axis(labels, order, 1),
        c.max_objects,
        layout.Vocabulary.of(c, scenes.THINGS),
      )
    return None

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Adds the images; pure, runs inside jit.

    `image` (B, H, W, 3) float32 in [-1, 1], the values of the uint8 image,
    `x / 127.5 - 1`. By task also `lr_image`, the means of its blocks. By task
    or `config.data.maps` also, (B, H, W) each: `mask` uint8, the semantic map;
    `inpaint_mask` uint8, 1 = hole; `edges` float32 in [0, 1], the visible
    outlines.
    """
    out = dict(batch)
    size = self.image_size
    image = render.image(batch, size)
    out['image'] = image / 127.5 - 1
    if self._lr_factor is not None:
      out['lr_image'] = render.shrink(image, self._lr_factor) / 127.5 - 1
    if 'inpaint_mask' in self._maps:
      hole = holes.draw(batch['hole_strokes'], batch['hole_boxes'], size)
      out['inpaint_mask'] = jnp.asarray(hole)
    if self._maps & {'mask', 'edges'}:
      drawn = render.maps(batch, size)
      drawn['edges'] = drawn['edge'] / jnp.float32(255)
      out |= {name: drawn[name] for name in self._maps & set(drawn)}
    return out
