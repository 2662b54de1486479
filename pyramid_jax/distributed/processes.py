"""The index of this process and their number; no other module reads them."""

import jax


def process_part() -> tuple[int, int]:
  """Returns the index of this process and how many there are."""
  return jax.process_index(), jax.process_count()


def is_main_process() -> bool:
  """Whether this process writes the files that are written once."""
  return jax.process_index() == 0
