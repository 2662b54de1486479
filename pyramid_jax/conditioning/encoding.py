"""The encoder of a config, and what systems do with it."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import boxes
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import classes
from pyramid_jax.conditioning import combined
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoder as encoder_lib
from pyramid_jax.conditioning import inpainting
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.conditioning import retrieval
from pyramid_jax.conditioning import semantic_map
from pyramid_jax.conditioning import tokens
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.networks import pretrained
from pyramid_jax.networks.layers import parameters


Batch = encoder_lib.Batch
Encoder = encoder_lib.Encoder
Inputs = encoder_lib.Inputs
Builder = Callable[[ConfigDict, encoder_lib.FirstStage], Encoder]

# By `config.condition.task`; the other tasks go by `config.condition.encoder`.
TASKS: Mapping[str, Builder] = {
  'none': lambda config, first_stage: encoder_lib.NoCondition(),
  'class': classes.create,
  'map': semantic_map.create,
  'superres': low_resolution.create,
  'inpaint': inpainting.create,
  retrieval.TASK: retrieval.create,
}
ENCODERS: Mapping[str, Builder] = {
  'tokens': tokens.create,
  'clip': tokens.create_clip,
  't5': tokens.create_t5,
  'boxes': boxes.create,
}
# By `config.condition.also`.
ALSO: Mapping[str, Builder] = {
  'class': classes.create,
  'camera': camera.create,
  'superres': low_resolution.create,
}


def create(
  config: ConfigDict, first_stage: encoder_lib.FirstStage = None
) -> Encoder:
  """Builds the encoder of `config.condition`.

  Args:
    config: the config of the run.
    first_stage: the first stage of the system, None without; conditions that
      are images have the grid of its latents.

  Raises:
    ValueError: an encoder that does not serve the task or the first stage.
  """
  c = config.condition
  if c.task not in TASKS and c.encoder not in ENCODERS:
    raise ValueError(
      f'config.condition.encoder is {c.encoder!r}, must be one of'
      f' {", ".join(ENCODERS)}'
    )
  build = TASKS.get(c.task) or ENCODERS[c.encoder]
  first = build(config, first_stage)
  if c.task == 'none' or not c.also:
    return first
  if c.also not in ALSO or c.also == c.task:
    raise ValueError(
      f"config.condition.also is {c.also!r}, must be '' or one of"
      f' {", ".join(ALSO)} other than config.condition.task = {c.task!r}'
    )
  return combined.create(config, first, ALSO[c.also](config, first_stage))


def check_guidance(
  encoder: Encoder, guidance: classifier_free.Guidance | None
) -> None:
  """Raises ValueError for guidance by a condition without a null condition.

  Guidance has no effect in a system without a condition.
  """
  is_conditioned = encoder.widths != encoder_lib.Widths()
  if guidance is not None and is_conditioned and not encoder.is_guidable:
    raise ValueError(
      'config.condition.null_class is False, so there is no null condition for'
      ' guidance: config.sample.guidance must be 1'
    )


def pretrained_parts(encoder: Encoder) -> dict[str, pretrained.PretrainedPart]:
  """Returns the weights of an encoder that are loaded, by their part."""
  part = encoder.pretrained
  return {} if part is None else {encoder_lib.PART: part}


def init(encoder: Encoder, key: jax.Array) -> tuple[Any, Inputs]:
  """Returns an encoder's trained weights and a condition of zeros."""
  return encoder.trained_part(encoder.init(key)), blank(encoder).context


def blank(encoder: Encoder) -> condition_lib.Condition:
  """Returns the condition of one example, and the null one, as zeros."""
  shapes = parameters.shapes_of(
    lambda key: condition(encoder, encoder.init(key), encoder.example),
    jax.random.key(0),
  )
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def training_context(
  encoder: Encoder,
  generator: Mapping[str, Any],
  frozen: Mapping[str, Any],
  cond_dropout: float,
  key: jax.Array,
  batch: Batch,
) -> Inputs:
  """Encodes a training batch, some of it as the null condition.

  Args:
    encoder: the encoder of the condition.
    generator: the trained part of `Encoder.weights`.
    frozen: the pretrained part of `Encoder.weights`.
    cond_dropout: probability of the null condition, in [0, 1].
    key: typed key of augmentation and dropout.
    batch: B examples.
  """
  params = encoder.weights(generator, frozen)
  batch = encoder.augmented(batch, jax.random.fold_in(key, 1))
  inputs = encoder.encode(params, batch)
  null = encoder.null(params, batch) if cond_dropout else None
  return inputs if null is None else dropout(inputs, null, key, cond_dropout)


def dropout(
  inputs: Inputs, null: Inputs, key: jax.Array, rate: float
) -> Inputs:
  """Replaces each example's condition by the null one with chance `rate`."""
  count = jax.tree.leaves(inputs)[0].shape[0]
  is_dropped = jax.random.bernoulli(key, rate, (count,))
  return jax.tree.map(
    lambda n, t: jnp.where(
      is_dropped.reshape(count, *[1] * (t.ndim - 1)), n, t
    ),
    null,
    inputs,
  )


def condition(
  encoder: Encoder, params: Any, batch: Batch
) -> condition_lib.Condition:
  """Encodes a batch for sampling, with the null condition."""
  return condition_lib.Condition(
    context=encoder.encode(params, batch), null=encoder.null(params, batch)
  )
