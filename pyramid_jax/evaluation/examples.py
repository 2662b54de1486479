"""Examples on the host: of a split, or what a person asks for.

`Reader.finish` draws the pictures among the conditions on the device; scores,
grids and files want them as a person sees them, in uint8, and the sampler
takes them back.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import images as given_images
from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import sketches
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import drawings
from pyramid_jax.data import images as images_lib
from pyramid_jax.data import transforms
from pyramid_jax.data.synthetic import text as shapes_text
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import grids


LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue
WHITE = 127.5  # and brighter is a hole

# By task. `image` is the whole picture of what is to be restored.
PICTURES = {
  'map': ('mask',),
  'superres': ('lr_image', 'image'),
  'inpaint': ('inpaint_mask', 'image'),
}
BESIDE = ('mask', 'inpaint_mask', 'lr_image')  # of any task, if asked for

# The options that carry the condition of a task, all of them.
OPTIONS = {
  'text': ('prompt',),
  'layout': ('layout',),
  'label': ('labels',),
  'scene_graph': ('graph',),
  'class': ('label',),
  'map': ('map',),
  'superres': ('image',),
  'inpaint': ('image', 'mask'),
}


def pictures(
  task: str, finished: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Picks the pictures of a task's condition from a finished batch.

  What any task may have beside it comes along, true edges in [-1, 1].
  """
  wanted = [*PICTURES.get(task, ()), *BESIDE]
  if 'inpaint_mask' in finished:
    wanted.append('image')
  drawn = {name: finished[name] for name in wanted if name in finished}
  if 'edges' in finished:
    drawn['edges'] = 2 * finished['edges'] - 1
  return drawn


def seen(
  batch: Mapping[str, np.ndarray], drawn: Mapping[str, jax.Array]
) -> dict[str, np.ndarray]:
  """Adds `pictures` to a host batch; those in [-1, 1] become uint8."""
  arrays = {name: np.asarray(x) for name, x in drawn.items()}
  for name, x in arrays.items():
    if x.dtype.kind == 'f':
      arrays[name] = grids.to_uint8(x)
  return {**batch, **arrays}


def of_split(
  config: ConfigDict, split: str, count: int
) -> dict[str, np.ndarray]:
  """Returns the first `count` examples of a split, see `seen`.

  Raises:
    ValueError: data that cannot be read.
    FileNotFoundError: data that are not there.
  """
  reader = data.create(config, split)
  batch = batches_lib.Batches(reader, count, seed=0, shuffle=False).at(0)
  task, also = config.condition.task, config.condition.also
  if task not in PICTURES and also != 'superres' and not config.data.maps:
    return batch
  draw = jax.jit(lambda b: pictures(task, reader.finish(b)))
  return seen(batch, draw(mesh_lib.numeric(batch)))


def composite(
  images: np.ndarray,
  examples: Mapping[str, np.ndarray],
  project: bool = False,
) -> np.ndarray:
  """Puts what is known of pictures back in its place.

  Args:
    images: (B, H, W, 3) uint8 samples.
    examples: perhaps with `inpaint_mask` (B, H, W), 1 = hole, and `image`
      uint8; or with `lr_image` (B, h, w, 3) uint8.
    project: whether enlarged pictures are changed such that their cells have
      the means that were given: x + up(y - down(x)).
  """
  if 'inpaint_mask' in examples:
    hole = examples['inpaint_mask'][..., None] > 0
    return np.where(hole, images, examples['image'])
  if not project or 'lr_image' not in examples:
    return images
  small, x = examples['lr_image'].astype(float), images.astype(float)
  b, height, width, c = small.shape
  factor = x.shape[1] // height
  for _ in range(4):  # what is cut off at black and white is put elsewhere
    cells = x.reshape(b, height, factor, width, factor, c)
    missing = small - cells.mean((2, 4))
    x = np.clip(x + missing.repeat(factor, 1).repeat(factor, 2), 0, 255)
  return np.round(x).astype(np.uint8)


