"""The interface of the encoders of conditions, and what they share."""

from collections.abc import Collection
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
FirstStage = first_stages.Network | None
Inputs = condition.Inputs

# The name of an encoder's weights among those of a run: the trained ones in the
# tree of the generator, the pretrained ones among the pretrained parts.
PART = 'condition'


@dataclasses.dataclass(frozen=True)
class Widths:
  """What a denoiser must be made for, 0 where there is nothing of a kind.

  Attributes:
    context: width of the tokens.
    concat: channels that are concatenated with the state's.
    classes: rows of the denoiser's own table of classes.
  """

  context: int = 0
  concat: int = 0
  classes: int = 0


class Encoder(Protocol):
  """Turns a batch into a condition, and has the null condition.

  The defaults are those of an encoder without weights, or whose weights are
  trained with the system, and whose null condition is zeros.
  """

  @property
  def widths(self) -> Widths:
    """What the encoder gives to a denoiser."""

  @property
  def example(self) -> Batch:
    """A batch of one example, zeros or ones, with all keys that are read."""

  def encode(self, params: Any, batch: Batch) -> Inputs:
    """Returns the condition of a batch with the keys of `example`.

    The weights `params` are those of `weights`.
    """

  def init(self, key: jax.Array) -> Any:
    """Returns the weights, an empty tree where there are none."""
    del key
    return {}

  def null(self, params: Any, batch: Batch) -> Inputs | None:
    """Returns the null condition of a batch, None where there is none."""
    return jax.tree.map(jnp.zeros_like, self.encode(params, batch))

  def augmented(self, batch: Batch, key: jax.Array) -> Batch:
    """Returns a batch as it is encoded in training, by a typed key."""
    del key
    return batch

  @property
  def is_guidable(self) -> bool:
    """Whether there is a null condition, as guidance and dropout need it."""
    return True

  def lacking(self, names: Collection[str]) -> list[str]:
    """Returns those keys that a batch needs and that are not among `names`."""
    return [name for name in self.example if name not in names]

  @property
  def pretrained(self) -> pretrained_lib.PretrainedPart | None:
    """The pretrained weights, None without."""
    return None

  @property
  def is_released(self) -> bool:
    """Whether the checkpoints of releases hold pretrained weights."""
    return True

  @property
  def pretrained_name(self) -> str:
    """The pretrained part of the system with its weights, '' if trained."""
    return '' if self.pretrained is None else PART

  @property
  def pretrained_text(self) -> 'Encoder | None':
    """The pretrained encoder of texts that is or is in this one, or None."""
    return None

  def with_text(self, other: 'Encoder') -> 'Encoder':
    """Returns this encoder with another in place of `pretrained_text`."""
    del other
    raise ValueError('there is no pretrained encoder of texts.')

  @property
  def family(self) -> str:
    """Key of `interop.parts.FAMILIES` of trained weights, '' for none."""
    return ''

  @property
  def unpublished(self) -> str:
    """Which setting no published checkpoint has, '' if one may have all."""
    return ''

  def trained_part(self, params: Any) -> Any:
    """Returns the trained part of weights from `init`, perhaps empty."""
    return {} if self.pretrained_name else params

  def weights(self, generator: Mapping[str, Any], frozen: Any) -> Any:
    """Returns the encoder's own weights among those of a run.

    Args:
      generator: the trained tree, with `trained_part` under `PART`.
      frozen: {part: tree}, the pretrained parts.
    """
    name = self.pretrained_name
    return frozen[name] if name else generator.get(PART, {})


@dataclasses.dataclass(frozen=True)
class NoCondition(Encoder):
  """The encoder of a system without a condition."""

  widths = Widths()
  is_guidable = False

  @property
  def example(self) -> Batch:
    return {}

  def encode(self, params: Any, batch: Batch) -> Inputs:
    del params, batch
    return Inputs()

  def null(self, params: Any, batch: Batch) -> Inputs | None:
    del params, batch
    return None


def needed(config: ConfigDict, first_stage: FirstStage) -> first_stages.Network:
  """Returns the first stage, and raises ValueError where there is none."""
  if first_stage is None:
    raise ValueError(
      f'config.condition.task {config.condition.task!r} is not served by the'
      f' system {config.system.name!r}'
    )
  return first_stage
