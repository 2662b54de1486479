"""The quantisers that a first stage may have, by name."""

from typing import Any

from pyramid_jax.networks.layers import grid_quantizer
from pyramid_jax.networks.layers import quantizer


Quantizer = quantizer.VectorQuantizer | grid_quantizer.GridQuantizer
CODEBOOKS = ('table', 'linear', 'grid')


def create(
  codebook: str, num_codes: int, features: int, **options: Any
) -> Quantizer:
  """Builds an unnamed quantiser.

  Args:
    codebook: one of `CODEBOOKS`. `table` is that of the published models;
      `linear` maps a fixed table by trained weights; `grid` has no table.
    num_codes: the number of codes.
    features: the channels of a vector.
    **options: further fields of `quantizer.VectorQuantizer`; a grid has none of
      them, and refuses another `gradient` and an entropy term.

  Raises:
    ValueError: another name, or options or sizes that a grid lacks.
  """
  if codebook not in CODEBOOKS:
    raise ValueError(
      f'codebook is {codebook!r}, allowed: {", ".join(CODEBOOKS)}.'
    )
  if codebook != 'grid':
    return quantizer.VectorQuantizer(
      num_codes, features, linear=codebook == 'linear', **options
    )
  grid_quantizer.levels_of(num_codes, features)
  plain = {'gradient': 'straight', 'entropy_weight': 0.0}
  for name, value in plain.items():
    if options.get(name, value) != value:
      raise ValueError(
        f'{name} is {options[name]!r}, must be {value!r} with a grid of codes.'
      )
  return grid_quantizer.GridQuantizer(num_codes, features)
