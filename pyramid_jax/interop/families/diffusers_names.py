"""Names of a U-Net's tensors: the official ones and the library's.

CompVis/latent-diffusion numbers the entries of the way down and of the way up
from first to last; huggingface/diffusers numbers levels, and blocks inside of
a level. Which is which depends on a few numbers, the plan of a network.
"""

from collections.abc import Iterable
import dataclasses
import re


# Layers of an attention, one tensor in the official self-attention.
QKV = ('.to_q', '.to_k', '.to_v')

# (official, diffusers) of modules outside of the levels
_ENDS = (
  ('time_embed.0', 'time_embedding.linear_1'),
  ('time_embed.2', 'time_embedding.linear_2'),
  ('label_emb', 'class_embedding'),
  ('input_blocks.0.0', 'conv_in'),
  ('middle_block.0', 'mid_block.resnets.0'),
  ('middle_block.1', 'mid_block.attentions.0'),
  ('middle_block.2', 'mid_block.resnets.1'),
  ('out.0', 'conv_norm_out'),
  ('out.2', 'conv_out'),
)
# inside of a residual block, which may be what resamples too
_BLOCK = (
  ('.in_layers.0', '.norm1'),
  ('.in_layers.2', '.conv1'),
  ('.emb_layers.1', '.time_emb_proj'),
  ('.out_layers.0', '.norm2'),
  ('.out_layers.3', '.conv2'),
  ('.skip_connection', '.conv_shortcut'),
)
# inside of a self-attention
_ATTENTION = (
  ('.norm', '.group_norm'),
  *((name, name) for name in QKV),
  ('.proj_out', '.to_out.0'),
)
# inside of a transformer and of its blocks; both say the same
_TRANSFORMER = ('.norm', '.proj_in', '.proj_out')
_TRANSFORMER_BLOCK = (
  *(f'.norm{i}' for i in (1, 2, 3)),
  *(f'.attn{i}{name}' for i in (1, 2) for name in (*QKV, '.to_out.0')),
  '.ff.net.0.proj',
  '.ff.net.2',
)

_OUR_ENTRY = re.compile(r'(input|output)_blocks\.(\d+)\.(\d+)\.(\w+)')
_THEIR_BLOCK = re.compile(r'(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.')
_DEPTH = re.compile(r'\.transformer_blocks\.(\d+)\.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What the names of a network depend on."""

  levels: int  # the number of resolutions
  blocks: int  # residual blocks of a level on the way down
  # levels of the way up with attention, from the lowest resolution
  attending: frozenset[int]
  depth: int  # blocks of a transformer, 0 for self-attention

  @classmethod
  def of_official(cls, keys: Iterable[str]) -> 'Plan':
    """Reads official keys; ValueError if levels resample without a layer."""
    keys = list(keys)
    entries: dict[str, set[int]] = {'input': set(), 'output': set()}
    enlarging, attending = set(), set()
    for way, entry, place, first in _matches(_OUR_ENTRY, keys):
      entries[way].add(int(entry))
      if way == 'output' and place != '0':
        if first in ('conv', 'in_layers'):
          enlarging.add(int(entry))
        elif first == 'norm':
          attending.add(int(entry))
    levels = len(enlarging) + 1
    count = len(entries['output']) // levels  # of a level on the way up
    ends = {count * level - 1 for level in range(1, levels)}
    every = set(range(count * levels))
    if enlarging != ends or any(found != every for found in entries.values()):
      raise ValueError(
        'levels that are resampled without a layer (conv_resample = False):'
        ' diffusers has none'
      )
    return cls(
      levels=levels,
      blocks=count - 1,
      attending=frozenset(entry // count for entry in attending),
      depth=_depth(keys),
    )

  @classmethod
  def of_diffusers(cls, keys: Iterable[str]) -> 'Plan':
    """Reads the library's keys; ValueError if levels differ in their blocks."""
    keys = list(keys)
    blocks: dict[str, dict[int, int]] = {'down': {}, 'up': {}}
    attending = set()
    for way, level, kind, number in _matches(_THEIR_BLOCK, keys):
      if kind == 'resnets':
        before = blocks[way].get(int(level), 0)
        blocks[way][int(level)] = max(before, int(number) + 1)
      elif kind == 'attentions' and way == 'up':
        attending.add(int(level))
    down = [count for _, count in sorted(blocks['down'].items())]
    up = [count for _, count in sorted(blocks['up'].items())]
    if len(set(down)) != 1 or up != [count + 1 for count in down]:
      raise ValueError(
        f'levels of {down} residual blocks down and {up} up: those of LDM have'
        ' one number down and one more up'
      )
    return cls(
      levels=len(down),
      blocks=down[0],
      attending=frozenset(attending),
      depth=_depth(keys),
    )

  def modules(self) -> dict[str, str]:
    """Returns the official name of every possible module -> the library's."""
    modules = dict(_ENDS)
    down, up = 1, 0  # the next entries
    for level in range(self.levels):
      is_last = level + 1 == self.levels
      name = f'down_blocks.{level}'
      for j in range(self.blocks):
        modules[f'input_blocks.{down}.0'] = f'{name}.resnets.{j}'
        modules[f'input_blocks.{down}.1'] = f'{name}.attentions.{j}'
        down += 1
      if not is_last:
        modules[f'input_blocks.{down}.0'] = f'{name}.downsamplers.0'
        down += 1
      name, attends = f'up_blocks.{level}', level in self.attending
      for j in range(self.blocks + 1):
        modules[f'output_blocks.{up}.0'] = f'{name}.resnets.{j}'
        if attends:
          modules[f'output_blocks.{up}.1'] = f'{name}.attentions.{j}'
        up += 1
      if not is_last:
        place = f'output_blocks.{up - 1}.{1 + attends}'
        modules[place] = f'{name}.upsamplers.0'
    return modules

  def keys(self) -> dict[str, str]:
    """Returns every possible official key -> the library's.

    That of a self-attention's qkv is not among them, but its three parts.
    """
    keys = {}
    for ours, theirs in self.modules().items():
      for our_name, their_name in self._inside(theirs):
        keys[f'{ours}{our_name}.weight'] = f'{theirs}{their_name}.weight'
        # queries, keys and values of a transformer have no bias
        if not (self.depth and our_name.endswith(QKV)):
          keys[f'{ours}{our_name}.bias'] = f'{theirs}{their_name}.bias'
    return keys

  def _inside(self, module: str) -> Iterable[tuple[str, str]]:
    """Returns (official, diffusers) of layers in a module of the library."""
    if '.resnets.' in module:
      return _BLOCK
    if '.downsamplers.' in module:
      return (*_BLOCK, ('.op', '.conv'))
    if '.upsamplers.' in module:
      return (*_BLOCK, ('.conv', '.conv'))
    if '.attentions.' not in module:
      return (('', ''),)
    if not self.depth:
      return _ATTENTION
    blocks = (
      f'.transformer_blocks.{i}{name}'
      for i in range(self.depth)
      for name in _TRANSFORMER_BLOCK
    )
    return ((name, name) for name in (*_TRANSFORMER, *blocks))


def _matches(
  pattern: re.Pattern[str], keys: Iterable[str]
) -> Iterable[tuple[str, ...]]:
  """Returns the groups of every key that begins so."""
  found = (pattern.match(key) for key in keys)
  return (match.groups() for match in found if match)


def _depth(keys: Iterable[str]) -> int:
  """Returns the number of blocks of the deepest transformer."""
  found = (_DEPTH.search(key) for key in keys)
  return max((int(match[1]) + 1 for match in found if match), default=0)
