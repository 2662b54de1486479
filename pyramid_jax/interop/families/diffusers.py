"""The autoencoders of LDM under the names of the diffusers library.

huggingface/diffusers: models/autoencoders/autoencoder_kl.py and vq_model.py.
The networks are the same; levels of a decoder are counted from the lowest
resolution, and the attention's pointwise convolutions are linear layers. Two
generations of names of the attention are read, the newer one is written.
"""

from collections.abc import Mapping
import re

import numpy as np


# (official, diffusers) inside of 'mid.' and 'mid_block.'
_MIDDLE = (
  ('mid.block_1.', 'mid_block.resnets.0.'),
  ('mid.block_2.', 'mid_block.resnets.1.'),
  ('mid.attn_1.', 'mid_block.attentions.0.'),
)
_LEVEL = (
  ('.block.', '.resnets.'),
  ('.attn.', '.attentions.'),
  ('.downsample.', '.downsamplers.0.'),
  ('.upsample.', '.upsamplers.0.'),
)
_SHARED = (
  ('coder.norm_out.', 'coder.conv_norm_out.'),
  ('.nin_shortcut.', '.conv_shortcut.'),
)
# after '.attn_1.' or '.attn.N.', and '.attentions.N.'
_ATTENTION = (
  ('norm.', 'group_norm.'),
  ('q.', 'to_q.'),
  ('k.', 'to_k.'),
  ('v.', 'to_v.'),
  ('proj_out.', 'to_out.0.'),
)
_OLD_ATTENTION = {
  'query.': 'to_q.',
  'key.': 'to_k.',
  'value.': 'to_v.',
  'proj_attn.': 'to_out.0.',
}
_IS_THEIRS = re.compile(r'(en|de)coder\.(down_blocks|up_blocks|mid_block)\.')


def to_official(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """Returns the official state dict; one that is official comes back as it is.

  Keys of other networks are kept.
  """
  if not any(map(_IS_THEIRS.match, state)):
    return state
  top = _top_level(state, r'decoder\.up_blocks\.(\d+)\.')
  renamed = {}
  for key, value in state.items():
    new, inside = _split(key, r'\.attentions\.\d+\.')
    if inside:
      for old, newer in _OLD_ATTENTION.items():
        inside = re.sub(f'^{old}', newer, inside)
      inside = _start(inside, [(b, a) for a, b in _ATTENTION])
      if value.ndim == 2:
        value = value[:, :, None, None]
    for ours, theirs in (*_MIDDLE, *_LEVEL, *_SHARED):
      new = new.replace(theirs, ours)
    new = new.replace('.down_blocks.', '.down.')
    new = re.sub(
      r'\.up_blocks\.(\d+)\.', lambda m: f'.up.{top - int(m[1])}.', new
    )
    renamed[new + inside] = value
  return renamed


def from_official(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the state dict under the library's names.

  Raises:
    ValueError: attention that the library does not have.
  """
  top = _top_level(state, r'decoder\.up\.(\d+)\.')
  renamed = {}
  for key, value in state.items():
    if '.to_qkv.' in key:
      raise ValueError(f'{key}: diffusers has no linear attention here')
    new, inside = _split(key, r'\.(attn_1|attn\.\d+)\.')
    if inside:
      inside = _start(inside, _ATTENTION)
      if value.ndim == 4:
        value = value[:, :, 0, 0]
    for ours, theirs in (*_MIDDLE, *_LEVEL, *_SHARED):
      new = new.replace(ours, theirs)
    new = new.replace('.down.', '.down_blocks.')
    new = re.sub(
      r'\.up\.(\d+)\.', lambda m: f'.up_blocks.{top - int(m[1])}.', new
    )
    renamed[new + inside] = value
  return renamed


def _top_level(state: Mapping[str, np.ndarray], pattern: str) -> int:
  found = [m for m in (re.match(pattern, key) for key in state) if m]
  return max((int(m[1]) for m in found), default=0)


def _split(key: str, pattern: str) -> tuple[str, str]:
  """Splits a key behind the pattern; ('key', '') where it is not there."""
  match = re.search(pattern, key)
  return (key[: match.end()], key[match.end() :]) if match else (key, '')


def _start(name: str, pairs) -> str:
  """Replaces the first of the pairs that the name begins with."""
  for old, new in pairs:
    if name.startswith(old):
      return new + name.removeprefix(old)
  return name
