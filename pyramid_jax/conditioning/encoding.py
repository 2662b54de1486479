"""Which encoder serves a condition, and how it is used."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import camera_encoder as camera
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoders
from pyramid_jax.conditioning import image_encoders as picture_encoders
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.diffusion import guidance
from pyramid_jax.diffusion import sampling
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import pretrained
from pyramid_jax.networks import t5
from pyramid_jax.networks import text_encoders


Batch = Mapping[str, jax.Array]
Context = encoders.Context
Encoder = encoders.Encoder
Inputs = encoders.Inputs

PICTURES = ('map', 'superres', 'inpaint')
ALSO = ('class', 'camera', 'superres')


def create(
  config: ConfigDict, first_stage: first_stages.Network | None = None
) -> Encoder | None:
  """Builds the encoder of `config.condition`, None for task 'none'.

  Args:
    config: of the run.
    first_stage: what a condition that is a picture needs to know of it.

  Raises:
    ValueError: an encoder that does not serve the task, or a picture that
      does not fit the first stage.
  """
  c = config.condition
  if c.task == 'none':
    return None
  if c.task == 'class':
    encoder: Encoder = _classes(config)
  elif c.task == 'superres' and first_stage is None:
    encoder = low_resolution.create(config)
  elif c.task in PICTURES:
    if first_stage is None:
      raise ValueError(
        f'config.condition.task {c.task!r} is not served by the system'
        f' {config.system.name!r}'
      )
    encoder = _pictures(config, first_stage)
  elif c.encoder == 'boxes':
    encoder = _boxes(config)
  else:
    encoder = _tokens(config)
  if not c.also:
    return encoder
  if c.also not in ALSO or c.also == c.task:
    raise ValueError(
      f"config.condition.also is {c.also!r}, must be '' or one of"
      f' {", ".join(ALSO)} beside another task; config.condition.task is'
      f' {c.task!r}'
    )
  second = _second(config, encoder, first_stage)
  return encoders.BothEncoder(first=encoder, second=second)


def _second(
  config: ConfigDict, first: Encoder, first_stage: first_stages.Network | None
) -> Encoder:
  """Builds the encoder of `config.condition.also`."""
  c = config.condition
  if c.also == 'camera':
    width = first.widths.context or c.dim
    return camera.CameraEncoder(dim=width, drop=c.camera_drop)
  if c.also == 'superres':
    if first.widths.concat:
      raise ValueError(
        f'config.condition.task {c.task!r} and the small picture are both'
        " channels; config.condition.also must not be 'superres'"
      )
    if first_stage is None:
      return low_resolution.create(config)
    return _small_picture(config, first_stage)
  second = _classes(config)
  if first.widths.context and second.widths.context:
    raise ValueError(
      f'config.condition.task {c.task!r} and the class are both tokens; give'
      " the class by config.condition.class_by = 'adm'"
    )
  return second


def _classes(config: ConfigDict) -> encoders.ClassEncoder:
  c = config.condition
  if c.class_by not in ('crossattn', 'adm'):
    raise ValueError(
      f'config.condition.class_by is {c.class_by!r}, must be one of crossattn,'
      ' adm'
    )
  if not c.null_class and (c.drop or config.sample.guidance != 1):
    raise ValueError(
      'config.condition.null_class is False, so there is no null condition for'
      f' config.condition.drop = {c.drop} and config.sample.guidance ='
      f' {config.sample.guidance}, which must be 0 and 1'
    )
  return encoders.ClassEncoder(
    classes=c.num_classes,
    has_null=c.null_class,
    dim=c.dim if c.class_by == 'crossattn' else 0,
  )


def _pictures(config: ConfigDict, first_stage: first_stages.Network) -> Encoder:
  c, size = config.condition, config.data.image_size
  factor = first_stage.factor
  if c.task == 'map':
    return picture_encoders.MapEncoder(
      network=conditioners.SpatialRescaler(
        n_stages=int(math.log2(factor)), out_channels=c.map_channels
      ),
      classes=c.map_classes,
      image_size=size,
    )
  if c.task == 'inpaint':
    return picture_encoders.HoleEncoder(
      first_stage=first_stage, image_size=size
    )
  return _small_picture(config, first_stage)


def _small_picture(
  config: ConfigDict, first_stage: first_stages.Network
) -> picture_encoders.LowResolutionEncoder:
  size, factor = config.data.image_size, first_stage.factor
  if config.data.lr_factor != factor:
    raise ValueError(
      f'config.data.lr_factor is {config.data.lr_factor}, must be {factor}, the'
      " factor of the first stage: the small picture has the latent's grid"
    )
  return picture_encoders.LowResolutionEncoder(side=size // factor)


def _boxes(config: ConfigDict) -> encoders.BoxesEncoder:
  c = config.condition
  if c.task != 'layout':
    raise ValueError(
      "config.condition.encoder 'boxes' serves the task 'layout',"
      f' not {c.task!r}'
    )
  boxes = text_encoders.BoxEncoder(
    dim=c.dim,
    depth=c.depth,
    heads=c.heads,
    head_dim=c.head_dim,
    num_labels=c.num_labels,
    dtype=jnp.dtype(config.dtype),
  )
  return encoders.BoxesEncoder(network=boxes)


def _tokens(config: ConfigDict) -> encoders.TokenEncoder:
  c = config.condition
  if c.encoder in tokenizers.PRETRAINED and c.task not in (
    'text',
    'scene_graph',
  ):
    raise ValueError(
      f"config.condition.encoder {c.encoder!r} serves the tasks 'text' and"
      f" 'scene_graph', not {c.task!r}"
    )
  network: (
    text_encoders.TransformerEncoder
    | text_encoders.CLIPTextEncoder
    | t5.T5Encoder
  )
  if c.encoder == 'clip':
    network = text_encoders.CLIPTextEncoder(
      vocab_size=c.vocab_size,
      max_length=c.max_length,
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      mlp_dim=4 * c.dim,
      dtype=jnp.dtype(config.dtype),
    )
  elif c.encoder == 't5':
    network = t5.T5Encoder(
      vocab_size=c.vocab_size,
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      head_dim=c.head_dim,
      mlp_dim=c.mlp_dim or 4 * c.dim,
      dtype=jnp.dtype(config.dtype),
    )
  else:
    network = text_encoders.TransformerEncoder(
      vocab_size=c.vocab_size,
      max_seq_len=c.max_length,
      dim=c.dim,
      depth=c.depth,
      heads=c.heads,
      head_dim=c.head_dim,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
      embed_std=c.embed_std,
    )
  return encoders.TokenEncoder(
    network=network,
    task=c.task,
    null_prefix=tuple(c.null_prefix),
    pad_id=c.pad_id,
    trained=c.encoder not in tokenizers.PRETRAINED,
  )


def frozen_part(
  encoder: Encoder | None, config: ConfigDict
) -> pretrained.FrozenPart | None:
  """Returns the part under which a frozen text encoder is loaded, or None."""
  if isinstance(encoder, encoders.BothEncoder):
    encoder = encoder.first
  if not isinstance(encoder, encoders.TokenEncoder) or encoder.trained:
    return None
  is_clip = isinstance(encoder.network, text_encoders.CLIPTextEncoder)
  return pretrained.FrozenPart(
    init=encoder.init,
    family='clip_text' if is_clip else 't5',
    path=config.condition.weights,
    field='condition.weights',
  )


def init(encoder: Encoder | None, key: jax.Array) -> tuple[Any, Any]:
  """Returns an encoder's trained weights and a condition of zeros."""
  if encoder is None:
    return {}, None
  zeros = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), encoders.example(encoder, key)
  )
  return trained(encoder, encoder.init(key)), zeros


