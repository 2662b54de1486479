"""Features: the activations of a network, by name."""

from collections.abc import Mapping
from collections.abc import Sequence

import jax


def with_features(
  out: jax.Array, found: Mapping[str, jax.Array], names: Sequence[str]
) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
  """Returns `out`, or `(out, {name: feature})` in the order of `names`.

  Raises:
    ValueError: a name that the network does not have among the `found`.
  """
  for name in names:
    if name not in found:
      raise ValueError(
        f'feature {name!r} is not one of the network: {", ".join(found)}'
      )
  return (out, {name: found[name] for name in names}) if names else out
