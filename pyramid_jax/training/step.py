"""The state of a training run and the one program that moves it a step."""

from collections.abc import Callable
from collections.abc import Mapping
import math
import re
from typing import Any

from flax import traverse_util
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import optax
import optax.contrib

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.systems import measuring
from pyramid_jax.systems import system as system_lib


Batch = Mapping[str, jax.Array]
Finish = Callable[[Batch], Batch]
Optimizers = Mapping[str, optax.GradientTransformation]

# Of an update of Muon, as large as one of Adam (arXiv:2502.16982).
MUON_RMS = 0.2
# The player whose total is reported as `loss`.
MAIN = 'generator'
# Stream of the initial weights; the steps fold in their own number.
_INIT = 2**32 - 1


@flax.struct.dataclass
class TrainState:
  """All that a run needs to go on; no random key, that follows from `step`.

  Attributes:
    step: () int32, finished updates.
    params: {player: tree}, float32.
    ema: the averaged part of `params`, the same nested dicts pruned.
    opt_state: {player: optimizer state}.
    extra: the untrained state of the system.
  """

  step: jax.Array
  params: Any
  ema: Any
  opt_state: Any
  extra: Any


def learning_rate(config: ConfigDict, count: jax.Array) -> jax.Array:
  """Returns the rate of the update after `count` finished ones.

  Linear warm-up over `train.warmup_steps`, then constant, or a cosine that
  ends at zero after `train.decay_steps` updates in all. Independent of
  `train.steps`, so that a lengthened run repeats its past.
  """
  train = config.train
  rate = jnp.asarray(train.learning_rate, jnp.float32)
  if train.warmup_steps:
    rate *= jnp.minimum(1.0, (count + 1) / train.warmup_steps)
  if train.decay_steps:
    length = max(1, train.decay_steps - train.warmup_steps)
    part = jnp.clip((count - train.warmup_steps) / length, 0.0, 1.0)
    rate *= 0.5 * (1.0 + jnp.cos(math.pi * part))
  return rate


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Returns the optimizer of one player.

  Raises:
    ValueError: unknown `config.optimizer.name`.
  """
  c = config.optimizer
  moments = {'b1': c.b1, 'b2': c.b2, 'eps': c.eps}

  def rate(count):
    return learning_rate(config, count)

  if c.name == 'adam':
    tx = optax.adam(rate, **moments)
  elif c.name == 'adamw':
    tx = optax.adamw(rate, weight_decay=c.weight_decay, **moments)
  elif c.name == 'muon':
    tx = optax.contrib.muon(
      rate,
      eps=c.eps,
      weight_decay=c.weight_decay,
      adam_b1=c.b1,
      adam_b2=c.b2,
      adam_weight_decay=c.weight_decay,
      muon_weight_dimension_numbers=_matrices,
      consistent_rms=MUON_RMS,
    )
  else:
    raise ValueError(
      f'config.optimizer.name is {c.name!r}, must be adam, adamw or muon.'
    )
  if config.train.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.train.clip_norm), tx)
  return tx


def _matrices(params: Any) -> Any:
  """Says which weights Muon takes for matrices: all kernels.

  A convolution's kernel is a matrix from its window to the output channels;
  the first of three axes counts layers that are scanned. The rest (biases,
  norms, embeddings, codebooks) is left to Adam.
  """

  def numbers(path, leaf):
    if path[-1].key != 'kernel' or leaf.ndim not in (2, 3, 4):
      return None
    first = 1 if leaf.ndim == 3 else 0
    return optax.contrib.MuonDimensionNumbers(
      tuple(range(first, leaf.ndim - 1)), leaf.ndim - 1
    )

  return jax.tree_util.tree_map_with_path(numbers, params)


def prune(params: Any, patterns: list[str]) -> Any:
  """Returns the part of a nested dict whose 'player/path' names match."""
  return traverse_util.unflatten_dict(
    {
      path: leaf
      for path, leaf in traverse_util.flatten_dict(params).items()
      if any(re.fullmatch(p, '/'.join(path)) for p in patterns)
    }
  )


def averaged(params: Any, ema: Any) -> Any:
  """Returns `params` with the averages where there are some."""
  leaves = traverse_util.flatten_dict(params)
  return traverse_util.unflatten_dict(leaves | traverse_util.flatten_dict(ema))


def ema_decay(config: ConfigDict, updates: jax.Array) -> jax.Array:
  """Returns the weight of the old average in update n, counting from 1.

  It is min(decay, (1 + n) / (10 + n)), the rule of LDM and Frido
  (davidhalladay/Frido: frido/modules/ema.py), or follows from a half-life in
  images that grows with those seen before (EDM, NVlabs/edm:
  training/training_loop.py): the first update then keeps nothing.
  """
  n = jnp.asarray(updates, jnp.float32)
  if config.ema.halflife_images:
    batch = config.train.batch_size
    seen = (n - 1.0) * batch
    life = jnp.minimum(
      config.ema.halflife_images, config.ema.halflife_rampup * seen
    )
    return 0.5 ** (batch / jnp.maximum(life, 1e-8))
  return jnp.minimum(config.ema.decay, (1.0 + n) / (10.0 + n))


def create(
  system: system_lib.Trainable, config: ConfigDict, finish: Finish, batch: Batch
) -> TrainState:
  """Returns the state before the first update; traceable.

  Args:
    system: what is trained.
    config: a whole config.
    finish: `Reader.finish`.
    batch: a batch of the reader, for its shapes.
  """
  key = jax.random.fold_in(jax.random.key(config.train.seed), _INIT)
  params, extra = system.init(key, finish(batch))
  tx = optimizer(config)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy: a donated buffer may not stand in two places.
    ema=jax.tree.map(jnp.copy, prune(params, system.ema_patterns())),
    opt_state={player: tx.init(tree) for player, tree in params.items()},
    extra=extra,
  )


def make_measure(
  system: system_lib.Trainable, config: ConfigDict, finish: Finish, mesh: Mesh
) -> Callable[[Any, Any, Batch], Any]:
  """Returns the pure function that measures the first batch.

  What is measured is that of the whole batch, also where a step goes by
  microbatches. A system that is not `measuring.Measuring` measures nothing.

  Args:
    system: what is trained.
    config: a whole config.
    finish: `Reader.finish`.
    mesh: the devices of the batch.

  Returns:
    (extra, frozen, batch) -> extra, before the first step.
  """
  if not isinstance(system, measuring.Measuring):
    return lambda extra, frozen, batch: extra
  count = config.train.accumulate

  def measure(extra, frozen, batch):
    key = _step_key(config, jnp.zeros((), jnp.int32))

    def over(key, function):
      def one(index, part):
        def normal(shape):
          whole = jax.random.normal(key, (count * shape[0], *shape[1:]))
          return _microbatches({'x': whole}, count, mesh)['x'][index]

        return function(finish(part), normal)

      parts = _microbatches(batch, count, mesh)
      if count == 1:
        part = jax.tree.map(lambda x: x[0], parts)
        return jax.tree.map(lambda x: x[None], one(0, part))
      return jax.lax.map(lambda item: one(*item), (jnp.arange(count), parts))

    return system.measure(frozen, extra, key, over)

  return measure


def _step_key(config: ConfigDict, step: jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.key(config.train.seed), step)


def gradients(
  losses: Callable[[Any], tuple[Mapping[str, jax.Array], Any]], params: Any
) -> tuple[Mapping[str, jax.Array], Any, dict[str, Any]]:
  """Differentiates each player's loss by that player's parameters alone.

  The losses are traced once; of the linear map from parameters to losses one
  output is transposed per player, and what belongs to the others' parameters
  is dead code. So the forward pass that the players share runs once.

  Args:
    losses: params -> ({player: scalar}, aux).
    params: {player: tree}.

  Returns:
    ({player: scalar}, aux, {player: gradient}).
  """
  values, tangents, aux = jax.linearize(losses, params, has_aux=True)
  grads = {}
  for player, value in values.items():
    pull = jax.linear_transpose(lambda t, p=player: tangents(t)[p], params)
    grads[player] = pull(jnp.ones_like(value))[0][player]
  return values, aux, grads


def _microbatches(batch: Batch, count: int, mesh: Mesh) -> Batch:
  """(B, ...) -> (count, B / count, ...); every row stays on its device."""
  sharding = NamedSharding(mesh, PartitionSpec(None, mesh_lib.BATCH_AXES))

  def split(x):
    x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(x, sharding)

  return {k: split(v) for k, v in batch.items()}


def _update(
  config: ConfigDict, state: TrainState, grads: Any, extra: Any
) -> TrainState:
  """Moves every player, then the averages."""
  tx = optimizer(config)
  params, opt_state = {}, {}
  for player, tree in state.params.items():
    updates, opt_state[player] = tx.update(
      grads[player], state.opt_state[player], tree
    )
    params[player] = optax.apply_updates(tree, updates)
  rest = 1.0 - ema_decay(config, state.step + 1)
  flat = traverse_util.flatten_dict(params)
  ema = {
    path: mean - rest * (mean - flat[path])
    for path, mean in traverse_util.flatten_dict(state.ema).items()
  }
  return TrainState(
    step=state.step + 1,
    params=params,
    ema=traverse_util.unflatten_dict(ema),
    opt_state=opt_state,
    extra=extra,
  )


def make_step(
  system: system_lib.Trainable, config: ConfigDict, finish: Finish, mesh: Mesh
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, Any]]]:
  """Returns the pure function of one update.

  Args:
    system: what is trained.
    config: a whole config.
    finish: `Reader.finish`.
    mesh: the devices of the batch.

  Returns:
    (state, frozen, batch) -> (state, metrics). The metrics are float32
    scalars: `loss` (of the generator), `grad_norm`, `learning_rate`, `finite`
    (1 if all losses and gradients are), and what the system reports; names of
    another player begin with 'player/'.
  """
  count = config.train.accumulate

  def micro(params, frozen, extra, key, step, batch):
    batch = finish(batch)

    def losses(params):
      results, new = system.losses(params, frozen, extra, key, step, batch)
      values = {player: r[0] for player, r in results.items()}
      return values, ({player: r[1] for player, r in results.items()}, new)

    values, (reported, new), grads = gradients(losses, params)
    return grads, _flat_metrics(values, reported), new

  def step(state: TrainState, frozen: Any, batch: Batch):
    key = _step_key(config, state.step)

    def one(extra, key, batch):
      return micro(state.params, frozen, extra, key, state.step, batch)

    if count == 1:
      grads, metrics, extra = one(state.extra, key, batch)
    else:
      grads, metrics, extra = _accumulate(
        one, state.extra, key, _microbatches(batch, count, mesh), count
      )
    if config.optimizer.nan_to_zero:
      grads = jax.tree.map(_without_nan, grads)
    finite = jnp.ones((), bool)
    for player, grad in grads.items():
      norm = optax.tree.norm(grad)
      metrics[f'{_prefix(player, grads)}grad_norm'] = norm
      loss = metrics[f'{_prefix(player, grads)}loss']
      finite &= jnp.isfinite(norm) & jnp.isfinite(loss)
    metrics['learning_rate'] = learning_rate(config, state.step)
    metrics['finite'] = finite
    metrics = {k: v.astype(jnp.float32) for k, v in metrics.items()}
    return _update(config, state, grads, extra), metrics

  return step


def _without_nan(grad: jax.Array) -> jax.Array:
  """Makes NaN 0 and bounds the infinite (NVlabs/edm: training_loop.py)."""
  return jnp.nan_to_num(grad, nan=0.0, posinf=1e5, neginf=-1e5)


def _accumulate(one, extra, key, batches, count):
  """Averages gradients and metrics over microbatches, one at a time."""

  def body(carry, item):
    index, batch = item
    extra, *sums = carry
    *new, extra = one(extra, jax.random.fold_in(key, index), batch)
    return (extra, *jax.tree.map(jnp.add, sums, new)), None

  first = jax.tree.map(lambda x: x[0], batches)
  shapes = jax.eval_shape(one, extra, key, first)[:2]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  carry, _ = jax.lax.scan(body, (extra, *zeros), (jnp.arange(count), batches))
  extra, *sums = carry
  grads, metrics = jax.tree.map(lambda x: x / count, sums)
  return grads, metrics, extra


def _prefix(player: str, players: Mapping[str, Any]) -> str:
  main = MAIN if MAIN in players else min(players)
  return '' if player == main else f'{player}/'


def _flat_metrics(values, reported) -> dict[str, jax.Array]:
  metrics = {}
  for player, value in values.items():
    prefix = _prefix(player, values)
    for name, metric in reported[player].items():
      metrics[prefix + name] = jnp.asarray(metric, jnp.float32)
    metrics[f'{prefix}loss'] = jnp.asarray(value, jnp.float32)
  return metrics


def compile_step(
  step: Callable[..., Any], mesh: Mesh, state: Any, frozen: Any, batch: Any
) -> jax.stages.Compiled:
  """Compiles a step of `make_step` with explicit shardings.

  Args:
    step: the pure function.
    mesh: the devices.
    state: abstract, with shardings (`sharding.abstract`).
    frozen: likewise.
    batch: abstract; split over the mesh.

  Returns:
    The program; it consumes (donates) the state that it is given.
  """
  shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, frozen))
  jitted = jax.jit(
    step,
    in_shardings=(*shardings, mesh_lib.batch_sharding(mesh)),
    out_shardings=(shardings[0], mesh_lib.replicated(mesh)),
    donate_argnums=0,
  )
  return jitted.lower(state, frozen, batch).compile()
