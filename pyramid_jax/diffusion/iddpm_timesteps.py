"""Which levels of a long chain a short sampling chain keeps (ADM's rule)."""

from collections.abc import Sequence

import numpy as np


def space_timesteps(length: int, sections: str | Sequence[int]) -> np.ndarray:
  """Returns the kept levels, ascending indices into a chain.

  Matches openai/guided-diffusion: guided_diffusion/respace.py. The chain is
  cut into as many equal parts as there are sections, the first ones longer by
  one where it does not divide, and in each part that many levels are kept,
  evenly spread from its first to its last.

  Args:
    length: T, levels of the chain.
    sections: counts, as numbers or as a text with commas; 'ddimN' keeps N
      levels at the smallest whole stride that gives N; '' keeps all.

  Raises:
    ValueError: not a count, or one that the rule cannot serve.
  """
  if isinstance(sections, str):
    if sections.startswith('ddim'):
      return _strided(length, _counts([sections.removeprefix('ddim')])[0])
    counts = _counts(sections.split(',') if sections else [length])
  else:
    counts = _counts(sections)
  kept: list[int] = []
  start = 0
  for index, count in enumerate(counts):
    size = length // len(counts) + (index < length % len(counts))
    if count > size:
      raise ValueError(
        f'respacing {_text(counts)!r}: a section of {size} levels cannot keep'
        f' {count}; allowed are 1..{size}'
      )
    kept += [start + step for step in _spread(size, count)]
    start += size
  return np.array(kept)


def _counts(sections: Sequence[int | str]) -> list[int]:
  """Returns the counts as numbers."""
  counts = []
  for section in sections:
    try:
      counts.append(int(section))
    except ValueError:
      counts.append(0)
    if counts[-1] < 1:
      raise ValueError(
        f'respacing {_text(sections)!r}: {section!r} is no number of steps;'
        " allowed are counts such as '250' or '90,60,60', or 'ddim50'"
      )
  return counts


def _text(sections: Sequence[int | str]) -> str:
  return ','.join(str(section) for section in sections)


def _strided(length: int, count: int) -> np.ndarray:
  """Returns `count` levels at a whole stride from level 0."""
  for stride in range(1, length):
    if len(range(0, length, stride)) == count:
      return np.arange(0, length, stride)
  counts = sorted({len(range(0, length, s)) for s in range(1, length)})
  around = [n for n in counts if n < count][-1:]
  around += [n for n in counts if n > count][:1]
  raise ValueError(
    f"respacing 'ddim{count}': no whole stride through {length} levels gives"
    f' {count} steps; the nearest that do: {_text(around)}'
  )


def _spread(size: int, count: int) -> list[int]:
  """Returns `count` of 0..size - 1; a running sum, rounded half to even."""
  stride = (size - 1) / (count - 1) if count > 1 else 1.0
  place, steps = 0.0, []
  for _ in range(count):
    steps.append(round(place))
    place += stride
  return steps
