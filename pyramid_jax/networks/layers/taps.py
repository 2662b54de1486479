"""Activations of a network by name, for who reads or steers it."""

from collections.abc import Mapping
from collections.abc import Sequence

import jax


def pick(
  found: Mapping[str, jax.Array], names: Sequence[str]
) -> dict[str, jax.Array]:
  """Returns the activations of these names, in this order.

  Args:
    found: all that a network has.
    names: which of them are wanted.

  Raises:
    ValueError: a name that the network does not have.
  """
  for name in names:
    if name not in found:
      raise ValueError(
        f'tap {name!r} is not one of the network: {", ".join(found)}'
      )
  return {name: found[name] for name in names}