def trained(encoder: Encoder, params: Any) -> Any:
  """Returns what of an encoder's weights is trained with the system."""
  if isinstance(encoder, encoders.BothEncoder):
    parts = {'first': encoder.first, 'second': encoder.second}
    kept = {name: trained(part, params[name]) for name, part in parts.items()}
    return {name: tree for name, tree in kept.items() if tree}
  return params if encoder.trained else {}


def weights(
  encoder: Encoder | None, generator: Any, frozen: Mapping[str, Any]
) -> Any:
  """Returns the weights of an encoder.

  Args:
    encoder: whose.
    generator: the trained tree; its part `condition` has what `trained` gave.
    frozen: the parts that are never trained.
  """
  if encoder is None:
    return None
  tree = generator.get('condition', {})
  if isinstance(encoder, encoders.BothEncoder):
    parts = {'first': encoder.first, 'second': encoder.second}
    return {
      name: weights(part, {'condition': tree.get(name, {})}, frozen)
      for name, part in parts.items()
    }
  if encoder.trained:
    return tree
  is_hole = isinstance(encoder, picture_encoders.HoleEncoder)
  return frozen.get('first_stage' if is_hole else 'condition')


def guided_stage(
  build: Callable[[Any, tuple[int, int, int, int]], sampling.Stage],
  shape: tuple[int, int, int, int],
  context: Any,
  null: Any,
  scale: float,
  interval: Sequence[float] = (),
  channels: int | None = None,
  power: float | None = None,
) -> sampling.Stage:
  """Builds a stage, guided if there is a null condition and a scale.

  Args:
    build: (condition, shape of the state) -> the stage without guidance.
    shape: of the state, (B, h, w, C).
    context: the condition of B images.
    null: the null condition, None without one.
    scale: classifier-free guidance, 1 = none.
    interval: this and the others as of `guidance.classifier_free`.
    channels: which channels are guided.
    power: how late guidance grows.
  """
  stage = build(context, shape)
  if scale == 1 or null is None:
    return stage
  both = build(pair(context, null), (2 * shape[0], *shape[1:]))
  return guidance.classifier_free(
    both,
    scale,
    interval,
    stage,
    channels=channels,
    power=power,
    null=build(null, shape),
  )