def of_request(
  config: ConfigDict, label_names: Sequence[str], options: Mapping[str, Any]
) -> dict[str, np.ndarray] | None:
  """Returns the rows that a person asks for, None if nothing is asked.

  Args:
    config: of the run.
    label_names: of its data, entry 0 is padding.
    options: of the command line: `prompt`, `layout` (a JSON file), `labels`,
      `graph`, `label` (classes), `map` (a PNG of classes), `image` (a picture
      to enlarge, or to mend with `mask`, a picture whose white is painted);
      beside one of them `pitch` and `depth_of_field` of the camera.

  Raises:
    ValueError: a condition that cannot be served.
    OSError: a file that is not there.
  """
  task = config.condition.task
  own = own_options(config)
  if edits(config):  # they are no condition here
    options = dict(options, image='', mask='')
  known = dict.fromkeys(name for names in OPTIONS.values() for name in names)
  given = [name for name in known if options.get(name)]
  wrong = [name for name in given if name not in own]
  takes = ' and '.join(f'--{name}' for name in own) or 'no condition'
  if wrong:
    raise errors.UserError(
      f'--{wrong[0]} is no condition of the task {task!r}, which takes {takes}.'
    )
  seen_by = _camera(config, options)
  if not given:
    if any(seen_by.values()):
      raise errors.UserError(f'the camera is not enough: give {takes}, too.')
    return None
  if len(given) < len(own):
    raise errors.UserError(
      f'--{given[0]} is not enough: the task {task!r} takes {takes}.'
    )
  if task in PICTURES:
    rows = _asked_picture(config, task, options)
  else:
    rows = _asked(config, task, options[own[0]], label_names)
  beside = {name: np.array([x], np.int32) for name, x in seen_by.items()}
  if config.condition.also == 'superres':
    beside |= _asked_picture(config, 'superres', options)
  count = len(next(iter(rows.values())))
  return rows | {name: np.repeat(x, count, 0) for name, x in beside.items()}


def own_options(config: ConfigDict) -> tuple[str, ...]:
  """Returns the options that carry the condition, all of them."""
  own = OPTIONS.get(config.condition.task, ())
  return (*own, 'image') if config.condition.also == 'superres' else own


def edits(config: ConfigDict) -> bool:
  """Whether a picture is something to begin with, not the condition."""
  return 'image' not in own_options(config)


def _camera(config: ConfigDict, options: Mapping[str, Any]) -> dict[str, int]:
  """Returns the ids of what is asked of the camera, {} if none has a say."""
  given = [name for name in camera.ATTRIBUTES if options.get(name)]
  if config.condition.also == 'camera':
    return camera.ids(options)
  if given:
    raise errors.UserError(
      f'--{given[0]} is for models of the camera; config.condition.also is'
      f" {config.condition.also!r}, must be 'camera'."
    )
  return {}


def edit_of_request(
  config: ConfigDict, options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], float] | None:
  """Returns the picture that sampling is asked to begin with.

  Args:
    config: of the run.
    options: of the command line: `image`, and `strength` (image to image),
      `mask` (what is white is sampled anew) or both.

  Returns:
    `image` (1, H, W, 3) uint8, with a mask also `inpaint_mask` (1, H, W)
    uint8, 1 = painted, and the strength; None if nothing is asked.

  Raises:
    ValueError: options that do not go together, or a picture or mask that
      cannot be served.
    OSError: a file that is not there.
  """
  strength = options.get('strength')
  if not _asks_edit(config, options, strength):
    return None
  with _broken_images():
    if options.get('mask'):
      rows = _picture_with_holes(config, options)
    else:
      image = images_lib.read(_existing('image', options), upright=True)
      rows = {'image': _fit(config)(image, 0)[0][None]}
  return rows, 1.0 if strength is None else strength


def _asks_edit(
  config: ConfigDict, options: Mapping[str, Any], strength: float | None
) -> bool:
  """Whether an edit is asked for; refuses options that do not go together."""
  if strength is not None and not 0 < strength <= 1:
    raise errors.UserError(f'--strength={strength}: must lie in (0, 1].')
  task = config.condition.task
  if not edits(config):
    if strength is None:
      return False
    raise errors.UserError(
      f'--strength is not for the task {task!r}, whose condition is --image.'
    )
  given = [name for name in ('image', 'mask') if options.get(name)]
  if strength is not None:
    given.append('strength')
  if not given:
    return False
  if 'image' not in given:
    raise errors.UserError(
      f'--{given[0]} needs --image, the picture to change.'
    )
  if given == ['image']:
    raise errors.UserError(
      f'--image of the task {task!r} needs --strength (image to image),'
      ' --mask (paint a part), or both.'
    )
  _need_condition(task, options, 'image')
  return True


