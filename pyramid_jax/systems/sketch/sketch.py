"""Sketch guidance (arXiv:2211.13752): an edge predictor on a frozen system.

A small perceptron learns to predict the encoded edge map from the activations
of a trained system, the base, at a noisy latent. The base is then sampled, and
every step is corrected along the gradient of the predictor's distance from a
sketch. Any system with named activations may be the base.
"""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import sketch as sketch_guidance
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import based
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.sketch import base as sketch_base
from pyramid_jax.systems.sketch import edge_source as sketch_edges
from pyramid_jax.systems.sketch import fields as sketch_fields
from pyramid_jax.systems.sketch import targets as targets_lib


BHW = system_lib.BHW
Batch = system_lib.Batch
Condition = condition_lib.Condition
Params = system_lib.Params
SamplerSpec = spec_lib.SamplerSpec
Stages = system_lib.Stages
Weights = system_lib.Weights

FIELDS, CHECKS = sketch_fields.FIELDS, sketch_fields.CHECKS
SAMPLES_A_BASE = sketch_fields.SAMPLES_A_BASE

TIME_BINS = 4  # The loss is reported for each bin of the time.
PREVIEW_TIMES = (0.3, 0.6, 0.9)  # The times of previews; 1 is noise.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sketch(based.Based):
  """The system; see the module docstring and `systems.system.Generative`."""

  features: tuple[str, ...]  # names of the activations that are read
  targets: targets_lib.Targets  # the targets of the predictors, for each stage
  # One for all stages, or one for each.
  predictors: tuple[edge_predictor.EdgePredictor, ...]
  source: sketch_edges.EdgeSource  # the source of the edges that are learned
  # The length of a correction over that of its step, for each stage.
  beta: tuple[float, ...]
  # The share of the steps that are corrected, for each stage.
  stop_fraction: tuple[float, ...]
  # The step that corrections are measured by, one of
  # `guidance.sketch.NORM_REFS`.
  norm_ref: str
  outputs: ClassVar[str] = system_lib.PREDICTIONS
  base_field: ClassVar[str] = 'sketch.base'
  guided_by: ClassVar[str] = 'sketch'

  @property
  def shapes(self) -> tuple[sketch_base.StageShape, ...]:
    """The shapes of the base's stages, coarse first."""
    return self.targets.shapes

  @property
  def accepts(self) -> frozenset[str]:
    return self.base.accepts | {'sketch'}

  def check_rows(self, names: Collection[str]) -> None:
    self.base.check_rows(names)
    self.source.check(names)

  def example_rows(self) -> Batch:
    side = self.image_size
    edges = jnp.zeros((1, side, side), jnp.uint8)
    needed = {self.source.needed: edges}
    image = {'image': jnp.zeros((1, side, side, 3))}
    return {**needed, **self.base.example_rows(), **image}

  def _own(self, stage: int) -> tuple[int, int]:
    """Returns the index of a stage's predictor, and of the stage in it."""
    return (0, stage) if len(self.predictors) == 1 else (stage, 0)

  def _predict(
    self,
    variables: Mapping[str, Any],
    stage: int,
    features: Mapping[str, jax.Array],
    noise: jax.Array,
    **kwargs: Any,
  ) -> Any:
    """Applies the predictor of a stage to activations by name."""
    place, index = self._own(stage)
    own = {kind: trees[str(place)] for kind, trees in variables.items()}
    _, height, width, _ = self.shapes[stage].state
    return self.predictors[place].apply(
      own,
      [features[name] for name in self.features],
      noise,
      (height, width),
      stage=index,
      **kwargs,
    )

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    params, statistics = {}, {}
    for place, predictor in enumerate(self.predictors):
      shape = self.shapes[place]
      _, height, width, _ = shape.state
      features = [jnp.zeros(t.shape, t.dtype) for t in shape.features]
      scalar = predictor.noise_input == 'scalar'
      noise = jnp.zeros((1,) if scalar else shape.state)
      key, own = jax.random.split(key)
      variables = predictor.init(own, features, noise, (height, width))
      params[str(place)] = variables['params']
      statistics[str(place)] = variables['batch_stats']
    extra = {'batch_stats': statistics, 'loss_by_part': jnp.zeros(TIME_BINS)}
    return {'generator': params}, extra

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    return {**super().pretrained_parts(), **self.source.pretrained_parts()}

  def target_edges(self, frozen: Params, batch: Batch) -> jax.Array:
    """Returns the edges to be predicted; see `EdgeSource.target_edges`."""
    return self.source.target_edges(frozen, batch)

  def _read(
    self, weights: Weights, key: jax.Array, batch: Batch, rows: Any
  ) -> list[tuple[dict[str, jax.Array], jax.Array, jax.Array]]:
    """Noises a batch and reads the base's activations, stage by stage.

    Args:
      weights: the weights of the base.
      key: the key of the noise.
      batch: images and conditions.
      rows: (stage, S) -> (B,), which of the stage's S levels each example has.

    Returns:
      For each stage activations by name, the predictor's input of the noise,
      and the (B,) times of the noise.
    """
    zs = self.base.states(weights, batch['image'])
    condition = self.base.condition(weights, batch)
    stages = self.targets.dense_stages(weights, zs[0].shape[0], condition)
    results = []
    state: list[jax.Array] = []
    for s, stage in enumerate(stages):
      (segment,) = stage.segments
      levels = segment.levels
      at = _examples(levels, rows(s, levels.time.shape[0] - 1))
      noise = jax.random.normal(jax.random.fold_in(key, s), zs[s].shape)
      normal = lambda shape, noise=noise: jnp.broadcast_to(noise, shape)
      _, context = stage.enter(state, normal)
      state = stage.leave(state, zs[s], zs[s], context)
      x = at.noised(zs[s], noise)
      prediction = segment.denoise(x, at, context, True, features=self.features)
      given = self._noise_input(s, at, noise, prediction.eps)
      results.append(
        jax.lax.stop_gradient((prediction.features, given, jnp.ravel(at.part)))
      )
    return results

  def _noise_input(
    self,
    stage: int,
    level: levels_lib.Levels,
    noise: jax.Array,
    predicted: jax.Array,
  ) -> jax.Array:
    """Returns the predictor's input of the noise."""
    kind = self.predictors[self._own(stage)[0]].noise_input
    if kind == 'scalar':
      return jnp.ravel(level.part)
    return level.sigma * (noise if kind == 'map' else predicted)

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    level_key, noise_key = jax.random.split(key)
    base = self.base_weights(weights.frozen)
    edges = self.target_edges(weights.frozen, batch)
    targets = self.targets.of_edges(base, edges)

    def rows(stage, length):
      own = jax.random.fold_in(level_key, stage)
      return jax.random.randint(own, batch['image'].shape[:1], 0, length)

    statistics = dict(weights.extra['batch_stats'])
    by_part = weights.extra['loss_by_part']
    total, metrics = jnp.zeros(()), {}
    for s, read in enumerate(self._read(base, noise_key, batch, rows)):
      features, given, part = read
      params = weights.params['generator']
      variables = {'params': params, 'batch_stats': statistics}
      got, new = self._predict(
        variables, s, features, given, train=True, mutable=['batch_stats']
      )
      statistics[str(self._own(s)[0])] = new['batch_stats']
      errors = targets_lib.distance(got, jax.lax.stop_gradient(targets[s]))
      metrics[f'loss_stage_{s}'] = errors.mean()
      total = total + errors.mean() / len(self.shapes)
      by_part = _renewed(by_part, part, errors)
    metrics |= {f'loss_part_{i}': by_part[i] for i in range(TIME_BINS)}
    extra = {
      'batch_stats': jax.lax.stop_gradient(statistics),
      'loss_by_part': jax.lax.stop_gradient(by_part),
    }
    return {'generator': (total, metrics)}, extra

  def ema_patterns(self) -> list[str]:
    return []

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    base = self.base_weights(weights.frozen)
    condition = super().condition(weights, batch)
    beta = batch.get('sketch_beta')
    edges = self.target_edges(weights.frozen, batch)
    sketch = {
      'targets': self.targets.of_edges(base, edges),
      # (stages,) or, one column a stage, (B, stages); no constants, so that
      # one program serves every sketch and strength.
      'beta': jnp.asarray(self.beta) if beta is None else beta,
    }
    return dataclasses.replace(condition, guide=sketch)

  def guided(
    self, weights: Weights, condition: Condition, stages: Stages
  ) -> Stages:
    variables = _variables(weights)
    left_out = self.stage_count - len(stages)  # An edit drops coarse ones.
    return [
      sketch_guidance.sketch_guided(
        stage,
        sketch_guidance.SketchGuidance(
          loss=self._loss(variables, s, condition.guide['targets'][s]),
          features=self.features,
          beta=condition.guide['beta'][..., s],
          stop_fraction=self.stop_fraction[s],
          norm_ref=self.norm_ref,
        ),
      )
      for s, stage in enumerate(stages, left_out)
    ]

  def _loss(
    self, variables: Mapping[str, Any], stage: int, target: jax.Array
  ) -> sketch_guidance.Loss:
    def loss(prediction, level, initial):
      given = self._noise_input(stage, level, initial, prediction.eps)
      got = self._predict(variables, stage, prediction.features, given)
      return targets_lib.distance(got, target)

    return loss

  def predicted(
    self, weights: Weights, key: jax.Array, batch: Batch, times: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts the edges of noised images; see `Predicting.predicted`."""
    base = self.base_weights(weights.frozen)
    variables = _variables(weights)

    def rows(stage, length):
      del stage
      return ((1.0 - times) * (length - 1)).astype(jnp.int32)

    got = [
      self._predict(variables, s, features, given)
      for s, (features, given, _) in enumerate(
        self._read(base, key, batch, rows)
      )
    ]
    wanted = self.targets.of_edges(
      base, self.target_edges(weights.frozen, batch)
    )
    errors = [
      targets_lib.distance(g, w) for g, w in zip(got, wanted, strict=True)
    ]
    return jnp.stack(errors).mean(0), self.targets.to_edges(base, got)

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    """Returns edge maps predicted at `PREVIEW_TIMES` in turn."""
    times = jnp.resize(jnp.asarray(PREVIEW_TIMES), batch['image'].shape[:1])
    _, edges = self.predicted(weights, key, batch, times)
    return jnp.repeat(edges[..., None], 3, axis=-1).clip(-1.0, 1.0)


def _variables(weights: Weights) -> dict[str, Any]:
  """Returns the variables of all predictors."""
  statistics = weights.extra['batch_stats']
  return {'params': weights.params['generator'], 'batch_stats': statistics}


def _examples(levels: levels_lib.Levels, rows: jax.Array) -> Any:
  """Returns one level for each example; factors broadcast over states."""

  def pick(leaf):
    leaf = jnp.asarray(leaf)[rows]
    return leaf.reshape(leaf.shape[0], 1, 1, 1, *leaf.shape[1:])

  at = jax.tree.map(pick, levels)
  return dataclasses.replace(at, time=at.time.reshape(-1))


def _renewed(old: jax.Array, time: jax.Array, errors: jax.Array) -> jax.Array:
  """Returns the newest mean error in each of `TIME_BINS` bins of the time."""
  bins = jnp.clip((time * TIME_BINS).astype(jnp.int32), 0, TIME_BINS - 1)
  hits = jax.nn.one_hot(bins, TIME_BINS)
  counts = hits.sum(0)
  means = (hits * errors[:, None]).sum(0) / jnp.maximum(counts, 1)
  return jnp.where(counts > 0, means, old)


def create(config: ConfigDict, base_config: ConfigDict) -> Sketch:
  """Builds the system on the run `config.sketch.base`.

  Raises:
    ValueError: a field that does not fit the others or the base.
  """
  c = config.sketch
  sketch_base.check(config, base_config)
  features = tuple(c.features)
  base, shapes = sketch_base.create(
    config_lib.to_json(base_config), config.attention, config.remat, features
  )
  targets = targets_lib.Targets(base=base, shapes=shapes, space=c.target_space)
  return Sketch(
    base=base,
    base_path=c.base,
    features=features,
    targets=targets,
    predictors=targets_lib.predictors(config, targets),
    source=sketch_edges.EdgeSource(
      kind=sketch_edges.kind_of(c.edges, c.edge_weights),
      weights=c.edge_weights,
      classes=config.condition.map_classes,
    ),
    beta=_per_stage(c.beta, len(shapes)),
    stop_fraction=_per_stage(c.stop_fraction, len(shapes)),
    norm_ref=c.norm_ref,
    variance=base_config.diffusion.get('variance', 'fixed_small'),
  )


def _per_stage(values: Sequence[float], count: int) -> tuple[float, ...]:
  """Returns one value for each stage; the last serves the rest."""
  return tuple(values[min(s, len(values) - 1)] for s in range(count))
