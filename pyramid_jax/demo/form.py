"""What a browser sends -> a `Request`.

Anybody may send anything to the server, whatever the page offers: each value is
checked here or by `Request`, and what is none is a UserError of one line.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import secrets
from typing import Any

import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.conditioning import camera
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.pixels import images
from pyramid_jax.demo import canvas
from pyramid_jax.demo import controls as controls_lib


Controls = controls_lib.Controls
# The values of a form: strings, numbers, paths of uploads, and a canvas.
Values = Mapping[str, Any]

TEXTS = ('prompt', 'labels', 'graph')
MAX_TEXT = 2000  # characters
MAX_SEED = 2**31 - 1  # which every browser keeps as it is
UPLOAD_BYTES = 5_000_000
UPLOAD_PIXELS = 16_000_000
OWN_STRENGTH = 0.75  # of an image whose strength is not chosen
_SKETCH_SIDE = 512  # px of a sketch that is drawn on the canvas
# A sketch that guides nothing, for requests without one.
_NO_SKETCH = canvas.Stroke(width=0.02, points=((0.4, 0.5), (0.6, 0.5)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What a form asks for.

  Attributes:
    request: with arrays and paths in the place of images.
    sketch: the factor of the strength of sketch guidance, None without it.
    record: the same in words, of JSON's types.
  """

  request: pipeline.Request
  sketch: float | None
  record: dict[str, Any]


def read(values: Values, controls: Controls, uploads: pathlib.Path) -> Asked:
  """Returns what the values of a form ask for.

  Args:
    values: by the names of `fields`; a value that is missing is None.
    controls: of the model.
    uploads: the folder of uploaded files; no other file is read.

  Raises:
    UserError: a value that is none, or a condition that is missing.
  """
  inputs = {
    'count': _whole(values, 'count', 1, controls_lib.MAX_COUNT),
    'seed': _seed(values),
    'steps': _steps(values, controls),
    'guidance': _guidance(values, controls),
    **{name: _text(values, name) for name in TEXTS if controls.has(name)},
    **_choices(values, controls),
    **_drawn(values, controls),
    **_uploads(values, controls, uploads),
  }
  _strength(values, controls, inputs)
  given = {name: x for name, x in inputs.items() if x is not None}
  for name in controls.needs:
    if name not in given:
      raise errors.UserError(f'{controls_lib.MISSING[name]}.')
  factor = _sketch_factor(values, controls, given)
  request = pipeline.Request(**given)
  return Asked(request=request, sketch=factor, record=_record(given, factor))


def fields(controls: Controls) -> tuple[str, ...]:
  """Returns the names of the values of a form, in the order of the page."""
  drawn = ('canvas',) if controls.tools else ()
  wide = [x for x in controls.takes if x not in ('layout', 'mask')]
  names = [field_of(x) for x in wide]
  extra = [
    name
    for name, has in (
      ('steps', bool(controls.steps)),
      ('guidance', controls.guidance is not None),
      ('sketch_strength', controls.sketch),
    )
    if has
  ]
  return (*drawn, *names, *extra, 'count', 'seed', 'is_new_seed')


def field_of(name: str) -> str:
  """Returns the name of the field of an input; strokes are on the canvas."""
  return 'sketch_file' if name == 'sketch' else name


def upload(value: Any, name: str, uploads: pathlib.Path) -> pathlib.Path | None:
  """Returns the path of an upload, None for none.

  Its size in bytes is bounded, and that of an image in pixels, before it is
  decoded.

  Args:
    value: {'path': path} of a file that a browser has uploaded.
    name: 'image', 'map' or 'sketch'.
    uploads: the folder of uploaded files.

  Raises:
    UserError: no file of that folder, a large one, or no image and no SVG.
  """
  if value is None:
    return None
  path = _path(value, name, uploads)
  size = path.stat().st_size
  if size > UPLOAD_BYTES:
    raise errors.UserError(
      f'{name} has {size} bytes, at most {UPLOAD_BYTES} are read.'
    )
  if name == 'sketch' and path.suffix.lower() in ('.svg', '.svgz'):
    return path  # is checked where it is rendered
  try:
    height, width = images.size(path)
  except images.BrokenImage as error:
    raise errors.UserError(f'{name}: {error.reason}.') from error
  if height * width > UPLOAD_PIXELS:
    raise errors.UserError(
      f'{name} is {width} x {height} px, at most {UPLOAD_PIXELS} pixels are'
      ' read.'
    )
  return path