def _need_condition(task: str, options: Mapping[str, Any], name: str) -> None:
  own = OPTIONS.get(task, ())
  if own and not options.get(own[0]):
    raise errors.UserError(
      f'--{name} needs --{own[0]}, the condition of the task {task!r}.'
    )


def sketch_of_request(
  config: ConfigDict, options: Mapping[str, Any]
) -> dict[str, np.ndarray] | None:
  """Returns the drawing that sampling is asked to follow.

  Args:
    config: of the run.
    options: of the command line: `sketch`, a picture or SVG of any size.

  Returns:
    `sketch` (1, H, W) uint8, 255 = line; None if nothing is asked.

  Raises:
    ValueError: no condition beside it, or what is no drawing.
    OSError: a file that is not there.
  """
  if not options.get('sketch'):
    return None
  _need_condition(config.condition.task, options, 'sketch')
  path = _existing('sketch', options)
  with _broken_images():
    pixels = drawings.read(path)
  try:
    return sketches.from_drawing(pixels, config.data.image_size)
  except ValueError as error:
    raise errors.UserError(f'--sketch={path}: {error}.', errors.DATA) from error


def _asked(
  config: ConfigDict, task: str, value: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
  if task == 'layout':
    layouts = request.parse_layout(pathlib.Path(value).read_text(), names)
    return request.from_layouts(layouts, config, names)
  if task == 'label':
    return request.from_labels([value], config, names)
  if task == 'class':
    return request.from_classes(value, config, names)
  tokenizer = _tokenizer(config)
  if task == 'scene_graph':
    return request.from_graphs([value], config, tokenizer, names)
  return request.from_text([value], tokenizer)


def _tokenizer(config: ConfigDict) -> tokenizers.Tokenizer:
  c = config.condition
  if config.data.name == 'shapes' and c.encoder not in tokenizers.PRETRAINED:
    return shapes_text.tokenizer(c.max_length)
  return tokenizers.create(config)


def _asked_picture(
  config: ConfigDict, task: str, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  size = config.data.image_size
  with _broken_images():
    if task == 'map':
      classes = images_lib.read_map(_existing('map', options))
      crop = transforms.middle_square(classes.shape)
      classes = transforms.cut_map(classes, crop, size)
      return given_images.from_map(classes, config)
    if task == 'inpaint':
      return _picture_with_holes(config, options)
    image = images_lib.read(_existing('image', options), upright=True)
    return given_images.from_low_resolution(image, config)


@contextlib.contextmanager
def _broken_images() -> Iterator[None]:
  try:
    yield
  except images_lib.BrokenImage as error:
    raise errors.UserError(str(error), errors.DATA) from error


def _fit(config: ConfigDict) -> transforms.Transform:
  return transforms.Transform(
    size=config.data.image_size, resize=transforms.resize_bicubic
  )


def _picture_with_holes(
  config: ConfigDict, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  image = images_lib.read(_existing('image', options), upright=True)
  mask = images_lib.read(_existing('mask', options), upright=True)
  if mask.shape != image.shape:
    raise ValueError(
      f'--mask={options["mask"]} is {mask.shape[1]} x {mask.shape[0]} px,'
      f' --image={options["image"]} {image.shape[1]} x {image.shape[0]} px;'
      ' they must agree.'
    )
  pixels, crop, _ = _fit(config)(image, 0)
  hole = transforms.cut_map(mask @ LUMA >= WHITE, crop, config.data.image_size)
  return given_images.from_holes(pixels, hole)


def _existing(name: str, options: Mapping[str, Any]) -> pathlib.Path:
  path = pathlib.Path(options[name])
  if not path.is_file():
    raise errors.UserError(f'--{name}={path}: not there.', errors.MISSING)
  return path
