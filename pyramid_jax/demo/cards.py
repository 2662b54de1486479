"""The results of a request as HTML, and an image as a PNG with its request.

All that a person typed, and all names of a run, are escaped. Images are part of
the page, so nothing is written to disk.
"""

import base64
from collections.abc import Mapping
from collections.abc import Sequence
import html
import io
import json
from typing import Any

import numpy as np
from PIL import Image
from PIL import PngImagePlugin

from pyramid_jax.demo import making


KEY = 'pyramid_jax'  # of the text of a PNG that has its request
_LARGEST = 512  # px of a preview


def png(image: np.ndarray, record: Mapping[str, Any] | None = None) -> bytes:
  """Returns an image (H, W, 3) uint8 as a PNG, with a record in its text."""
  info = PngImagePlugin.PngInfo()
  if record is not None:
    info.add_text(KEY, json.dumps(record))
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, 'png', pnginfo=info)
  return stream.getvalue()


def data_url(image: np.ndarray, record: Mapping[str, Any] | None = None) -> str:
  """Returns an image as the URL of a PNG that is a part of the page."""
  data = base64.b64encode(png(image, record)).decode()
  return f'data:image/png;base64,{data}'


def preview(image: np.ndarray) -> str:
  """Returns the URL of an image of any size, reduced to what a page shows."""
  small = Image.fromarray(image)
  small.thumbnail((_LARGEST, _LARGEST))
  return data_url(np.asarray(small.convert('RGB')))


def escaped(text: str) -> str:
  """Returns a text as HTML, without anything that a template would replace."""
  plain = html.escape(text, quote=True)
  for sign in '{}$`':
    plain = plain.replace(sign, f'&#{ord(sign)};')
  return plain


def status(
  text: str, share: float | None = None, is_error: bool = False
) -> str:
  """Returns a line that says how far a request is.

  Args:
    text: of the line.
    share: in [0, 1] of a bar, None for no bar.
    is_error: whether it says what is wrong.
  """
  kind = 'pj-error' if is_error else 'pj-note'
  role = 'alert' if is_error else 'status'
  line = f'<p class="{kind}" role="{role}">{escaped(text)}</p>'
  if share is None:
    return line
  width = f'{100 * min(max(share, 0.0), 1.0):.0f}%'
  bar = f'<div class="pj-bar"><i style="width:{width}"></i></div>'
  return bar + line


def results(
  state: making.State, record: Mapping[str, Any], stages: Sequence[str]
) -> str:
  """Returns the images of a request, with their stages and conditions.

  Args:
    state: how far the request is.
    record: the request in words.
    stages: the names of the stages, coarse to fine.
  """
  cards = [_card(image, record, stages) for image in state.images]
  text = json.dumps(record, indent=2)
  return (
    f'<div class="pj-cards">{"".join(cards)}</div>'
    '<details class="pj-request"><summary>The request as the model got it'
    f'</summary><pre>{escaped(text)}</pre></details>'
  )


def _card(
  image: making.Image, record: Mapping[str, Any], stages: Sequence[str]
) -> str:
  """Returns the figure of an image: condition, stages, result."""
  parts = [
    _figure(data_url(x), 'condition', 'pj-smooth') for x in image.condition
  ]
  *coarse, last = image.stages
  for index, shown in enumerate(coarse):
    parts.append(_figure(data_url(shown), _stage_name(index, stages)))
  own = {**record, 'number': image.number}
  url = data_url(last, own if image.is_whole else None)
  seed = int(record.get('seed', 0))
  name = f'image {image.number} of seed {seed}'
  if not image.is_whole:
    result = _figure(url, _stage_name(len(coarse), stages), 'pj-result pj-part')
  else:
    file = f'{_file_name(str(record.get("model", "image")))}-{seed}'
    result = _figure(url, name, 'pj-result', f'{file}-{image.number}.png')
  return f'<div class="pj-card"><div>{"".join(parts)}</div>{result}</div>'


def _stage_name(index: int, stages: Sequence[str]) -> str:
  return f'stage {stages[index]}' if index < len(stages) else 'low resolution'


def _figure(url: str, caption: str, kind: str = '', file: str = '') -> str:
  words = escaped(caption)
  image = f'<img src="{url}" alt="{words}">'
  link = ''
  if file:
    link = f' <a download="{escaped(file)}" href="{url}">Download PNG</a>'
  return (
    f'<figure class="{kind}">{image}'
    f'<figcaption>{words}{link}</figcaption></figure>'
  )


def _file_name(text: str) -> str:
  """Returns a text with dashes for what is no letter, digit or underscore."""
  kept = ''.join(x if x.isalnum() or x == '_' else '-' for x in text)
  return kept.strip('-')[:60] or 'image'
