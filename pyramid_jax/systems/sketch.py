"""Sketch guidance (arXiv:2211.13752): an edge predictor on a frozen system.

A small perceptron learns to read the encoded edge map off the activations that
a trained system has at a noisy latent. Sampling is that of the base, steered
by the gradient of the predictor's distance from a sketch. Any system with
named activations may be the base; each of its stages is read by itself.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.conditions import condition as condition_lib
from pyramid_jax.conditions import edges as edges_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import sketch_guidance
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks import pidinet
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import conditioning
from pyramid_jax.systems import diffit
from pyramid_jax.systems import ladm
from pyramid_jax.systems import latent_diffit
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

BASE = 'base'  # the frozen part that is the trained system
EDGES = 'edges'  # the frozen part that detects edges
FIRST_STAGE = 'first_stage'  # the part that may lie in the base's workdir
PARTS = 4  # of the noise's time, for which the loss is told by itself
SHOWN = (0.3, 0.6, 0.9)  # parts of the time in pictures of a training run
_CONTINUOUS_LEVELS = 256  # that a system without a chain is trained at
# What the conditions of a batch must have in common with the base's.
_SHARED = (
  'data.image_size',
  'condition.task',
  'condition.also',
  'condition.encoder',
  'condition.max_length',
  'condition.vocab_size',
  'condition.no_tokens',
  'condition.num_classes',
  'condition.null_class',
  'condition.map_classes',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageShape:
  """What of a stage of the base the predictor must know.

  Attributes:
    state: (B, h, w, C) of the state.
    taps: of the activations, (B, h_k, w_k, C_k) each.
  """

  state: tuple[int, ...]
  taps: tuple[jax.ShapeDtypeStruct, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sketch:
  """The system; see the module docstring and `systems.system.System`.

  Attributes:
    base: what is sampled.
    dense: the same with many noise levels and no guidance, to train on.
    base_path: the workdir of its weights.
    taps: names of the activations that are read.
    shapes: of the base's stages, coarse first.
    predictors: one for all stages, or one for each.
    target_space: what is predicted of an edge map, 'latent' or 'pixels'.
    edges: whose edges are learned: 'true', the data's, or a detector's; 'map':
      the semantic map in their place.
    edge_weights: of a detector that is a network.
    classes: of a semantic map.
    beta: of each stage, see `sketch_guidance.steered`.
    stop_fraction: of each stage, likewise.
    norm_ref: likewise.
  """

  base: system_lib.System
  dense: system_lib.System
  base_path: str
  taps: tuple[str, ...]
  shapes: tuple[StageShape, ...]
  predictors: tuple[edge_predictor.EdgePredictor, ...]
  target_space: str
  edges: str
  edge_weights: str
  classes: int
  beta: tuple[float, ...]
  stop_fraction: tuple[float, ...]
  norm_ref: str

  @property
  def solver(self) -> solvers.Solver:
    return self.base.solver

  @property
  def image_size(self) -> int:
    return self.base.image_size

  def of_base(self, frozen: Params) -> Weights:
    """Returns the weights of the base."""
    base = frozen[BASE]
    return Weights(params=base['params'], frozen=frozen, extra=base['extra'])

  def _own(self, stage: int) -> tuple[int, int]:
    """Returns the place of a stage's predictor, and the stage's in it."""
    return (0, stage) if len(self.predictors) == 1 else (stage, 0)

  def _predict(
    self,
    variables: Mapping[str, Any],
    stage: int,
    taps: Mapping[str, jax.Array],
    noise: jax.Array,
    **kwargs: Any,
  ) -> Any:
    """Applies the predictor of a stage.

    Args:
      variables: 'params' and 'batch_stats' of all predictors.
      stage: whose activations they are.
      taps: by name.
      noise: as `EdgePredictor.noise_input` says.
      **kwargs: of the predictor's `apply`.
    """
    place, index = self._own(stage)
    own = {kind: trees[str(place)] for kind, trees in variables.items()}
    size = self.shapes[stage].state[1:3]
    return self.predictors[place].apply(
      own,
      [taps[name] for name in self.taps],
      noise,
      (size[0], size[1]),
      stage=index,
      **kwargs,
    )

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    params, statistics = {}, {}
    for place, predictor in enumerate(self.predictors):
      shape = self.shapes[place]
      taps = [jnp.zeros(t.shape, t.dtype) for t in shape.taps]
      noise = jnp.zeros((1,))
      if predictor.noise_input != 'scalar':
        noise = jnp.zeros(shape.state)
      size = (shape.state[1], shape.state[2])
      key, own = jax.random.split(key)
      variables = predictor.init(own, taps, noise, size)
      params[str(place)] = variables['params']
      statistics[str(place)] = variables['batch_stats']
    extra = {'batch_stats': statistics, 'loss_by_part': jnp.zeros(PARTS)}
    return {'generator': params}, extra

  def frozen_parts(self) -> Mapping[str, system_lib.FrozenPart]:
    def init(key):
      params, extra = self.base.init(key, {})
      return {'params': params, 'extra': extra}

    whole = system_lib.FrozenPart(
      init=init,
      family='',
      path=self.base_path,
      field='sketch.base',
      player='',
    )
    parts = {BASE: whole}
    for name, part in self.base.frozen_parts().items():
      path = part.path
      if name == FIRST_STAGE and not path:
        path = os.path.join(self.base_path, FIRST_STAGE)
      parts[name] = dataclasses.replace(part, path=path)
    if self.edges in pidinet.SIZES:
      image = jnp.zeros((1, 32, 32, 3))
      parts[EDGES] = system_lib.FrozenPart(
        init=lambda key: _detector(self.edges).init(key, image)['params'],
        family='pidinet',
        path=self.edge_weights,
        field='sketch.edge_weights',
      )
    return parts

  def asked(self, frozen: Params, batch: Batch) -> jax.Array:
    """Returns the edges that are asked for, (B, H, W) in [-1, 1].

    A drawing, or the edges of the example's picture.

    Args:
      frozen: with the weights of a detector that is a network.
      batch: of examples, or of what a person asks for.

    Raises:
      ValueError: there are neither.
    """
    if 'sketch' in batch:
      return batch['sketch']
    if self.edges == 'map' and 'mask' in batch:
      shade = batch['mask'].astype(jnp.float32) / max(1, self.classes - 1)
      return 2.0 * shade - 1.0
    if self.edges in pidinet.SIZES:
      found = system_lib.apply(
        _detector(self.edges), frozen[EDGES], batch['image'], method='edges'
      )
      return jnp.where(found >= edges_lib.THRESHOLD, 1.0, -1.0)
    if self.edges in edges_lib.DETECTORS:
      found = jnp.asarray(edges_lib.edges(self.edges)(batch['image']))
      return 2.0 * found - 1.0
    needed = {'true': 'edges', 'map': 'mask'}[self.edges]
    if needed not in batch:
      raise ValueError(
        'there is no sketch: give one, data with config.data.maps ='
        f' {needed!r}, or a detector by config.sketch.edges'
      )
    return 2.0 * batch['edges'] - 1.0

  def targets(self, weights: Weights, edges: jax.Array) -> list[jax.Array]:
    """Returns what the predictors should say, of each stage.

    Args:
      weights: of the base.
      edges: (B, H, W) in [-1, 1], white on black.
    """
    if self.target_space == 'latent' and has_latents(self.base):
      picture = jnp.repeat(edges[..., None], 3, axis=-1)
      return self.base.states(weights, picture)
    targets = []
    for shape in self.shapes:
      cell = edges.shape[1] // shape.state[1]
      pixels = resampling.space_to_depth(edges[..., None], cell)
      if not has_latents(self.base):  # thin lines would fade in a mean
        pixels = pixels.max(-1, keepdims=True)
      targets.append(pixels)
    return targets

  def edges_of_targets(
    self, weights: Weights, targets: Sequence[jax.Array]
  ) -> jax.Array:
    """Returns the (B, H, W) edge maps in [-1, 1] behind `targets`."""
    size = self.image_size
    if self.target_space == 'latent' and has_latents(self.base):
      stages = self._stages_to_train(weights, targets[0].shape[0])
      state: list[jax.Array] = []
      for stage, target in zip(stages, targets, strict=True):
        state = stage.leave(state, target, target, None)
      return self.base.decode(weights, state).mean(-1)
    pixels = targets[-1]
    cell = size // pixels.shape[1]
    if has_latents(self.base):
      return resampling.depth_to_space(pixels, cell)[..., 0]
    return resampling.enlarge(pixels, cell)[..., 0]

  def _stages_to_train(
    self, weights: Weights, count: int, condition: Any = None
  ) -> list[sampling.Stage]:
    """Returns the stages of the base with all levels and no guidance."""
    size = self.image_size
    if condition is None:
      condition = example_condition(self.dense)
    return self.dense.stages(weights, condition, (count, size, size))

  def _read(
    self,
    weights: Weights,
    key: jax.Array,
    batch: Batch,
    rows: Any,
  ) -> list[tuple[dict[str, jax.Array], jax.Array, jax.Array]]:
    """Noises a batch and reads the base's activations, stage by stage.

    Args:
      weights: of the base.
      key: of the noise.
      batch: images and conditions.
      rows: (stage, S) -> (B,) of the S levels of a stage, one an example.

    Returns:
      For each stage activations by name, what the predictor is told of the
      noise, and the (B,) parts of the time.
    """
    zs = self.dense.states(weights, batch['image'])
    condition = self.dense.condition(weights, batch)
    stages = self._stages_to_train(weights, zs[0].shape[0], condition)
    results = []
    for s, stage in enumerate(stages):
      ((levels, denoise),) = stage.spans
      at = _examples(levels, rows(s, levels.time.shape[0] - 1))
      noise = jax.random.normal(jax.random.fold_in(key, s), zs[s].shape)
      normal = lambda shape, noise=noise: jnp.broadcast_to(noise, shape)
      _, context = stage.enter(list(zs[:s]), normal)
      x = at.noised(zs[s], noise)
      prediction = denoise(x, at, context, True, taps=self.taps)
      told = self._told(s, at, noise, prediction.eps)
      results.append(
        jax.lax.stop_gradient((prediction.taps, told, jnp.ravel(at.part)))
      )
    return results

  def _told(
    self,
    stage: int,
    level: schedules.Levels,
    noise: jax.Array,
    predicted: jax.Array,
  ) -> jax.Array:
    """Returns what a predictor is told of the noise."""
    kind = self.predictors[self._own(stage)[0]].noise_input
    if kind == 'scalar':
      return jnp.ravel(level.part)
    return level.sigma * (noise if kind == 'map' else predicted)

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    del step
    level_key, noise_key = jax.random.split(key)
    weights = self.of_base(frozen)
    targets = self.targets(weights, self.asked(frozen, batch))
    count = targets[0].shape[0]

    def rows(stage, length):
      own = jax.random.fold_in(level_key, stage)
      return jax.random.randint(own, (count,), 0, length)

    statistics = dict(extra['batch_stats'])
    by_part = extra['loss_by_part']
    total, metrics = jnp.zeros(()), {}
    for s, read in enumerate(self._read(weights, noise_key, batch, rows)):
      taps, told, part = read
      variables = {'params': params['generator'], 'batch_stats': statistics}
      got, new = self._predict(
        variables, s, taps, told, train=True, mutable=['batch_stats']
      )
      statistics[str(self._own(s)[0])] = new['batch_stats']
      errors = distance(got, jax.lax.stop_gradient(targets[s]))
      metrics[f'loss_stage_{s}'] = errors.mean()
      total = total + errors.mean() / len(self.shapes)
      by_part = _renewed(by_part, part, errors)
    metrics |= {f'loss_part_{i}': by_part[i] for i in range(PARTS)}
    extra = {
      'batch_stats': jax.lax.stop_gradient(statistics),
      'loss_by_part': jax.lax.stop_gradient(by_part),
    }
    return {'generator': (total, metrics)}, extra

  def ema_patterns(self) -> list[str]:
    return []

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    of_base = self.of_base(weights.frozen)
    condition = self.base.condition(of_base, batch)
    beta = batch.get('sketch_beta')
    steer = {
      'targets': self.targets(of_base, self.asked(weights.frozen, batch)),
      # (stages,) or, one column a stage, (B, stages); no constants, so that
      # one program serves every sketch and strength.
      'beta': jnp.asarray(self.beta) if beta is None else beta,
    }
    return dataclasses.replace(condition, steer=steer)

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
  ) -> list[sampling.Stage]:
    of_base = self.of_base(weights.frozen)
    variables = {
      'params': weights.params['generator'],
      'batch_stats': weights.extra['batch_stats'],
    }
    return [
      sketch_guidance.steered(
        stage,
        self._loss(variables, s, condition.steer['targets'][s]),
        self.taps,
        beta=condition.steer['beta'][..., s],
        stop_fraction=self.stop_fraction[s],
        norm_ref=self.norm_ref,
      )
      for s, stage in enumerate(self.base.stages(of_base, condition, shape))
    ]

  def _loss(
    self, variables: Mapping[str, Any], stage: int, target: jax.Array
  ) -> sketch_guidance.Loss:
    def loss(prediction, level, initial):
      told = self._told(stage, level, initial, prediction.eps)
      got = self._predict(variables, stage, prediction.taps, told)
      return distance(got, target)

    return loss

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    return self.base.states(self.of_base(weights.frozen), image)

  def edited(
    self,
    weights: Weights,
    stages: list[sampling.Stage],
    edit: system_lib.Edit,
  ) -> list[sampling.Stage]:
    return self.base.edited(self.of_base(weights.frozen), stages, edit)

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    return self.base.decode(self.of_base(weights.frozen), state)

  def predicted(
    self, weights: Weights, key: jax.Array, batch: Batch, parts: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts the edges of pictures that are noised.

    Args:
      weights: of this system.
      key: of the noise.
      batch: images, conditions and edges.
      parts: (B,) of the noise's time in [0, 1], where each is read.

    Returns:
      The (B,) squared errors, means over stages, and (B, H, W) edge maps.
    """
    of_base = self.of_base(weights.frozen)
    variables = {
      'params': weights.params['generator'],
      'batch_stats': weights.extra['batch_stats'],
    }

    def rows(stage, length):
      del stage
      return ((1.0 - parts) * (length - 1)).astype(jnp.int32)

    got = [
      self._predict(variables, s, taps, told)
      for s, (taps, told, _) in enumerate(self._read(of_base, key, batch, rows))
    ]
    wanted = self.targets(of_base, self.asked(weights.frozen, batch))
    errors = [distance(g, w) for g, w in zip(got, wanted, strict=True)]
    return jnp.stack(errors).mean(0), self.edges_of_targets(of_base, got)

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    """Returns predicted edge maps, at the parts `SHOWN` of the time in turn."""
    parts = jnp.resize(jnp.asarray(SHOWN), batch['image'].shape[:1])
    _, edges = self.predicted(weights, key, batch, parts)
    return jnp.repeat(edges[..., None], 3, axis=-1).clip(-1.0, 1.0)


