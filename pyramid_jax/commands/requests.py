"""Conditions from the command line: options and files in, host arrays out.

The functions read the config of a run, the label names of its data (entry 0 is
padding) and the options of the command line by name. They raise a ValueError
for options that cannot be served and an OSError for a file that is not there.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import sketches
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import given_images
from pyramid_jax.data import transforms
from pyramid_jax.data.synthetic import text as shapes_text
from pyramid_jax.evaluation import examples


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


def rows_of(
  config: ConfigDict,
  label_names: Sequence[str],
  options: Mapping[str, Any],
  count: int,
) -> tuple[dict[str, np.ndarray], float | None]:
  """Returns `count` rows of conditions, and the strength of an edit.

  The rows repeat what the options ask for; options that ask for nothing get the
  examples of `split`. The strength is None where sampling begins with noise.
  """
  edit = edit_of_request(config, options)
  sketch = sketch_of_request(config, options)
  rows = of_request(config, label_names, options)
  if rows is None and edit is None and sketch is None:
    split = options.get('split') or 'test'
    return examples.of_split(config, split, count), None
  image, strength = edit or ({}, None)
  rows = (rows or {}) | image | (sketch or {})
  return repeated(rows, count), strength


def repeated(
  rows: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
  """Returns `count` rows, the given ones in turn."""
  return {k: np.resize(v, (count, *v.shape[1:])) for k, v in rows.items()}


def start_of(path: str | None) -> tuple[np.ndarray, ...]:
  """Returns the scales of a `latents.npz`, coarse first, (N, ...) float32 each.

  No path gives no scales; a file without scales raises a UserError.
  """
  if not path:
    return ()
  with (
    errors.user_errors(value=errors.DATA),
    np.load(path, allow_pickle=False) as file,
  ):
    names = sorted(n for n in file.files if n.startswith('latent_'))
    scales = tuple(file[name].astype(np.float32) for name in names)
  if not scales:
    raise errors.UserError(
      f'--coarse_latent={path}: has no array latent_0, only'
      f' {sorted(file.files)}.',
      errors.DATA,
    )
  return scales


def of_request(
  config: ConfigDict, label_names: Sequence[str], options: Mapping[str, Any]
) -> dict[str, np.ndarray] | None:
  """Returns the rows of the conditions that are given, None if none are.

  The options are `prompt`, `layout` (a JSON file), `labels`, `graph`, `label`
  (classes), `map` (a PNG of classes), `image` (to enlarge, or to inpaint where
  `mask` is white), and with one of them `pitch` and `depth_of_field` of the
  camera.
  """
  task = config.condition.task
  own = own_options(config)
  if edits(config):  # neither is a condition here
    options = dict(options, image='', mask='')
  known = dict.fromkeys(name for names in OPTIONS.values() for name in names)
  given = [name for name in known if options.get(name)]
  wrong = [name for name in given if name not in own]
  takes = ' and '.join(f'--{name}' for name in own) or 'no condition'
  if wrong:
    raise errors.UserError(
      f'--{wrong[0]} is no condition of the task {task!r}, which takes {takes}.'
    )
  has_camera = config.condition.also == 'camera'
  view = camera.ids(options) if has_camera else {}
  seen = [name for name in camera.ATTRIBUTES if options.get(name)]
  if seen and not has_camera:
    raise errors.UserError(
      f'--{seen[0]} is for models of the camera; config.condition.also is'
      f" {config.condition.also!r}, must be 'camera'."
    )
  if not given:
    if any(view.values()):
      raise errors.UserError(f'the camera is not enough: give {takes}, too.')
    return None
  if len(given) < len(own):
    raise errors.UserError(
      f'--{given[0]} is not enough: the task {task!r} takes {takes}.'
    )
  if task in examples.IMAGES:
    rows = _asked_image(config, task, options)
  else:
    rows = _asked(config, task, options[own[0]], label_names)
  more = {name: np.array([x], np.int32) for name, x in view.items()}
  if config.condition.also == 'superres':
    more |= _asked_image(config, 'superres', options)
  return rows | repeated(more, len(next(iter(rows.values()))))


def without_image(
  config: ConfigDict, label_names: Sequence[str], options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Returns the conditions of a cascade's second model, without its image.

  Options of other tasks are not read.
  """
  task = config.condition.task
  own = OPTIONS.get(task, ())
  if task in examples.IMAGES or not own or not options.get(own[0]):
    return {}
  return _asked(config, task, options[own[0]], label_names)


