"""How codebooks are kept in use while a first stage is trained.

A code that no latent is near gets no gradient and stays unused. So codes whose
running share of the uses falls too low start again at latents of the batch
(arXiv:2005.00341, section 3.1, 'random restarts'), all of them in the first
step, which thereby takes the place of an initialisation by the data. And a
codebook may be the running means of the latents of each code (arXiv:1711.00937,
appendix A.1) instead of being moved by a gradient.
"""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.networks.layers import quantizer


USES_DECAY = 0.99  # of running shares, where entries are no running means
_TINY = 1e-12
State = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upkeep:
  """What is done to codebooks after each update; nothing by default."""

  # A code starts again below this part of an equal share of the uses; 0: never.
  restart_below: float = 0.0
  decay: float = 0.0  # of running means as entries; 0: the gradient moves them

  def __post_init__(self):
    if self.decay and not self.restart_below:
      raise ValueError(
        f'loss.codebook_decay is {self.decay:g}, must be 0 with'
        ' loss.restart_below=0: running means begin at latents of a batch.'
      )

  def __bool__(self) -> bool:
    return bool(self.restart_below)

  def initial(self, codes: int, channels: int) -> dict[str, jax.Array]:
    """Returns the state of a codebook that nothing has used.

    It has `uses` (K,), running shares; `latents` (K, C), of the last batch, one
    for each code to start again at; and `sums` (K, C) of running means.
    """
    table = jnp.zeros((codes, channels))
    state = {'uses': jnp.zeros(codes), 'latents': table}
    return state | ({'sums': table} if self.decay else {})

  def observed(
    self, state: State, codes: jax.Array, latents: jax.Array, key: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns the state after a batch.

    Args:
      state: that of `initial`.
      codes: (...) int32 in [0, K).
      latents: (..., C), what got these codes.
      key: that of the choice of latents.
    """
    codes = codes.reshape(-1)
    rows = jax.lax.stop_gradient(latents).reshape(len(codes), -1)
    rows = rows.astype(jnp.float32)
    size = len(state['uses'])
    decay = self.decay or USES_DECAY
    mean = lambda old, new: decay * old + (1 - decay) * new / len(codes)
    counts = quantizer.code_counts(codes, size).astype(jnp.float32)
    chosen = jax.random.randint(key, (size,), 0, len(codes))
    new = {'uses': mean(state['uses'], counts), 'latents': rows[chosen]}
    if 'sums' in state:
      sums = jnp.zeros_like(state['sums']).at[codes].add(rows)
      new['sums'] = mean(state['sums'], sums)
    return new

  def settled(
    self, embedding: jax.Array, state: State
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the entries (K, C) with which the next batch is quantised.

    Args:
      embedding: (K, C), the entries after the update by the gradient.
      state: that of `observed`.
    """
    uses, latents = state['uses'], state['latents']
    equal = 1 / len(uses)
    dead = uses < self.restart_below * equal
    new = {'uses': jnp.where(dead, equal, uses), 'latents': latents}
    if 'sums' in state:
      sums = jnp.where(dead[:, None], equal * latents, state['sums'])
      new['sums'] = sums
      embedding = sums / jnp.maximum(new['uses'], _TINY)[:, None]
    return jnp.where(dead[:, None], latents, embedding), new
