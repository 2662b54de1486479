"""The autoencoders of LDM under the names of the diffusers library.

huggingface/diffusers: models/autoencoders/autoencoder_kl.py and vq_model.py.
The networks are the same; levels of a decoder are counted from the lowest
resolution, and the attention's pointwise convolutions are linear layers. Two
generations of names of the attention are read, the newer one is written.
"""

from collections.abc import Mapping
import re

import numpy as np


# (official, diffusers)
_NAMES = (
  ('mid.block_1.', 'mid_block.resnets.0.'),
  ('mid.block_2.', 'mid_block.resnets.1.'),
  ('mid.attn_1.', 'mid_block.attentions.0.'),
  ('.block.', '.resnets.'),
  ('.attn.', '.attentions.'),
  ('.downsample.', '.downsamplers.0.'),
  ('.upsample.', '.upsamplers.0.'),
  ('coder.norm_out.', 'coder.conv_norm_out.'),
  ('.nin_shortcut.', '.conv_shortcut.'),
  ('.down.', '.down_blocks.'),
)
# Layers of an attention, the same way.
_ATTENTION = {
  'norm': 'group_norm',
  'q': 'to_q',
  'k': 'to_k',
  'v': 'to_v',
  'proj_out': 'to_out.0',
}
_OFFICIAL = {theirs: ours for ours, theirs in _ATTENTION.items()}
# Layers of an attention before version 0.15 -> since then.
RENEWED = {
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_attn': 'to_out.0',
}
_IS_THEIRS = re.compile(r'(en|de)coder\.(down_blocks|up_blocks|mid_block)\.')
_OUR_LAYER = re.compile(r'(.+\.attn(?:_1|\.\d+)\.)(.+)(\.weight|\.bias)')
THEIR_LAYER = re.compile(r'(.+\.attentions\.\d+\.)(.+)(\.weight|\.bias)')


def to_official(
  state: Mapping[str, np.ndarray], heads: object = None
) -> Mapping[str, np.ndarray]:
  """Returns the official state dict; one that is official comes back as it is.

  Keys of other networks are kept. All attentions have one head.
  """
  del heads
  if not any(map(_IS_THEIRS.match, state)):
    return state
  top = _top_level(state, r'decoder\.up_blocks\.(\d+)\.')
  renamed = {}
  for key, value in state.items():
    if layer := THEIR_LAYER.fullmatch(key):
      name = RENEWED.get(layer[2], layer[2])
      key = layer[1] + _OFFICIAL.get(name, name) + layer[3]
      value = value[:, :, None, None] if value.ndim == 2 else value
    for ours, theirs in _NAMES:
      key = key.replace(theirs, ours)
    level = lambda m: f'.up.{top - int(m[1])}.'
    renamed[re.sub(r'\.up_blocks\.(\d+)\.', level, key)] = value
  return renamed


def from_official(
  state: Mapping[str, np.ndarray], heads: object = None
) -> dict[str, np.ndarray]:
  """Returns the state dict under the library's names.

  Raises:
    ValueError: attention that the library does not have.
  """
  del heads
  top = _top_level(state, r'decoder\.up\.(\d+)\.')
  renamed = {}
  for key, value in state.items():
    if '.to_qkv.' in key:
      raise ValueError(f'{key}: diffusers has no linear attention here')
    if layer := _OUR_LAYER.fullmatch(key):
      key = layer[1] + _ATTENTION.get(layer[2], layer[2]) + layer[3]
      value = value[:, :, 0, 0] if value.ndim == 4 else value
    for ours, theirs in _NAMES:
      key = key.replace(ours, theirs)
    level = lambda m: f'.up_blocks.{top - int(m[1])}.'
    renamed[re.sub(r'\.up\.(\d+)\.', level, key)] = value
  return renamed


def _top_level(state: Mapping[str, np.ndarray], pattern: str) -> int:
  found = [m for m in (re.match(pattern, key) for key in state) if m]
  return max((int(m[1]) for m in found), default=0)