def distance(got: jax.Array, target: jax.Array) -> jax.Array:
  """Returns the (B,) squared errors, summed over channels, means of places."""
  error = jnp.square(got - target.astype(got.dtype))
  return error.sum(-1).mean((1, 2))


def _detector(name: str) -> pidinet.PiDiNet:
  width, dilated = pidinet.SIZES[name]
  return pidinet.PiDiNet(width, dilated)


def has_latents(base: system_lib.System) -> bool:
  """Whether what is diffused are latents of a first stage."""
  return FIRST_STAGE in base.frozen_parts()


def _examples(levels: schedules.Levels, rows: jax.Array) -> Any:
  """Returns one level for each example; factors broadcast over states."""

  def pick(leaf):
    leaf = jnp.asarray(leaf)[rows]
    return leaf.reshape(leaf.shape[0], 1, 1, 1, *leaf.shape[1:])

  at = jax.tree.map(pick, levels)
  return dataclasses.replace(at, time=at.time.reshape(-1))


def _renewed(old: jax.Array, part: jax.Array, errors: jax.Array) -> jax.Array:
  """Returns the newest mean error in each of `PARTS` parts of the time."""
  bins = jnp.clip((part * PARTS).astype(jnp.int32), 0, PARTS - 1)
  hits = jax.nn.one_hot(bins, PARTS)
  counts = hits.sum(0)
  means = (hits * errors[:, None]).sum(0) / jnp.maximum(counts, 1)
  return jnp.where(counts > 0, means, old)


