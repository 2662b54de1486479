"""The conditions of a request: values of a person in, rows of the host out.

A row is what one image is conditioned on; arrays have one row or as many as
there are values, and are (N, ...). What a model does not take is a UserError
that names the input.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import os
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import request as rows_lib
from pyramid_jax.conditioning import sketches
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import given_images
from pyramid_jax.data import stored_arrays
from pyramid_jax.data import transforms
from pyramid_jax.data.synthetic import text as shapes_text
from pyramid_jax.pipeline import request as request_lib


Rows = dict[str, np.ndarray]

# The inputs that carry the condition of a task, all of them.
INPUTS: Mapping[str, tuple[str, ...]] = {
  'text': ('prompt',),
  'layout': ('layout',),
  'label': ('labels',),
  'scene_graph': ('graph',),
  'class': ('label',),
  'map': ('map',),
  'superres': ('image',),
  'inpaint': ('image', 'mask'),
}
# Those of `config.condition.also` that are needed, too.
ALSO: Mapping[str, tuple[str, ...]] = {
  'class': ('label',),
  'superres': ('image',),
}
EDITS = ('image', 'mask', 'strength')


def inputs(config: ConfigDict) -> tuple[str, ...]:
  """Returns the inputs that carry the condition of a model, all of them."""
  c = config.condition
  return (*INPUTS.get(c.task, ()), *ALSO.get(c.also, ()))


def optional(config: ConfigDict) -> tuple[str, ...]:
  """Returns the inputs that may be given with the condition."""
  has_camera = config.condition.also == 'camera'
  return tuple(camera.ATTRIBUTES) if has_camera else ()


def edits(config: ConfigDict) -> bool:
  """Whether `image` is where sampling begins, not the condition."""
  return 'image' not in inputs(config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
  """What a request gives to a model."""

  rows: Rows  # with one row or several of each; empty if nothing is given
  strength: float | None  # None where sampling begins with noise


def read(
  request: request_lib.Request, config: ConfigDict, names: Sequence[str]
) -> Given:
  """Returns the rows of a request, and the strength of an edit.

  Args:
    request: the inputs are those that the model takes.
    config: the config of the run.
    names: the label names of its data; entry 0 is padding.

  Raises:
    UserError: inputs that cannot be served, or a file that is not there.
  """
  image, strength = _edit(request, config)
  rows = condition(request, config, names)
  sketch = _sketch(request, config)
  return Given(rows=aligned(rows, image, sketch), strength=strength)


def aligned(*parts: Rows) -> Rows:
  """Joins rows; one row serves all rows of the others.

  Raises:
    UserError: two numbers of rows above 1.
  """
  whole = {name: x for part in parts for name, x in part.items()}
  counts = sorted({len(x) for x in whole.values()} - {1})
  if len(counts) > 1:
    raise errors.UserError(
      'conditions are given for'
      f' {" and ".join(map(str, counts))} images; the lists must be equally'
      ' long, or have one entry.'
    )
  count = counts[0] if counts else 1
  return {
    name: np.broadcast_to(x, (count, *x.shape[1:])) for name, x in whole.items()
  }


def condition(
  request: request_lib.Request, config: ConfigDict, names: Sequence[str]
) -> Rows:
  """Returns the rows of the condition itself, none if it is not given.

  Raises:
    UserError: a part of the condition is missing, or cannot be served.
  """
  needed = inputs(config)
  found = request.given(needed)
  seen = request.given(optional(config))
  wanted = ' and '.join(needed)
  if not found:
    if seen:
      raise errors.UserError(f'the camera is not enough: give {wanted}, too.')
    return {}
  if len(found) < len(needed):
    raise errors.UserError(
      f'{found[0]} is not enough: the task {config.condition.task!r} takes'
      f' {wanted}.'
    )
  c = config.condition
  parts = [of_task(c.task, request, config, names)]
  if c.also in ALSO:
    parts.append(of_task(c.also, request, config, names))
  if optional(config):
    words = {name: getattr(request, name) for name in optional(config)}
    with errors.user_errors():
      ids = camera.ids(words)
    parts.append({name: np.array([x], np.int32) for name, x in ids.items()})
  return aligned(*parts)


def without_image(
  request: request_lib.Request, config: ConfigDict, names: Sequence[str]
) -> Rows:
  """Returns what is given of the condition of a model that enlarges images."""
  c = config.condition
  tasks = [
    task
    for task in (c.task, c.also)
    if 'image' not in (needed := INPUTS.get(task, ('image',)))
    and request.given(needed)
  ]
  return aligned(*(of_task(task, request, config, names) for task in tasks))


def of_task(
  task: str,
  request: request_lib.Request,
  config: ConfigDict,
  names: Sequence[str],
) -> Rows:
  """Returns the rows of a task whose inputs are given."""
  with errors.user_errors():
    if task == 'layout':
      layouts = _layouts(request.layout, names)
      return rows_lib.from_layouts(layouts, config, names)
    if task == 'label':
      return rows_lib.from_labels(_label_sets(request.labels), config, names)
    if task == 'class':
      return rows_lib.from_classes(request.label, config, names)
    if task == 'scene_graph':
      texts = _texts('graph', request.graph)
      return rows_lib.from_graphs(texts, config, tokenizer(config), names)
    if task == 'text':
      texts = _texts('prompt', request.prompt)
      return rows_lib.from_text(texts, tokenizer(config))
    return _of_images(task, request, config)


def tokenizer(config: ConfigDict) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a run: that of `shapes`, or one of its files."""
  c = config.condition
  if config.data.name == 'shapes' and c.encoder not in tokenizers.PRETRAINED:
    return shapes_text.tokenizer(c.max_length)
  return tokenizers.create(config)


