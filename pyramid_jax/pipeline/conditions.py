"""The conditions of a request: values of a person in, rows of the host out.

A row is what one image is conditioned on; arrays have one row or as many as
there are values, and are (N, ...). What a model does not take is a UserError
that names the input.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import request as rows_lib
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.synthetic import text as shapes_text
from pyramid_jax.files import json_text
from pyramid_jax.pipeline import image_rows
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
  'retrieval': ('prompt',),
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
  maps = [_sketch(request, config), _control_map(request, config)]
  return Given(rows=aligned(rows, image, *maps), strength=strength)


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
  shape = shape_of(request, config)
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
    if task in ('text', 'retrieval'):
      texts = _texts('prompt', request.prompt)
      return rows_lib.from_text(texts, tokenizer(config))
    if task == 'map':
      return image_rows.semantic_maps(request.map, config, shape)
    if task == 'inpaint':
      images = request.image, request.mask
      return image_rows.with_holes(*images, config, shape)
    return image_rows.low_resolution(request.image, config, shape)


def shape_of(
  request: request_lib.Request, config: ConfigDict
) -> image_rows.Shape:
  """Returns the height and width of the images of a request, px."""
  size = config.data.image_size
  shape = request.shape or tuple(config.sample.get('shape', (0, 0)))
  return (int(shape[0]), int(shape[1])) if any(shape) else (size, size)


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
      f'{name}={errors.shown(value)}: must be a text or a list of texts.'
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
    values = json_text.read(path, most=limits.CONDITION_BYTES)
  except ValueError as error:
    raise errors.UserError(f'layout={error}.') from None
  except OSError as error:
    raise errors.UserError(
      f'layout={path}: {error.strerror}.', errors.MISSING
    ) from None
  try:
    return rows_lib.parse_layouts(values, names)
  except ValueError as error:
    raise errors.UserError(f'layout={path}: {error}.') from None


def _label_sets(value: Any) -> list[list[str]]:
  """Returns sets of labels of a text, a set, or a list of either."""
  if isinstance(value, str):
    rows_lib.check_text(value)
    return [[name.strip() for name in value.split(',') if name.strip()]]
  if isinstance(value, list | tuple):
    if all(isinstance(item, str) for item in value):
      return [list(value)]
    if all(isinstance(item, list | tuple) for item in value):
      return [list(item) for item in value]
  raise errors.UserError(
    f'labels={errors.shown(value)}: must be names separated by commas, a list'
    ' of names, or a list of such lists.'
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
  with errors.user_errors():
    if 'mask' not in found:
      return image_rows.squares(request.image, config), strength
    shape = (config.data.image_size,) * 2
    rows = image_rows.with_holes(request.image, request.mask, config, shape)
  return rows, strength or 1.0


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
  return image_rows.sketched(request.sketch, config)


def _control_map(request: request_lib.Request, config: ConfigDict) -> Rows:
  """Returns `mask` (N, H, W) uint8 that controls, not that of the condition."""
  if request.map is None or 'map' in inputs(config):
    return {}
  _need_condition(request, config, 'map')
  with errors.user_errors():
    shape = shape_of(request, config)
    return image_rows.semantic_maps(request.map, config, shape)