def example_condition(base: system_lib.System) -> condition_lib.Condition:
  """Returns a condition of zeros of one example, to trace with."""
  encoder = getattr(base, 'encoder', None)
  _, zeros = conditioning.init(encoder, jax.random.key(0))
  return condition_lib.Condition(context=zeros, null=zeros)


def stage_shapes(
  base: system_lib.System, taps: Sequence[str]
) -> tuple[StageShape, ...]:
  """Traces a system and returns what a predictor must know of its stages.

  Raises:
    ValueError: activations that the network does not have.
  """

  def trace(key):
    params, extra = base.init(key, {})
    parts = base.frozen_parts()
    frozen = {name: part.init(key) for name, part in parts.items()}
    weights = Weights(params=params, frozen=frozen, extra=extra)
    size, found = base.image_size, []
    state: list[jax.Array] = []
    condition = example_condition(base)
    for stage in base.stages(weights, condition, (1, size, size)):
      (levels, denoise), *_ = stage.spans
      x, context = stage.enter(state, jnp.zeros)
      level = solvers.row(jax.tree.map(jnp.asarray, levels), 0)
      prediction = denoise(x, level, context, True, taps=taps)
      found.append((x, [prediction.taps[name] for name in taps]))
      state = stage.leave(state, x, prediction.x0, context)
    return found

  return tuple(
    StageShape(state=x.shape, taps=tuple(read))
    for x, read in jax.eval_shape(trace, jax.random.key(0))
  )