def _texts(name: str, value: Any) -> list[str]:
  texts = [value] if isinstance(value, str) else value
  is_list = isinstance(texts, list | tuple | np.ndarray)
  if not is_list or not all(isinstance(text, str) for text in texts):
    raise errors.UserError(
      f'{name}={value!r}: must be a text or a list of texts.'
    )
  return [str(text) for text in texts]


def _layouts(
  value: Any, names: Sequence[str]
) -> list[list[tuple[int, list[float]]]]:
  """Returns layouts of a file, or of values, as (label id, box)."""
  if not isinstance(value, str | os.PathLike):
    return rows_lib.parse_layouts(value, names)
  path = given_images.existing(value, 'layout')
  try:
    return rows_lib.parse_layouts(json.loads(path.read_bytes()), names)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise errors.UserError(f'layout={path}: is not JSON: {error}.') from None
  except OSError as error:
    raise errors.UserError(
      f'layout={path}: {error.strerror}.', errors.MISSING
    ) from None


def _label_sets(value: Any) -> list[list[str]]:
  """Returns sets of labels of a text, a set, or a list of either."""
  if isinstance(value, str):
    return [[name.strip() for name in value.split(',') if name.strip()]]
  if isinstance(value, list | tuple):
    if all(isinstance(item, str) for item in value):
      return [list(value)]
    if all(isinstance(item, list | tuple) for item in value):
      return [list(item) for item in value]
  raise errors.UserError(
    f'labels={value!r}: must be names separated by commas, a list of names, or'
    ' a list of such lists.'
  )


def _of_images(
  task: str, request: request_lib.Request, config: ConfigDict
) -> Rows:
  """Returns the rows of a condition that is an image."""
  if task == 'map':
    return _stacked(_map(x, config) for x in _several(request.map))
  if task == 'inpaint':
    return _with_holes(request, config)
  small = [given_images.image(x, 'image') for x in _several(request.image)]
  return _stacked(rows_lib.from_low_resolution(x, config) for x in small)


def _several(value: Any) -> list[Any]:
  """Returns the images of a value, one of which stands for itself."""
  if isinstance(value, list | tuple):
    return list(value)
  shape: tuple[int, ...] = getattr(value, 'shape', ())  # of an array
  is_many = len(shape) > 3 or (len(shape) == 3 and shape[-1] > 4)
  return list(np.asarray(value)) if is_many else [value]


def _stacked(parts: Any) -> Rows:
  """Joins rows of several values, one after the other."""
  rows = list(parts)
  return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


def _map(value: Any, config: ConfigDict) -> Rows:
  classes = given_images.class_map(value, 'map')
  _warn_of_crop('map', classes.shape)
  crop = transforms.middle_square(classes.shape)
  cut = transforms.cut_map(classes, crop, config.data.image_size)
  return rows_lib.from_map(cut, config)


def _with_holes(request: request_lib.Request, config: ConfigDict) -> Rows:
  """Returns `image` and `inpaint_mask` of images with their masks."""
  images = _several(request.image)
  masks = _several(request.mask)
  if len(masks) == 1:
    masks = masks * len(images)
  elif len(images) == 1:
    images = images * len(masks)
  if len(images) != len(masks):
    raise errors.UserError(
      f'there are {len(images)} images and {len(masks)} masks; give one mask'
      ' for all, or one for each.'
    )
  pairs = zip(images, masks, strict=True)
  return _stacked(_with_hole(image, mask, config) for image, mask in pairs)