def training_context(
  encoder: Encoder | None,
  generator: Any,
  frozen: Mapping[str, Any],
  drop: float,
  key: jax.Array,
  batch: Batch,
) -> Any:
  """Encodes a training batch, None without an encoder.

  Args:
    encoder: of the condition.
    generator: the trained tree, see `weights`.
    frozen: the parts that are never trained.
    drop: share of the conditions that the null condition replaces.
    key: of that choice.
    batch: what is encoded.
  """
  if encoder is None:
    return None
  tree = weights(encoder, generator, frozen)
  batch = perturbed(encoder, batch, jax.random.fold_in(key, 1))
  tokens = encoder.encode(tree, batch)
  if drop == 0:
    return tokens
  return dropped(tokens, encoder.null(tree, batch), key, drop)


def perturbed(encoder: Encoder, batch: Batch, key: jax.Array) -> Batch:
  """Returns a batch as an encoder is given it in training."""
  if isinstance(encoder, encoders.BothEncoder):
    keys = jax.random.split(key)
    for part, own in zip((encoder.first, encoder.second), keys, strict=True):
      batch = perturbed(part, batch, own)
    return batch
  noisy = (camera.CameraEncoder, low_resolution.NoisyPictureEncoder)
  return encoder.perturbed(batch, key) if isinstance(encoder, noisy) else batch


def dropped(tokens: Any, null: Any, key: jax.Array, share: float) -> Any:
  """Replaces each example's condition by the null one with chance `share`."""
  count = jax.tree.leaves(tokens)[0].shape[0]
  drop = jax.random.bernoulli(key, share, (count,))
  return jax.tree.map(
    lambda n, t: jnp.where(drop.reshape(count, *[1] * (t.ndim - 1)), n, t),
    null,
    tokens,
  )


def condition(
  encoder: Encoder | None, params: Any, batch: Batch
) -> condition_lib.Condition:
  """Encodes a batch for sampling, with the null condition."""
  if encoder is None:
    return condition_lib.Condition()
  return condition_lib.Condition(
    context=encoder.encode(params, batch), null=encoder.null(params, batch)
  )


def pair(context: Any, null: Any) -> Any:
  """Returns conditions and null conditions as one batch, see `guidance`."""
  return jax.tree.map(lambda *x: jnp.concatenate(x), context, null)
