"""A trained system whose samples a classifier guides (arXiv:2105.05233)."""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion.guidance import classifier as classifier_guidance
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import based
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.classifier import classifier as classifier_lib


Batch = system_lib.Batch
Condition = system_lib.Condition
Params = system_lib.Params
SamplerSpec = system_lib.SamplerSpec
Stages = system_lib.Stages
Weights = system_lib.Weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided(based.Based):
  """The system; see `systems.system.Generative`. It is not trained.

  Its weights are those of the classifier, the base is frozen.
  """

  classifier: classifier_lib.Classifier
  outputs: ClassVar[str] = system_lib.SAMPLES
  base_field: ClassVar[str] = 'classifier.base'
  guided_by: ClassVar[str] = 'classifier'

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    return self.classifier.init(key)

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    return {**self.classifier.pretrained_parts(), **super().pretrained_parts()}

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    """Raises NotImplementedError: a classifier is trained by itself."""
    raise NotImplementedError

  def ema_patterns(self) -> list[str]:
    return self.classifier.ema_patterns()

  def example_rows(self) -> Batch:
    return {**self.base.example_rows(), **self.classifier.example_rows()}

  def check_rows(self, names: Collection[str]) -> None:
    super().check_rows(names)
    if 'class' not in names:
      raise ValueError('classifier guidance needs the class of each image')

  def example_condition(self) -> Condition:
    labels = self.classifier.example_rows()['class']
    return dataclasses.replace(super().example_condition(), guide=labels)

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    condition = super().condition(weights, batch)
    return dataclasses.replace(condition, guide=batch['class'])

  def stages(
    self,
    weights: Weights,
    condition: Condition,
    shape: system_lib.BHW,
    spec: SamplerSpec,
  ) -> Stages:
    guidance = classifier_guidance.ClassifierGuidance(
      log_probability=self._log_probability(weights, condition.guide),
      scale=1.0 if spec.classifier_scale is None else spec.classifier_scale,
      form=classifier_guidance.form_of(spec.solver),
    )
    return [
      classifier_guidance.classifier_guided(stage, guidance)
      for stage in super().stages(weights, condition, shape, spec)
    ]

  def guided(
    self, weights: Weights, condition: Condition, stages: Stages
  ) -> Stages:
    del weights, condition
    return stages

  def _log_probability(
    self, weights: Weights, labels: jax.Array
  ) -> classifier_guidance.LogProbability:
    tree = weights.params['generator']['network']

    def log_probability(x: jax.Array, level: levels_lib.Levels) -> jax.Array:
      length = jnp.sqrt(jnp.square(level.alpha) + jnp.square(level.sigma))
      t = self._index(level).reshape(1)
      logits = self.classifier.classify(tree, x / length, t)
      return -classifier_lib.cross_entropy(logits, labels)

    return log_probability

  def _index(self, level: levels_lib.Levels) -> jax.Array:
    """Returns the index in the classifier's chain of a noise level, ().

    Of other processes than that chain it is a real number, at which the
    logarithm of sigma / alpha is interpolated.
    """
    chain = self.classifier.chain
    own = getattr(self.base, 'chain', None)
    if own is not None and np.array_equal(own.betas, chain.betas):
      return level.time
    bar = chain.alphas_bar
    table = jnp.asarray(0.5 * (np.log1p(-bar) - np.log(bar)), jnp.float32)
    place = jnp.log(level.sigma) - jnp.log(level.alpha)
    return jnp.interp(place, table, jnp.arange(chain.length, dtype=float))


def create(config: ConfigDict, base_config: ConfigDict) -> Guided:
  """Builds the system of a classifier on the run `config.classifier.base`.

  Args:
    config: of the classifier.
    base_config: of the run that it guides.

  Raises:
    ValueError: a classifier of other images or classes than those of the base.
  """
  base = classifier_lib.base_of(base_config, config.attention)
  _check(config, base_config)
  classifier = classifier_lib.create(config, base_config)
  return Guided(
    base=base,
    base_path=config.classifier.base,
    classifier=classifier,
    variance=base_config.diffusion.get('variance', 'fixed_small'),
  )


def _check(config: ConfigDict, base_config: ConfigDict) -> None:
  """Raises ValueError for a classifier of other images or other classes."""
  c, name = base_config.condition, config.classifier.base
  reason = f' of {name}, which a classifier is to guide'
  fields_lib.check_value('condition.task', c.task, ('class', 'none'), reason)
  fields: list[tuple[str, Any, Any]] = [
    ('data.image_size', config.data.image_size, base_config.data.image_size)
  ]
  if c.task == 'class':
    classes = config.condition.num_classes, c.num_classes
    fields.append(('condition.num_classes', *classes))
  for field, mine, theirs in fields:
    reason = f' of the classifier, as of {name}, which it is to guide'
    fields_lib.check_value(field, mine, (theirs,), reason)
