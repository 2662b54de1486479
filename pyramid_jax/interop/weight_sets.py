"""Which weights of a file are meant: what their keys begin with, and averages.

Training frameworks put names before all keys (`module.`, `_orig_mod.`), and a
file may hold several sets of weights of one network, such as those of the last
step and their averages. Averages are taken unless others are asked for: they
are what one samples with.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import re

import numpy as np

from pyramid_jax.interop import mapping


State = Mapping[str, np.ndarray]

# What --weights may be beside the name of a set.
AVERAGED, RAW = 'ema', 'raw'
# The averages of CompVis/latent-diffusion: ldm/modules/ema.py, LitEma, which
# stand under the names of the parameters without their dots.
FLAT = 'model_ema.'
_AVERAGED = re.compile(r'(^|[._])(ema|averaged|shadow|swa)($|[._\d])')
# A set with this share of the largest one's parameters is an alternative.
_SHARE = 0.9
# Modules that torch.compile and FSDP put around others, at any depth.
_WRAPPER = re.compile(
  r'(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
_FEW = 4  # parameters, whose names occur in other networks, too
_DEPTH = 4  # names before a key that are looked at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """A set of weights in a state dict.

  Attributes:
    prefix: what its keys begin with, in `state`.
    start: what they begin with in the file.
    state: the state dict, perhaps under other names.
    count: the number of parameters that it has.
    own: a key of `state` -> the key of the file.
    root: what all keys of `state` begin with in the file.
    is_declared: whether the prefix is one that releases have.
  """

  prefix: str
  start: str
  state: State
  count: int
  own: Callable[[str], str] = lambda key: key
  root: str = ''
  is_declared: bool = False
  is_flat: bool = False  # whether it is under `FLAT`

  @property
  def name(self) -> str:
    """What --weights calls it."""
    return self.start.removesuffix('.') or RAW

  @property
  def is_averaged(self) -> bool:
    """Whether its name says that it holds averages."""
    return _AVERAGED.search(self.name) is not None

  def answers(self, weights: str) -> bool:
    """Whether --weights means this set."""
    if weights in (AVERAGED, RAW):
      return self.is_averaged == (weights == AVERAGED)
    return self.name == weights or self.name.startswith(f'{weights}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """The set that is taken, and the alternatives."""

  taken: Found
  others: Sequence[Found]

  def notes(self) -> list[str]:
    """Returns what a user should know about the choice."""
    lines = []
    start = self.taken.start
    if self.others:
      names = ', '.join(found.name for found in self.others)
      lines.append(
        f'weights: {self.taken.name} (--weights takes others: {names})'
      )
    elif start and not self.taken.is_declared:
      lines.append(f'keys: those behind {start!r}')
    return lines

  def is_other(self, key: str) -> bool:
    """Whether a key of the file belongs to a set that is not taken."""
    start = self.taken.start
    return any(
      key.startswith(found.start)
      and not (len(start) > len(found.start) and key.startswith(start))
      for found in self.others
    )


def unwrapped(state: State) -> tuple[State, Mapping[str, str]]:
  """Returns a state dict without the wrappers within its keys.

  Wrappers before all keys are prefixes like others, and stay.

  Returns:
    The state dict, and its keys -> those of the file.
  """
  if not any(
    found.start() for key in state for found in _WRAPPER.finditer(key)
  ):
    return state, {}
  names = {_WRAPPER.sub('', key): key for key in state}
  if len(names) < len(state):
    return state, {}
  return mapping.Renamed(state, names), names


def stripped(state: State, root: str) -> State:
  """Returns what lies behind a prefix, without it."""
  if not root:
    return state
  names = {key[len(root) :]: key for key in state if key.startswith(root)}
  return mapping.Renamed(state, names)


def find(
  state: State, keys: Sequence[str], declared: Iterable[str] = ('',)
) -> list[Found]:
  """Returns the sets of weights that have at least one of the keys.

  Args:
    state: official key -> array.
    keys: official keys of all parameters, without prefix.
    declared: prefixes that releases have, which come first.
  """
  declared = tuple(declared)
  anchors = {keys[0], keys[len(keys) // 2], keys[-1], max(keys, key=len)}
  starts = dict.fromkeys(declared)
  for key in state:
    for anchor in anchors:
      start = key[: -len(anchor)]
      if key.endswith(anchor) and (not start or start.endswith('.')):
        starts.setdefault(start)
  has_flat = any(FLAT in key for key in state)
  found = []
  for start in starts:
    count = sum(start + key in state for key in keys)
    if count and _is_sure(start, keys, declared, state):
      found.append(
        Found(
          prefix=start,
          start=start,
          state=state,
          count=count,
          is_declared=start in declared,
        )
      )
    if has_flat:
      found += _flat_averages(state, keys, start)
  return found


def _is_sure(
  start: str, keys: Sequence[str], declared: Sequence[str], state: State
) -> bool:
  """Whether a prefix can be that of this network, if it has few parameters."""
  return (
    len(keys) >= _FEW
    or start in declared
    or any(known and start.endswith(known) for known in declared)
    or all(key.startswith(start) for key in state)
  )


def _flat_averages(
  state: State, keys: Sequence[str], start: str
) -> list[Found]:
  """Returns the averages of the parameters behind a prefix, under `FLAT`."""
  # They belong to one of the modules that the prefix names, and stand beside
  # it, or inside of it.
  for end in [0, *(i + 1 for i, c in enumerate(start) if c == '.')]:
    outer, inner = start[:end], start[end:]
    for root in (outer, outer[: outer[:-1].rfind('.') + 1]):
      names = {
        start + key: f'{root}{FLAT}{(inner + key).replace(".", "")}'
        for key in keys
      }
      names = {key: flat for key, flat in names.items() if flat in state}
      if names:
        averages = Found(
          prefix=start,
          start=root + FLAT,
          state=mapping.Renamed(state, names),
          count=len(names),
          own=functools.partial(_own, names),
          root=root + FLAT,
          is_flat=True,
        )
        return [averages]
  return []


def _own(names: Mapping[str, str], key: str) -> str:
  return names.get(key, key)


def roots(state: State, least: int) -> list[str]:
  """Returns '' and every prefix that at least so many keys have."""
  counts: dict[str, int] = {}
  for key in state:
    parts = key.split('.')[:-1][:_DEPTH]
    for depth in range(len(parts)):
      root = '.'.join(parts[: depth + 1]) + '.'
      counts[root] = counts.get(root, 0) + 1
  return ['', *(root for root, n in counts.items() if n >= max(least, 1))]


def behind(root: str, found: Iterable[Found]) -> list[Found]:
  """Returns sets of `stripped(state, root)` as sets of the whole file."""

  def moved(one: Found) -> Found:
    return dataclasses.replace(
      one,
      start=root + one.start,
      own=lambda key: root + one.own(key),
      root=root + one.root,
      is_declared=one.is_declared and not root,
    )

  return list(map(moved, found))


def _unique(found: Iterable[Found]) -> list[Found]:
  """Returns the largest set at each place: layouts share some keys."""
  unique: dict[str, Found] = {}
  for one in found:
    if one.start not in unique or one.count > unique[one.start].count:
      unique[one.start] = one
  return list(unique.values())


def rivals(found: Iterable[Found]) -> list[Found]:
  """Returns the sets that are about as large as the largest one."""
  sets = _unique(found)
  most = max((one.count for one in sets), default=0)
  return [one for one in sets if one.count >= _SHARE * most]


def choose(found: Sequence[Found], weights: str = '') -> Choice | None:
  """Returns the set to take, None without any.

  Args:
    found: the sets that fit; of those at one place the largest one counts.
    weights: `AVERAGED`, `RAW` or a name; empty for averages, if there are any.

  Raises:
    ValueError: no such set, or several that fit equally well.
  """
  sets, large = _unique(found), rivals(found)
  if not sets:
    return None
  names = ', '.join(one.name for one in large)
  if weights:
    wanted = [one for one in sets if one.name == weights]
    wanted = wanted or [one for one in sets if one.answers(weights)]
    if not wanted:
      raise ValueError(f'no weights {weights!r}; those that fit are {names}')
  else:
    wanted = [one for one in large if one.is_averaged] or large
  taken = _first(wanted)
  if taken is None:
    raise ValueError(
      f'several weights fit: {names}; choose one by --weights=NAME'
    )
  return Choice(taken=taken, others=[one for one in large if one is not taken])


def _first(sets: Sequence[Found]) -> Found | None:
  """Returns the largest set; among equals one that releases have, or none."""
  most = max(one.count for one in sets)
  largest = [one for one in sets if one.count == most]
  declared = [one for one in largest if one.is_declared]
  if declared:
    return declared[0]
  return largest[0] if len(largest) == 1 else None
