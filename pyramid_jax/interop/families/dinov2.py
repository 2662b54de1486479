"""DINOv2: keys of its files, `dinov2_vit{s,b,l,g}14_pretrain.pth`.

facebookresearch/dinov2: dinov2/models/vision_transformer.py, without registers.
Queries, keys and values are one layer there.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import vision_transformer
from pyramid_jax.networks.layers import prenorm


State = Mapping[str, np.ndarray]

UNREAD = ('mask_token',)  # of its training
HEAD_DIM = 64
_CLASS, _POSITIONS = 'cls_token', 'pos_embed'
_PATCHES = 'patch_embed.proj'
_PARTS = {
  'layer_norm1': 'norm1',
  'layer_norm2': 'norm2',
  'out_proj': 'attn.proj',
  **{f'{part}_proj': f'attn.{part}' for part in 'qkv'},
  **{name: f'mlp.{name}' for name in ('fc1', 'fc2', 'w12', 'w3')},
}
_QKV = re.compile(r'(blocks\.\d+\.attn)\.qkv\.(weight|bias)')
_QUERY = re.compile(r'(blocks\.\d+\.attn)\.q\.(weight|bias)')
_KEY_VALUE = re.compile(r'blocks\.\d+\.attn\.[kv]\.')


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns key and kind of a parameter, as `cut` leaves them."""
  *modules, leaf = path
  if not modules:
    return {'class_token': _CLASS, 'positions': _POSITIONS}[leaf], 'raw'
  if modules[0] == 'patches':
    return mapping.official(_PATCHES, leaf, 'conv')
  if modules[0] == 'norm':
    return mapping.official('norm', leaf)
  block = f'blocks.{modules[0].removeprefix("layers_")}'
  if len(modules) == 1:
    return f'{block}.{leaf.replace("scale", "ls")}.gamma', 'raw'
  return mapping.official(f'{block}.{_PARTS[modules[1]]}', leaf)


def cut(state: State, tree: Any) -> dict[str, np.ndarray]:
  """Returns queries, keys and values apart, and tables without first axes."""
  del tree
  parts: dict[str, np.ndarray] = {}
  for key, value in state.items():
    if match := _QKV.fullmatch(key):
      thirds = np.split(np.asarray(value), 3)
      for part, third in zip('qkv', thirds, strict=True):
        parts[f'{match[1]}.{part}.{match[2]}'] = third
    elif key == _CLASS:
      parts[key] = np.ravel(value)
    elif key == _POSITIONS:
      parts[key] = np.reshape(value, np.shape(value)[-2:])
    else:
      parts[key] = value
  return parts


def join(state: State) -> dict[str, np.ndarray]:
  """Undoes `cut`."""
  whole: dict[str, np.ndarray] = {}
  for key, value in state.items():
    if match := _QUERY.fullmatch(key):
      thirds = [state[f'{match[1]}.{part}.{match[2]}'] for part in 'qkv']
      whole[f'{match[1]}.qkv.{match[2]}'] = np.concatenate(thirds)
    elif key == _CLASS:
      whole[key] = value[None, None]
    elif key == _POSITIONS:
      whole[key] = value[None]
    elif not _KEY_VALUE.match(key):
      whole[key] = value
  return whole


def infer(state: State) -> vision_transformer.VisionTransformer:
  """Returns the network whose weights these are.

  Raises:
    ValueError: they are of no DINOv2, or of one with registers.
  """
  if 'register_tokens' in state:
    raise ValueError(
      'a DINOv2 with registers; files without (no _reg4 in their name) are read'
    )
  patches = f'{_PATCHES}.weight'
  absent = [key for key in (_POSITIONS, patches) if key not in state]
  if absent:
    raise ValueError(f'no DINOv2: {absent[0]} is missing')
  dim, _, patch, _ = np.shape(state[patches])
  fc1, gated = 'blocks.0.mlp.fc1.weight', 'blocks.0.mlp.w12.weight'
  is_gated = gated in state
  if not is_gated and fc1 not in state:
    raise ValueError(f'no DINOv2: {fc1} is missing')
  return vision_transformer.VisionTransformer(
    dim=dim,
    depth=mapping.count(state, 'blocks'),
    heads=dim // HEAD_DIM,
    mlp_dim=len(state[gated]) // 2 if is_gated else len(state[fc1]),
    patch=patch,
    grid=int(np.shape(state[_POSITIONS])[-2] ** 0.5),
    hidden_act=prenorm.SWIGLU if is_gated else 'gelu',
  )