def _path(value: Any, name: str, uploads: pathlib.Path) -> pathlib.Path:
  """Returns the path of an uploaded file, and refuses all others."""
  given = value.get('path') if isinstance(value, dict) else None
  if not isinstance(given, str) or not given or '\0' in given:
    raise errors.UserError(f'{name}: {_short(value)}, must be an upload.')
  try:
    path = pathlib.Path(given).resolve()
    is_there = path.is_relative_to(uploads.resolve()) and path.is_file()
  except OSError:
    is_there = False
  if not is_there:
    raise errors.UserError(f'{name}: no file that was uploaded; upload it.')
  return path


def with_relation(text: Any, parts: tuple[Any, Any, Any]) -> str:
  """Returns the text of a graph with another relation.

  Raises:
    UserError: parts that are no words, or a long text.
  """
  words = [part for part in parts if isinstance(part, str) and part]
  if len(words) < 3:
    raise errors.UserError('choose an object, a relation and another object.')
  before = _text({'graph': text}, 'graph')
  added = ', '.join(words)
  joined = f'{before.rstrip("; ")}; {added}' if before else added
  return _text({'graph': joined}, 'graph') or ''


def _text(values: Values, name: str) -> str | None:
  value = values.get(name)
  if value is None:
    return None
  if not isinstance(value, str):
    raise errors.UserError(f'{name}: {type(value).__name__}, must be a text.')
  if len(value) > MAX_TEXT:
    raise errors.UserError(
      f'{name} has {len(value)} characters, at most {MAX_TEXT} are read.'
    )
  return value.strip() or None


def _whole(values: Values, name: str, low: int, high: int) -> int | None:
  """Returns a whole number, whatever type it was sent as."""
  value = values.get(name)
  if value is None:
    return None
  is_whole = canvas.is_number(value) and int(value) == value
  if not is_whole or not low <= value <= high:
    raise errors.UserError(
      f'{name}={_short(value)}: must be a whole number in [{low}, {high}].'
    )
  return int(value)


def _seed(values: Values) -> int:
  """Returns the seed, a new one where none is kept."""
  seed = _whole(values, 'seed', 0, MAX_SEED)
  if seed is None or values.get('is_new_seed') is True:
    return secrets.randbelow(MAX_SEED + 1)
  return seed


def _among(value: Any, name: str, allowed: tuple[Any, ...]) -> Any:
  if value not in allowed:
    raise errors.UserError(
      f'{name}={_short(value)}: must be one of {", ".join(map(str, allowed))}.'
    )
  return value


def _steps(values: Values, controls: Controls) -> Any:
  value = values.get('steps')
  if value is None or not controls.steps:
    return None
  text = _among(
    value if isinstance(value, str) else None, 'steps', controls.steps
  )
  numbers = tuple(map(int, text.split(',')))
  return numbers if len(numbers) > 1 else numbers[0]


def _real(values: Values, name: str, low: float, high: float) -> float | None:
  value = values.get(name)
  if value is None:
    return None
  if not canvas.is_number(value) or not low <= value <= high:
    raise errors.UserError(
      f'{name}={_short(value)}: must be a number in [{low:g}, {high:g}].'
    )
  return float(value)


def _guidance(values: Values, controls: Controls) -> float | None:
  if controls.guidance is None:
    return None
  return _real(values, 'guidance', 1.0, controls_lib.MAX_GUIDANCE)


