"""Two conditions at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import pretrained as pretrained_lib
from pyramid_jax.networks.layers import transformer


Context = transformer.Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class CombinedEncoder(encoder.Encoder):
  """Two conditions at once, such as an image's channels and a class.

  If both are tokens, which must be equally wide, the second's follow the
  first's. The weights are {'first': tree, 'second': tree}.

  Attributes:
    first: the encoder of `condition.task`.
    second: the encoder of `condition.also`.
  """

  first: encoder.Encoder
  second: encoder.Encoder

  unpublished = 'config.condition.also is set'

  @property
  def parts(self) -> dict[str, encoder.Encoder]:
    """Both, by the names of their weights."""
    return {'first': self.first, 'second': self.second}

  @property
  def widths(self) -> encoder.Widths:
    first, second = self.first.widths, self.second.widths
    return encoder.Widths(
      context=first.context or second.context,
      concat=first.concat + second.concat,
      classes=first.classes + second.classes,
    )

  @property
  def example(self) -> encoder.Batch:
    return {**self.first.example, **self.second.example}

  @property
  def is_guidable(self) -> bool:
    return self.first.is_guidable and self.second.is_guidable

  @property
  def pretrained(self) -> pretrained_lib.PretrainedPart | None:
    return self.first.pretrained or self.second.pretrained

  @property
  def pretrained_name(self) -> str:
    return self.first.pretrained_name or self.second.pretrained_name

  @property
  def pretrained_text(self) -> encoder.Encoder | None:
    return self.first.pretrained_text or self.second.pretrained_text

  def with_text(self, other: encoder.Encoder) -> encoder.Encoder:
    name = 'first' if self.first.pretrained_text else 'second'
    changed = self.parts[name].with_text(other)
    return dataclasses.replace(self, **{name: changed})

  def init(self, key: jax.Array) -> Any:
    first, second = jax.random.split(key)
    return {'first': self.first.init(first), 'second': self.second.init(second)}

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    first = self.first.encode(params['first'], batch)
    return _joined(first, self.second.encode(params['second'], batch))

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs | None:
    first = self.first.null(params['first'], batch)
    second = self.second.null(params['second'], batch)
    return None if first is None or second is None else _joined(first, second)

  def augmented(self, batch: encoder.Batch, key: jax.Array) -> encoder.Batch:
    first, second = jax.random.split(key)
    return self.second.augmented(self.first.augmented(batch, first), second)

  def trained_part(self, params: Any) -> Any:
    parts = self.parts.items()
    kept = {name: part.trained_part(params[name]) for name, part in parts}
    return {name: tree for name, tree in kept.items() if tree}

  def weights(self, generator: Any, frozen: Any) -> Any:
    tree = generator.get(encoder.PART, {})
    return {
      name: part.weights({encoder.PART: tree.get(name, {})}, frozen)
      for name, part in self.parts.items()
    }


def create(
  config: ConfigDict, first: encoder.Encoder, second: encoder.Encoder
) -> CombinedEncoder:
  """Joins the encoders of `config.condition.task` and `.also`.

  Raises:
    ValueError: conditions that exclude each other.
  """
  c, one, other = config.condition, first.widths, second.widths
  if one.concat and other.concat:
    raise ValueError(
      f'config.condition.task {c.task!r} and the low-resolution image are both'
      " channels; config.condition.also must not be 'superres'"
    )
  if c.also == 'class' and one.context and other.context:
    raise ValueError(
      f'config.condition.task {c.task!r} and the class are both tokens; give'
      " the class by config.condition.class_by = 'timestep'"
    )
  return CombinedEncoder(first=first, second=second)


def _joined(one: encoder.Inputs, other: encoder.Inputs) -> encoder.Inputs:
  given = {
    name: value
    for inputs in (one, other)
    for name, value in vars(inputs).items()
    if value is not None
  }
  if one.context is not None and other.context is not None:
    given['context'] = _concatenated(one.context, other.context)
  return encoder.Inputs(**given)


def _concatenated(first: Context, second: Context) -> Context:
  """Returns the tokens of both; the box of the second's is the whole image."""
  if isinstance(second, transformer.PlacedTokens):
    raise ValueError('the tokens that follow others must have no places.')
  if not isinstance(first, transformer.PlacedTokens):
    return jnp.concatenate([first, second], axis=1)
  anywhere = jnp.array([0.0, 0.0, 1.0, 1.0], first.places.dtype)
  places = jnp.broadcast_to(anywhere, (*second.shape[:2], 4))
  return transformer.PlacedTokens(
    values=jnp.concatenate([first.values, second], axis=1),
    places=jnp.concatenate([first.places, places], axis=1),
  )
