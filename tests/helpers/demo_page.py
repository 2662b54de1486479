"""The values of a form of the demo, and models that make images at once."""

import types
from typing import Any

import numpy as np

from pyramid_jax.demo import controls as controls_lib
from tests.helpers import configs


def controls(**changes: Any) -> controls_lib.Controls:
  """Returns the controls of a model of layouts that edits images."""
  values: dict[str, Any] = {
    'title': 'boxes',
    'takes': ('layout', 'image', 'mask', 'strength'),
    'needs': ('layout',),
    'tools': ('boxes', 'mask'),
    'labels': ('red circle', 'blue square'),
    'predicates': (),
    'steps': ('2', '4'),
    'own_steps': '4',
    'guidance': 2.0,
    'edits': True,
    'sketch': False,
    'stages': ('4x4', '8x8'),
    'size': 32,
  }
  return controls_lib.Controls(**values | changes)


def box(label='red circle', corners=(0.1, 0.1, 0.4, 0.4)) -> dict[str, Any]:
  """Returns a box as the canvas sends it."""
  return {'label': label, 'box': list(corners)}


def stroke(*points: float, width: float = 0.1) -> dict[str, Any]:
  """Returns a stroke as the canvas sends it."""
  return {'width': width, 'points': list(points)}


def values(**changes: Any) -> dict[str, Any]:
  """Returns what the page sends for one box."""
  drawn = {'boxes': [box()], 'sketch': [], 'mask': []}
  form = {
    'canvas': drawn,
    'count': 1,
    'seed': 7,
    'is_new_seed': False,
    'steps': '4',
    'guidance': 2.0,
    'strength': 0.5,
    'image': None,
  }
  return form | changes


def pipe(**fields: Any) -> Any:
  """Returns what `examples` asks of a model whose data are not there."""
  config = configs.load('frido_coco.py:layout', data__root='/not/there')
  return types.SimpleNamespace(
    config=configs.change(config, fields), label_names=('padding', 'a')
  )


def image(height=32, width=32) -> np.ndarray:
  """Returns an image of one colour that is no grey."""
  return np.full((height, width, 3), (10, 120, 200), np.uint8)
