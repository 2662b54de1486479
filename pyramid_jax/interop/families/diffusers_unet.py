"""The denoiser of LDM in the layout of the diffusers library.

huggingface/diffusers: models/unets/unet_2d_condition.py (transformers) and
unet_2d.py (self-attention alone). The networks are the same; names differ
(`diffusers_names`), pointwise convolutions of a self-attention are linear
layers, and its queries, keys and values are three of them. Officially they
are one, whose channels are ordered by heads: their number has to be known.
"""

from collections.abc import Mapping
import dataclasses
import json
import re

import numpy as np

from pyramid_jax.files import json_text
from pyramid_jax.interop.families import diffusers
from pyramid_jax.interop.families import diffusers_names
from pyramid_jax.networks import unet


State = Mapping[str, np.ndarray]

_IS_THEIRS = re.compile(r'(down_blocks|up_blocks|mid_block)\.')
_PART = re.compile(r'(.+)(\.to_[qkv])\.(weight|bias)')
_RESAMPLING_BLOCK = re.compile(r'(.+)\.(down|up)samplers\.0\.norm1\.weight')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heads:
  """What the tensors of self-attentions do not say."""

  counts: Mapping[str, int]  # official name of an attention -> heads
  new_order: bool = False  # `blocks.AttentionBlock.use_new_attention_order`

  @classmethod
  def of(cls, network: unet.UNet) -> 'Heads':
    """Returns those of a network, none if it attends by transformers."""
    if network.use_spatial_transformer:
      return cls(counts={})
    down, up = network.layout()
    widest = down[-1].channels if down else network.model_channels
    counts = {'middle_block.1': network.heads(widest)[0]}
    for i, entry in enumerate(down, 1):
      if entry.attends:
        counts[f'input_blocks.{i}.1'] = network.heads(entry.channels)[0]
    for i, entry in enumerate(up):
      if entry.attends:
        count, _ = network.heads(entry.channels, up=True)
        counts[f'output_blocks.{i}.1'] = count
    return cls(counts=counts, new_order=network.use_new_attention_order)

  @classmethod
  def from_json(cls, text: str) -> 'Heads':
    return cls(**json_text.loads(text))

  def to_json(self) -> str:
    return json.dumps(dataclasses.asdict(self))


def to_official(state: State, heads: Heads | None = None) -> State:
  """Returns the official state dict; one that is official comes back as it is.

  Projections of transformers may be linear layers or pointwise convolutions,
  names of attentions old or new. Self-attentions need `heads`.

  Raises:
    ValueError: a network that LDM does not have, or other heads.
  """
  if not any(map(_IS_THEIRS.match, state)):
    return state
  state = {_renewed(key): value for key, value in state.items()}
  plan = diffusers_names.Plan.of_diffusers(state)
  names = {theirs: ours for ours, theirs in plan.keys().items()}
  official = {}
  for key, value in state.items():
    if key not in names:
      raise ValueError(f'{key} of diffusers has no place in a U-Net of LDM')
    if key.endswith(('.proj_in.weight', '.proj_out.weight')):
      value = value[..., None, None] if value.ndim == 2 else value
    elif not plan.depth and key.endswith('.to_out.0.weight'):
      value = value[..., None]
    official[names[key]] = value
  return official if plan.depth else _joined(official, heads)


def from_official(
  state: State, heads: Heads | None = None
) -> dict[str, np.ndarray]:
  """Returns the state dict under the library's names.

  Projections of transformers are written as pointwise convolutions.

  Raises:
    ValueError: a network that the library does not have.
  """
  plan = diffusers_names.Plan.of_official(state)
  names = plan.keys()
  theirs = {}
  for key, value in (state if plan.depth else _parted(state, heads)).items():
    if key not in names:
      raise ValueError(f'{key} has no name in the layout of diffusers')
    theirs[names[key]] = value
  if plan.depth:
    _check_transformers(theirs)
  return theirs


def _renewed(key: str) -> str:
  """Returns a key of the library with new names in its attention."""
  layer = diffusers.THEIR_LAYER.fullmatch(key)
  if layer is None:
    return key
  return layer[1] + diffusers.RENEWED.get(layer[2], layer[2]) + layer[3]


def _check_transformers(theirs: State) -> None:
  """Raises ValueError for what the library lacks, except for transformers."""
  for key, value in theirs.items():
    if key.endswith('.proj_in.weight') and value.shape[0] != value.shape[1]:
      raise ValueError(
        f'{key} is {value.shape}: heads of diffusers fill the channels'
      )
    block = _RESAMPLING_BLOCK.fullmatch(key)
    if block and f'{block[1]}.attentions.0.norm.weight' in theirs:
      raise ValueError(
        f'{key}: a level of diffusers with transformers is resampled by'
        ' convolutions (resblock_updown = False)'
      )


def _parted(state: State, heads: Heads | None) -> dict[str, np.ndarray]:
  """Takes every qkv apart and makes pointwise convolutions linear layers."""
  parted = {}
  counts, widths = set(), set()
  for key, value in state.items():
    value = value[..., 0] if value.ndim == 3 else value
    module, found, leaf = key.partition('.qkv.')
    if not found:
      parted[key] = value
      continue
    channels, shape = value.shape[0] // 3, value.shape[1:]
    count, blocks = _count(module, channels, heads)
    counts.add(count)
    widths.add(channels // count)
    rows = value.reshape(blocks, 3, -1, *shape)
    for i, name in enumerate(diffusers_names.QKV):
      parted[f'{module}{name}.{leaf}'] = rows[:, i].reshape(channels, *shape)
  if len(widths) > 1 and counts != {1}:
    raise ValueError(
      f'heads of {sorted(widths)} channels: self-attentions of diffusers have'
      ' heads of one width (num_head_channels), or a single head'
    )
  return parted


def _joined(state: State, heads: Heads | None) -> dict[str, np.ndarray]:
  """Puts every qkv together, the inverse of `_parted`."""
  joined: dict[str, np.ndarray] = {}
  parts: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for key, value in state.items():
    if match := _PART.fullmatch(key):
      module, name, leaf = match.groups()
      parts.setdefault((module, leaf), {})[name] = value
    else:
      joined[key] = value
  for (module, leaf), found in parts.items():
    shapes = [found[n].shape for n in diffusers_names.QKV if n in found]
    if len(shapes) < 3 or len(set(shapes)) > 1:
      raise ValueError(
        f'{module} has {", ".join(sorted(found))} of shapes {shapes}; needed'
        ' are to_q, to_k and to_v of one shape'
      )
    channels, *shape = shapes[0]
    _, blocks = _count(module, channels, heads)
    rows = [
      found[name].reshape(blocks, -1, *shape) for name in diffusers_names.QKV
    ]
    value = np.stack(rows, axis=1).reshape(3 * channels, *shape)
    joined[f'{module}.qkv.{leaf}'] = value[..., None] if shape else value
  return joined


def _count(module: str, channels: int, heads: Heads | None) -> tuple[int, int]:
  """Returns the heads, and into how many [q, k, v] the rows of a qkv fall."""
  if heads is None:
    raise ValueError(
      f'{module} is a self-attention: without the number of its heads its'
      ' queries, keys and values cannot be separated; convert it again, with'
      ' its config'
    )
  count = heads.counts.get(module, 0)
  if not count or channels % count:
    raise ValueError(
      f'{module} is a self-attention of {channels} channels, which the config'
      f' has {f"with {count} heads" if count else "not"}'
    )
  return count, 1 if heads.new_order else count