def _with_hole(image: Any, mask: Any, config: ConfigDict) -> Rows:
  pixels = given_images.image(image, 'image')
  hole = given_images.mask(mask, 'mask')
  names = given_images.title(image, 'image'), given_images.title(mask, 'mask')
  given_images.agree(pixels, hole, names)
  square, crop = _fitted(pixels, config)
  return rows_lib.from_holes(
    square, transforms.cut_map(hole, crop, config.data.image_size)
  )


def _fitted(
  pixels: np.ndarray, config: ConfigDict
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the middle square at the model's size, and where it was."""
  _warn_of_crop('image', pixels.shape)
  fit = transforms.Transform(
    size=config.data.image_size, resize=transforms.resize_bicubic
  )
  square, crop, _ = fit(pixels, 0)
  return square, crop


def _warn_of_crop(name: str, shape: tuple[int, ...]) -> None:
  height, width = shape[:2]
  if height != width:
    logging.warning(
      '%s is %d x %d px; it is cropped to the square in its middle.',
      *(name, width, height),
    )


def _edit(
  request: request_lib.Request, config: ConfigDict
) -> tuple[Rows, float | None]:
  """Returns the image that sampling begins with, and the strength.

  The inputs are `image` with `strength` (image to image), with `mask` (white
  parts are inpainted), or with both.

  Returns:
    `image` (N, H, W, 3) uint8, with a mask also `inpaint_mask` (N, H, W)
    uint8, 1 = inpainted; nothing and None if no image is given.
  """
  task, strength = config.condition.task, request.strength
  if not edits(config):
    if strength is None:
      return {}, None
    raise errors.UserError(
      f'strength is not for the task {task!r}, whose condition is image.'
    )
  found = request.given(EDITS)
  if not found:
    return {}, None
  if 'image' not in found:
    raise errors.UserError(f'{found[0]} needs image, the image to change.')
  if found == ['image']:
    raise errors.UserError(
      f'image of the task {task!r} needs strength (image to image), mask (paint'
      ' a part), or both.'
    )
  _need_condition(request, config, 'image')
  if 'mask' in found:
    with errors.user_errors():
      return _with_holes(request, config), strength or 1.0
  images = [given_images.image(x, 'image') for x in _several(request.image)]
  squares = [_fitted(x, config)[0] for x in images]
  return {'image': np.stack(squares)}, strength


def _need_condition(
  request: request_lib.Request, config: ConfigDict, name: str
) -> None:
  own = inputs(config)
  if own and not request.given(own):
    raise errors.UserError(
      f'{name} needs {own[0]}, the condition of the task'
      f' {config.condition.task!r}.'
    )


def _sketch(request: request_lib.Request, config: ConfigDict) -> Rows:
  """Returns `sketch` (N, H, W) uint8, 255 = line, nothing without one."""
  if request.sketch is None:
    return {}
  _need_condition(request, config, 'sketch')
  rows = []
  for value in _several(request.sketch):
    pixels = given_images.sketch(value, 'sketch')
    try:
      rows.append(sketches.from_image(pixels, config.data.image_size))
    except ValueError as error:
      raise errors.UserError(
        f'{given_images.title(value, "sketch")}: {error}.', errors.DATA
      ) from error
  return _stacked(rows)


def finished_scales(value: Any) -> tuple[Any, ...]:
  """Returns the scales of a `latents.npz` or of a list, coarse first.

  They have rows (N, ...), those of a file are read when they are needed; None
  gives none.

  Raises:
    UserError: a file without scales or that is damaged.
  """
  if value is None:
    return ()
  if not isinstance(value, str | os.PathLike):
    arrays = value if isinstance(value, list | tuple) else [value]
    return tuple(np.asarray(x, np.float32) for x in arrays)
  path = given_images.existing(value, 'coarse_latent')
  try:
    found = stored_arrays.read(path)
  except ValueError as error:
    raise errors.UserError(f'coarse_latent={error}.', errors.DATA) from error
  names = [f'latent_{scale}' for scale in range(len(found))]
  scales = tuple(found[name] for name in names if name in found)
  if not scales:
    raise errors.UserError(
      f'coarse_latent={path}: has no array latent_0, only {sorted(found)}.',
      errors.DATA,
    )
  return scales
