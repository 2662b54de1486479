"""The index of this process and their number; no other module reads them."""

from typing import Any

import jax
import numpy as np


def process_part() -> tuple[int, int]:
  """Returns the index of this process and how many there are."""
  return jax.process_index(), jax.process_count()


def is_main_process() -> bool:
  """Whether this process writes the files that are written once."""
  return jax.process_index() == 0


def gathered(array: Any) -> np.ndarray:
  """Returns an array on the host; where it is split, all processes call it."""
  is_split = isinstance(array, jax.Array) and not array.is_fully_addressable
  if not is_split or array.is_fully_replicated:
    return np.asarray(array)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(array, tiled=True))