def create(config: ConfigDict) -> Sketch:
  """Builds the system of a config.

  Reads the config of the base.

  Raises:
    ValueError: a field that does not fit the others or the base.
    OSError: the base has no config.
  """
  c = config.sketch
  of_base = _base_config(config)
  base = systems.create(_sampled(config, of_base))
  dense = systems.create(_dense(of_base, base))
  taps = tuple(c.taps)
  try:
    shapes = stage_shapes(dense, taps)
  except TypeError as error:
    raise ValueError(
      f'the system {of_base.system.name!r} of config.sketch.base has no named'
      f' activations: {error}'
    ) from error
  return Sketch(
    base=base,
    dense=dense,
    base_path=c.base,
    taps=taps,
    shapes=shapes,
    predictors=_predictors(config, base, shapes),
    target_space=c.target_space,
    edges=c.edges,
    edge_weights=c.edge_weights,
    classes=config.condition.map_classes,
    beta=_per_stage(c.beta, len(shapes)),
    stop_fraction=_per_stage(c.stop_fraction, len(shapes)),
    norm_ref=c.norm_ref,
  )


def _per_stage(values: Sequence[float], count: int) -> tuple[float, ...]:
  """Returns one value for each stage; the last serves the rest."""
  return tuple(values[min(s, len(values) - 1)] for s in range(count))


