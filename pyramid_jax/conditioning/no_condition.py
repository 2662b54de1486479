"""The encoder of a system without a condition."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import first_stages


Batch = encoder.Batch
Inputs = encoder.Inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoCondition(encoder.Encoder):
  """Gives nothing, has no weights and no null condition."""

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths()

  @property
  def example(self) -> Batch:
    return {}

  @property
  def is_guidable(self) -> bool:
    return False

  def init(self, key: jax.Array) -> Any:
    del key
    return {}

  def encode(self, params: Any, batch: Batch) -> Inputs:
    del params, batch
    return Inputs()

  def null(self, params: Any, batch: Batch) -> Inputs | None:
    del params, batch
    return None


def create(
  config: ConfigDict, first_stage: first_stages.Network | None
) -> NoCondition:
  """Builds the encoder of the task 'none'."""
  del config, first_stage
  return NoCondition()
