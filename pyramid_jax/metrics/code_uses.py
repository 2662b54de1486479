"""How much of the codebooks of a first stage is used."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import states
from pyramid_jax.networks.layers import quantizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeUses:
  """How often each code was used, as a `states.State`."""

  counts: tuple[np.ndarray, ...]  # (K,) int64 of each codebook, coarse to fine

  @classmethod
  def of_sizes(cls, sizes: Sequence[int]) -> 'CodeUses':
    """Returns the state of no images, given the sizes of the codebooks."""
    return cls(counts=tuple(np.zeros(size, np.int64) for size in sizes))

  def update(self, batch: states.Batch) -> 'CodeUses':
    pairs = zip(self.counts, batch.codes, strict=True)
    count = lambda x, size: np.bincount(x.ravel(), minlength=size)
    return CodeUses(counts=tuple(n + count(x, len(n)) for n, x in pairs))

  def merge(self, other: 'CodeUses') -> 'CodeUses':
    pairs = zip(self.counts, other.counts, strict=True)
    return CodeUses(counts=tuple(a + b for a, b in pairs))

  def finish(self) -> list[bootstrap.Row]:
    """Returns perplexity and unused codes of each codebook."""
    rows = []
    for scale, counts in enumerate(self.counts):
      uses: Any = counts
      values = {
        'perplexity': float(quantizer.perplexity(uses)),
        'dead_codes': float(quantizer.dead_codes(uses)),
      }
      for name, v in values.items():
        exact = bootstrap.Score(v, v, v, int(counts.sum()))
        rows.append(bootstrap.Row(f'{name}_{scale}', exact))
    return rows

  @property
  def kept(self) -> dict[str, states.Kept]:
    return {}

  @property
  def totals(self) -> dict[str, np.ndarray]:
    return {str(scale): counts for scale, counts in enumerate(self.counts)}

  def restored(
    self, kept: Mapping[str, states.Kept], totals: states.Columns
  ) -> 'CodeUses':
    del kept
    return CodeUses(counts=tuple(totals[name] for name in self.totals))
