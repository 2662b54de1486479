"""The order of the blocks of a U-Net."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
  """One entry of the trunk: a residual block, or what only halves the map."""

  channels: int  # of its result
  attends: bool  # whether attention follows its residual block
  # 'down' for an entry that only halves the map, 'up' for one that ends in
  # doubling it, None for neither.
  resample: str | None


def layout(
  model_channels: int,
  channel_mult: Sequence[int],
  num_res_blocks: int,
  attention_resolutions: Sequence[int],
) -> tuple[list[Entry], list[Entry]]:
  """Lists the entries on the way down and on the way up.

  Every level has `num_res_blocks` entries going down and one more going up;
  each of the latter takes one skip, the stem's included. Between them lies a
  middle block as wide as the last level, which always attends. The arguments
  are the fields of `unet_trunk.Trunk`.
  """
  down: list[Entry] = []
  up: list[Entry] = []
  for level, mult in enumerate(channel_mult):
    entry = Entry(
      mult * model_channels, 2**level in attention_resolutions, None
    )
    down += [entry] * num_res_blocks
    if level + 1 < len(channel_mult):
      down.append(Entry(entry.channels, False, 'down'))
    last = dataclasses.replace(entry, resample='up' if level else None)
    up = [entry] * num_res_blocks + [last] + up
  return down, up