def _predictors(
  config: ConfigDict, base: system_lib.System, shapes: Sequence[StageShape]
) -> tuple[edge_predictor.EdgePredictor, ...]:
  c = config.sketch

  def channels(shape: StageShape) -> int:
    if not has_latents(base):
      return 1
    if c.target_space == 'latent':
      return shape.state[-1]
    return (base.image_size // shape.state[1]) ** 2

  def build(
    outs: Sequence[int], patches: Sequence[int]
  ) -> edge_predictor.EdgePredictor:
    return edge_predictor.EdgePredictor(
      out_channels=tuple(outs),
      hidden=tuple(c.hidden),
      octaves=c.octaves,
      noise_input=c.noise_input,
      tap_norm=c.tap_norm,
      patches=tuple(patches),
      head=c.head,
    )

  outs = [channels(shape) for shape in shapes]
  patches = _patches(base, len(shapes))
  if c.shared:
    return (build(outs, patches),)
  return tuple(
    build([out], [patch]) for out, patch in zip(outs, patches, strict=True)
  )


def _patches(base: system_lib.System, count: int) -> tuple[int, ...]:
  """Returns the sides of the squares that the base's networks see as one."""
  if isinstance(base, ladm.LaDM):
    return base.networks.cells
  if isinstance(base, latent_diffit.LatentDiffiT):
    return (base.network.patch_size,) * count
  if isinstance(base, diffit.DiffiT):
    return (base.network.stem_stride,) * count
  return (1,) * count


def _base_config(config: ConfigDict) -> ConfigDict:
  """Reads the config of the base, and refuses one of other conditions."""
  path = config.sketch.base
  if not path:
    raise ValueError(
      'config.sketch.base is not set: the workdir of the trained system whose'
      ' activations are read'
    )
  file = pathlib.Path(path) / 'config.json'
  if not file.is_file():
    raise FileNotFoundError(f'missing: {file} (config.sketch.base)')
  of_base = config_lib.from_json(file.read_text())
  if of_base.system.name in ('autoencoder', 'sketch'):
    raise ValueError(
      f'config.sketch.base is {path}, a run of the system'
      f' {of_base.system.name!r}, which nothing can be sampled from by itself'
    )
  mine, theirs = config_lib.flatten(config), config_lib.flatten(of_base)
  for name in _SHARED:
    if mine[name] != theirs[name]:
      raise ValueError(
        f'config.{name} is {mine[name]!r}, must be {theirs[name]!r} as in'
        f' config.sketch.base = {path}'
      )
  return of_base


def _sampled(config: ConfigDict, of_base: ConfigDict) -> ConfigDict:
  """Returns the base's config with the fields of sampling of this one."""
  changed = _copy(of_base)
  with changed.unlocked():
    changed.sample = config.sample
    changed.attention = config.attention
    changed.remat = config.remat or of_base.remat
  if tuple(config.sample.windows) != (0, 0):
    raise ValueError(
      f'config.sample.windows is {tuple(config.sample.windows)}, must be'
      ' (0, 0) with a sketch'
    )
  return changed


def _dense(of_base: ConfigDict, base: system_lib.System) -> ConfigDict:
  """Returns the base's config without guidance and with all its levels."""
  changed = _copy(of_base)
  has_chain = hasattr(base, 'chain')
  with changed.unlocked():
    sample = changed.sample
    sample.guidance, sample.windows = 1.0, (0, 0)
    sample.steps = _CONTINUOUS_LEVELS
    if has_chain:
      sample.solver, sample.spacing = 'ddpm', 'auto'
      sample.steps = of_base.diffusion.timesteps
      sample.eta, sample.temperature = 0.0, 1.0
  return changed


def _copy(config: ConfigDict) -> ConfigDict:
  return config_lib.from_json(config_lib.to_json(config))
