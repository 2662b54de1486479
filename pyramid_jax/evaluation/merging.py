"""What the processes of an evaluation have of its images, brought together."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from pyramid_jax.distributed import messages
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import shares
from pyramid_jax.metrics import states as states_lib


Numbers = TypeVar('Numbers', bound=states_lib.Numbers)


def merged(
  found: Mapping[str, Numbers], start: Mapping[str, Numbers]
) -> Mapping[str, Numbers]:
  """Returns the states of the images of all processes, to process 0.

  The others get `start`, the states of no images, and go on from there: each
  image is in the states of one process. All processes call it.
  """
  if not processes.is_one_of_many():
    return found
  is_main = processes.is_main_process()
  # What process 0 has stays there.
  for part in shares.to_main(b'' if is_main else _packed(found)):
    other = _unpacked(part, start)
    found = {name: state.merge(other[name]) for name, state in found.items()}
  return found if is_main else start


def merged_for_all(
  found: Mapping[str, Numbers], start: Mapping[str, Numbers]
) -> Mapping[str, Numbers]:
  """Returns the states of the images of all processes to each of them."""
  if not processes.is_one_of_many():
    return found
  found = merged(found, start)
  is_main = processes.is_main_process()
  whole = shares.to_all(_packed(found) if is_main else b'')
  return found if is_main else _unpacked(whole, start)


def columns_of(
  states: Mapping[str, states_lib.Numbers],
  saved: Mapping[tuple[str, str], int] | None = None,
) -> dict[str, np.ndarray]:
  """Returns the numbers of single images, `STATE/KIND/COLUMN` each.

  The first parts of a state and kind, as many as are `saved`, are left out.
  """
  columns: dict[str, np.ndarray] = {}
  for name, state in states.items():
    for kind, kept in state.kept.items():
      new = kept.parts[(saved or {}).get((name, kind), 0) :]
      joined = states_lib.join(new)
      columns |= states_lib.named(f'{name}/{kind}/', joined)
  return columns


def totals_of(
  states: Mapping[str, states_lib.Numbers],
) -> dict[str, np.ndarray]:
  """Returns the rest of the states, `STATE/NAME` each."""
  totals: dict[str, np.ndarray] = {}
  for name, state in states.items():
    totals |= states_lib.named(f'{name}/', state.totals)
  return totals


def restored(
  start: Mapping[str, Numbers],
  columns: list[Mapping[str, np.ndarray]],
  totals: Mapping[str, np.ndarray],
) -> Mapping[str, Numbers]:
  """Returns states that have the numbers of `columns_of` and `totals_of`."""
  kept: dict[tuple[str, str], list[states_lib.Columns]] = {}
  for rows in columns:
    for place, group in _grouped(rows).items():
      kept.setdefault(place, []).append(group)
  return {
    name: state.restored(
      {
        kind: states_lib.Kept(tuple(kept.get((name, kind), ())))
        for kind in state.kept
      },
      states_lib.part(f'{name}/', totals),
    )
    for name, state in start.items()
  }


def _grouped(
  rows: states_lib.Columns,
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
  """Returns the columns of each state and kind, of their whole names."""
  groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for path, x in rows.items():
    state, kind, column = path.split('/', 2)
    groups.setdefault((state, kind), {})[column] = x
  return groups


def _packed(states: Mapping[str, states_lib.Numbers]) -> bytes:
  columns = states_lib.named('columns/', columns_of(states))
  arrays = columns | states_lib.named('totals/', totals_of(states))
  header = {name: (x.dtype.str, x.shape) for name, x in arrays.items()}
  numbers = (x.tobytes() for x in arrays.values())
  return b'\n'.join((messages.packed(header).encode(), b''.join(numbers)))


def _unpacked(
  data: bytes, start: Mapping[str, Numbers]
) -> Mapping[str, Numbers]:
  header, _, numbers = data.partition(b'\n')
  arrays: dict[str, np.ndarray] = {}
  place = 0
  for name, (dtype, shape) in messages.unpacked(header).items():
    x = np.ndarray(shape, dtype, numbers, place)
    arrays[name], place = x, place + x.nbytes
  columns = states_lib.part('columns/', arrays)
  return restored(start, [columns], states_lib.part('totals/', arrays))