def _choices(values: Values, controls: Controls) -> dict[str, Any]:
  """Returns the class, and the attributes of the camera; None for any."""
  found: dict[str, Any] = {}
  if controls.has('label'):
    value = _text(values, 'label')
    if value is not None and controls.labels:
      _among(value, 'label', controls.labels)
    found['label'] = value
  for name, allowed in camera.ATTRIBUTES.items():
    value = _text(values, name) if controls.has(name) else None
    found[name] = value and _among(value, name, allowed)
  return found


def _drawn(values: Values, controls: Controls) -> dict[str, Any]:
  """Returns the layout and the sketch of a canvas."""
  value = values.get('canvas') if controls.tools else None
  found: dict[str, Any] = {}
  if canvas.BOXES in controls.tools:
    found['layout'] = canvas.boxes(value) or None
  if canvas.SKETCH in controls.tools:
    strokes = canvas.strokes(value, canvas.SKETCH)
    found['sketch'] = drawn_sketch(strokes) if strokes else None
  return found


def drawn_sketch(strokes: list[canvas.Stroke]) -> np.ndarray:
  """Returns strokes as black lines on white, (H, W) uint8."""
  return 255 - canvas.raster(strokes, _SKETCH_SIDE, _SKETCH_SIDE)


def _uploads(
  values: Values, controls: Controls, uploads: pathlib.Path
) -> dict[str, Any]:
  """Returns the images that were uploaded, and the mask that is painted."""
  found: dict[str, Any] = {}
  if controls.has('sketch'):
    path = upload(values.get('sketch_file'), 'sketch', uploads)
    found |= {} if path is None else {'sketch': str(path)}
  if controls.has('map'):
    path = upload(values.get('map'), 'map', uploads)
    found['map'] = None if path is None else str(path)
  if not controls.has('image'):
    return found
  path = upload(values.get('image'), 'image', uploads)
  image = None if path is None else given_images.image(path, 'image')
  found['image'] = image
  if canvas.MASK in controls.tools:
    strokes = canvas.strokes(values.get('canvas'), canvas.MASK)
    if strokes and image is None:
      raise errors.UserError('a part is painted, and there is no image.')
    if strokes and image is not None:
      mask = canvas.raster(strokes, *image.shape[:2])
      found['mask'] = np.stack([mask] * 3, axis=-1)
  return found


def _strength(
  values: Values, controls: Controls, inputs: dict[str, Any]
) -> None:
  """Adds the share of the steps that an image goes through."""
  if not controls.has(controls_lib.STRENGTH) or inputs.get('image') is None:
    return
  value = values.get('strength')
  allowed = controls_lib.STRENGTHS
  is_number = value is None or canvas.is_number(value)
  inputs['strength'] = _among(
    (OWN_STRENGTH if value is None else value) if is_number else None,
    'strength',
    allowed,
  )


def _sketch_factor(
  values: Values, controls: Controls, given: dict[str, Any]
) -> float | None:
  """Returns the factor of sketch guidance, 0 where nothing is drawn."""
  if not controls.sketch:
    return None
  factor = _real(values, 'sketch_strength', 0.0, controls_lib.MAX_SKETCH)
  if 'sketch' not in given:
    given['sketch'] = drawn_sketch([_NO_SKETCH])
    return 0.0
  return 1.0 if factor is None else factor


def _record(given: Mapping[str, Any], factor: float | None) -> dict[str, Any]:
  """Returns a request in words, with the sizes of images."""
  found = dict(given)
  for name in ('image', 'mask', 'map', 'sketch'):
    value = given.get(name)
    if isinstance(value, np.ndarray):
      found[name] = f'{value.shape[1]} x {value.shape[0]} px'
    elif value is not None:
      found[name] = pathlib.PurePath(value).name
  if factor is not None:
    found['sketch_strength'] = factor
    if not factor:
      found.pop('sketch', None)
  return found


def _short(value: Any) -> str:
  text = errors.shown(value)
  return text if len(text) <= 80 else f'{text[:80]}...'
