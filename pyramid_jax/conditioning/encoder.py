"""What an encoder of a condition is to a system."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import pretrained as pretrained_lib


Batch = Mapping[str, jax.Array]
Inputs = condition.Inputs

# The name of an encoder's weights among those of a run: the trained ones in the
# tree of the generator, the pretrained ones in that of the frozen parts.
PART = 'condition'


@dataclasses.dataclass(frozen=True)
class Widths:
  """What a denoiser must be made for, 0 where there is nothing of a kind.

  Attributes:
    context: width of the tokens.
    concat: channels beside the state's.
    classes: rows of the denoiser's own table of classes.
  """

  context: int = 0
  concat: int = 0
  classes: int = 0


class Encoder(Protocol):
  """Turns a batch into a condition, and knows the null condition.

  Where a method is given here, it is that of an encoder whose weights, if
  there are any, are trained with the system.
  """

  @property
  def widths(self) -> Widths:
    """What the encoder gives to a denoiser."""

  @property
  def example(self) -> Batch:
    """The least that can be encoded: one example of zeros or ones."""

  def init(self, key: jax.Array) -> Any:
    """Returns the weights, an empty tree where there are none."""

  def encode(self, params: Any, batch: Batch) -> Inputs:
    """Returns the condition of a batch.

    Args:
      params: from `weights`.
      batch: with the keys of `example`, B examples.
    """

  def null(self, params: Any, batch: Batch) -> Inputs | None:
    """Returns the null condition of B examples, None where there is none.

    Args:
      params: from `weights`.
      batch: with the keys of `example`, B examples.
    """

  def perturbed(self, batch: Batch, key: jax.Array) -> Batch:
    """Returns a batch as it is encoded in training.

    Args:
      batch: B examples.
      key: typed key of what is drawn.
    """
    del key
    return batch

  @property
  def is_guidable(self) -> bool:
    """Whether there is a null condition, as guidance and dropout need it."""
    return True

  @property
  def pretrained(self) -> pretrained_lib.PretrainedPart | None:
    """The weights that are loaded and never trained, None without."""
    return None

  @property
  def borrowed(self) -> str:
    """The frozen part of the system whose weights are used, '' for none."""
    return ''

  @property
  def family(self) -> str:
    """Converter family of the trained weights, '' for none.

    A key of `interop.parts.FAMILIES`.
    """
    return ''

  @property
  def unpublished(self) -> str:
    """Which setting no published checkpoint has, '' if one may have all."""
    return ''

  def trained_part(self, params: Any) -> Any:
    """Returns what of the weights is trained, an empty tree for nothing.

    Args:
      params: from `init`.
    """
    return params

  def weights(self, generator: Mapping[str, Any], frozen: Any) -> Any:
    """Returns the encoder's own weights among those of a run.

    Args:
      generator: the trained tree, with `trained_part` under `PART`.
      frozen: {part: tree}, the weights that are never trained.
    """
    del frozen
    return generator.get(PART, {})


def zeros(inputs: Inputs) -> Inputs:
  """Returns zeros in place of all that is given."""
  return jax.tree.map(jnp.zeros_like, inputs)


def needed(
  config: ConfigDict, first_stage: first_stages.Network | None
) -> first_stages.Network:
  """Returns the first stage that a condition cannot do without.

  Raises:
    ValueError: there is none.
  """
  if first_stage is None:
    raise ValueError(
      f'config.condition.task {config.condition.task!r} is not served by the'
      f' system {config.system.name!r}'
    )
  return first_stage
