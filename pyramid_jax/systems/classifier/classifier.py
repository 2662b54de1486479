"""A classifier of noisy images or latents, which guides samples.

ADM (arXiv:2105.05233, section 4) trains one on noisy images
(openai/guided-diffusion: scripts/classifier_train.py), LDM (arXiv:2112.10752,
section D.4) on the noisy latents of a trained run (CompVis/latent-diffusion:
ldm/models/diffusion/classifier.py). `guided` is the sampling.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import schedules
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.networks import unet_classifier
from pyramid_jax.systems import based
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.classifier import fields as classifier_fields


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

FIELDS = classifier_fields.FIELDS
# The class whose constructor fields are `config.network`.
network_class = lambda values: unet_classifier.Classifier

LATENTS = 'latents'  # the frozen part that holds the scale of the latents
TOP = 5  # classes of which one must be right for the second accuracy
PREVIEW_TIMES = (0.1, 0.3, 0.5)  # The times of previews; 1 is noise.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
  """The system; see `systems.system.Classifying`."""

  network: unet_classifier.Classifier
  chain: schedules.Chain  # the noise of training
  space: spaces.Space  # images, or the latents of a run
  base_path: str  # the workdir of that run, '' for images
  classes: int  # their number, without that for none
  image_size: int  # px
  outputs: ClassVar[str] = system_lib.CLASSES

  def example_rows(self) -> Batch:
    return {'class': jnp.ones((1,), jnp.int32)}

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    side = self.image_size // self.space.factor
    x = jnp.zeros((1, side, side, self.space.channels))
    tree = self.network.init(key, x, jnp.zeros((1,)))['params']
    return {'generator': {'network': tree}}, {}

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    if not self.space.has_latents:
      return {}
    scale = pretrained.PretrainedPart(
      init=lambda key: {'params': {}, 'extra': self.space.extra()},
      family='',
      path=self.base_path,
      field='classifier.base',
      loss_name='',
    )
    first = self.space.pretrained_parts()
    return {LATENTS: scale, **based.with_first_stage(first, self.base_path)}

  def _clean(self, weights: Weights, batch: Batch, key: jax.Array) -> jax.Array:
    """Returns the states (B, h, w, C) of a batch."""
    extra = weights.frozen.get(LATENTS, {}).get('extra', {})
    (z,) = self.space.training(
      dataclasses.replace(weights, extra=extra), batch, key
    )
    return z

  def classify(
    self, tree: Any, x: jax.Array, t: jax.Array, **kwargs: Any
  ) -> jax.Array:
    """Returns the logits (B, classes) of states at indices of the chain.

    Args:
      tree: the weights of the network.
      x: (B, h, w, C) the noisy states, as those of the chain.
      t: (B,) real numbers, or (1,) for all.
      **kwargs: those of the network.
    """
    return params_lib.apply(self.network, tree, x, t, **kwargs)

  def noised(
    self, weights: Weights, key: jax.Array, batch: Batch, t: jax.Array
  ) -> jax.Array:
    """Returns the states of a batch at indices t (B,) of the chain."""
    noise_key, draw_key = jax.random.split(key)
    z = self._clean(weights, batch, draw_key)
    eps = jax.random.normal(noise_key, z.shape)
    alpha, sigma = (
      gaussian.per_example(table(t), z)
      for table in (self.chain.alpha, self.chain.sigma)
    )
    return jax.lax.stop_gradient(gaussian.q_sample(z, eps, alpha, sigma))

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    time_key, noise_key, dropout_key = jax.random.split(key, 3)
    labels = batch['class']
    t = jax.random.randint(time_key, labels.shape, 0, self.chain.length)
    logits = self.classify(
      weights.params['generator']['network'],
      self.noised(weights, noise_key, batch, t),
      t,
      train=True,
      rngs={'dropout': dropout_key},
    )
    errors = cross_entropy(logits, labels)
    right = {f'acc_{n}': is_among(logits, labels, n).mean() for n in (1, TOP)}
    return {'generator': (errors.mean(), right)}, weights.extra

  def ema_patterns(self) -> list[str]:
    return []  # the reference keeps no averages

  def check_extra(self, extra: Params) -> None:
    del extra

  def logits(
    self, weights: Weights, key: jax.Array, batch: Batch, times: jax.Array
  ) -> jax.Array:
    """Returns the logits of noised images; see `Classifying.logits`."""
    tree, t = weights.params['generator']['network'], self._indices(times)
    return self.classify(tree, self.noised(weights, key, batch, t), t)

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    """Returns what is classified, at `PREVIEW_TIMES` in turn."""
    times = jnp.resize(jnp.asarray(PREVIEW_TIMES), batch['class'].shape)
    x = self.noised(weights, key, batch, self._indices(times))
    extra = weights.frozen.get(LATENTS, {}).get('extra', {})
    return self.space.decode(dataclasses.replace(weights, extra=extra), [x])

  def _indices(self, times: jax.Array) -> jax.Array:
    """Returns indices of the chain for times in [0, 1]."""
    return jnp.round(times * (self.chain.length - 1)).astype(jnp.int32)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns (B,) -log p of labels from 1, 0 where the label is 0, none."""
  ids = jnp.maximum(labels - 1, 0)
  found = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
  return jnp.where(labels > 0, found, 0.0)


def is_among(logits: jax.Array, labels: jax.Array, most: int) -> jax.Array:
  """Returns (B,) float32, whether labels from 1 are among the likeliest."""
  count = min(most, logits.shape[-1])
  _, ids = jax.lax.top_k(logits, count)
  return (ids + 1 == labels[:, None]).any(-1).astype(jnp.float32)


def create(
  config: ConfigDict, base_config: ConfigDict | None = None
) -> Classifier:
  """Builds the system, of latents of the run `config.classifier.base`.

  Raises:
    ValueError: a field that does not fit the others or the base.
  """
  c = config.condition
  fields_lib.check_value(
    'condition.task', c.task, ('class',), ' for classifier'
  )
  space: spaces.Space = spaces.Pixels()
  if config.classifier.space == 'latents':
    if base_config is None:
      raise ValueError('config.classifier.base is not set')
    space = _space(config, base_config)
  fields_lib.check_multiple(
    'data.image_size', config.data.image_size, space.factor, ', the first stage'
  )
  network = unet_classifier.Classifier(
    **sampled.network_fields(config),
    in_channels=space.channels,
    out_channels=c.num_classes,
  )
  network.check_options()
  return Classifier(
    network=network,
    chain=sampled.chain(config),
    space=space,
    base_path=config.classifier.base,
    classes=c.num_classes,
    image_size=config.data.image_size,
  )


def _space(config: ConfigDict, base_config: ConfigDict) -> spaces.Space:
  """Returns where the base diffuses.

  Raises:
    ValueError: a base of several stages, or of images of another size.
  """
  base: Any = base_of(base_config, config.attention)
  mine, theirs = config.data.image_size, base.image_size
  reason = f' as in config.classifier.base = {config.classifier.base}'
  fields_lib.check_value('data.image_size', mine, (theirs,), reason)
  return base.space


def base_of(base_config: ConfigDict, attention: str) -> system_lib.Base:
  """Builds a system that a classifier may guide.

  Raises:
    ValueError: a system of another kind.
  """
  name = base_config.system.name
  if 'classifier' not in base_config.get('sample', {}):
    raise ValueError(
      f'a run of the system {name!r} takes no classifier, which guides systems'
      ' of one stage without bands'
    )
  config = config_lib.from_json(config_lib.to_json(base_config))
  with config.unlocked():
    config.attention = attention
  found: Any = systems.create(config)
  return found