def own_options(config: ConfigDict) -> tuple[str, ...]:
  """Returns the options that carry the condition, all of them."""
  own = OPTIONS.get(config.condition.task, ())
  return (*own, 'image') if config.condition.also == 'superres' else own


def edits(config: ConfigDict) -> bool:
  """Whether --image is where sampling begins, not the condition."""
  return 'image' not in own_options(config)


def edit_of_request(
  config: ConfigDict, options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], float] | None:
  """Returns the image that sampling begins with, None if none is given.

  The options are `image` with `strength` (image to image), with `mask` (white
  parts are inpainted), or with both.

  Returns:
    `image` (1, H, W, 3) uint8, with a mask also `inpaint_mask` (1, H, W)
    uint8, 1 = inpainted; and the strength.
  """
  task, strength = config.condition.task, options.get('strength')
  if strength is not None and not 0 < strength <= 1:
    raise errors.UserError(f'--strength={strength}: must lie in (0, 1].')
  given = [name for name in ('image', 'mask', 'strength') if options.get(name)]
  if not edits(config):
    if strength is None:
      return None
    raise errors.UserError(
      f'--strength is not for the task {task!r}, whose condition is --image.'
    )
  if not given:
    return None
  if 'image' not in given:
    raise errors.UserError(f'--{given[0]} needs --image, the image to change.')
  if given == ['image']:
    raise errors.UserError(
      f'--image of the task {task!r} needs --strength (image to image),'
      ' --mask (paint a part), or both.'
    )
  _need_condition(task, options, 'image')
  if options.get('mask'):
    rows = _image_with_holes(config, options)
  else:
    image = given_images.image(options['image'], '--image')
    rows = {'image': _fit(config)(image, 0)[0][None]}
  return rows, 1.0 if strength is None else strength


def _need_condition(task: str, options: Mapping[str, Any], name: str) -> None:
  own = OPTIONS.get(task, ())
  if own and not options.get(own[0]):
    raise errors.UserError(
      f'--{name} needs --{own[0]}, the condition of the task {task!r}.'
    )


def sketch_of_request(
  config: ConfigDict, options: Mapping[str, Any]
) -> dict[str, np.ndarray] | None:
  """Returns `sketch` (1, H, W) uint8, 255 = line, None without the option.

  The file is an image or an SVG of any size.
  """
  if not options.get('sketch'):
    return None
  _need_condition(config.condition.task, options, 'sketch')
  path = options['sketch']
  pixels = given_images.sketch(path, '--sketch')
  try:
    return sketches.from_image(pixels, config.data.image_size)
  except ValueError as error:
    raise errors.UserError(f'--sketch={path}: {error}.', errors.DATA) from error


def _asked(
  config: ConfigDict, task: str, value: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Returns the rows of a condition that is given in words."""
  if task == 'layout':
    layouts = request.parse_layout(pathlib.Path(value).read_text(), names)
    return request.from_layouts(layouts, config, names)
  if task == 'label':
    return request.from_labels([value], config, names)
  if task == 'class':
    return request.from_classes(value, config, names)
  c = config.condition
  if config.data.name == 'shapes' and c.encoder not in tokenizers.PRETRAINED:
    tokenizer: tokenizers.Tokenizer = shapes_text.tokenizer(c.max_length)
  else:
    tokenizer = tokenizers.create(config)
  if task == 'scene_graph':
    return request.from_graphs([value], config, tokenizer, names)
  return request.from_text([value], tokenizer)


def _asked_image(
  config: ConfigDict, task: str, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  size = config.data.image_size
  if task == 'map':
    classes = given_images.class_map(options['map'], '--map')
    crop = transforms.middle_square(classes.shape)
    classes = transforms.cut_map(classes, crop, size)
    return request.from_map(classes, config)
  if task == 'inpaint':
    return _image_with_holes(config, options)
  image = given_images.image(options['image'], '--image')
  return request.from_low_resolution(image, config)


def _fit(config: ConfigDict) -> transforms.Transform:
  return transforms.Transform(
    size=config.data.image_size, resize=transforms.resize_bicubic
  )


def _image_with_holes(
  config: ConfigDict, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  image = given_images.image(options['image'], '--image')
  mask = given_images.mask(options['mask'], '--mask')
  names = tuple(f'--{name}={options[name]}' for name in ('image', 'mask'))
  given_images.agree(image, mask, names)
  pixels, crop, _ = _fit(config)(image, 0)
  hole = transforms.cut_map(mask, crop, config.data.image_size)
  return request.from_holes(pixels, hole)
