"""The compiled program of one training step."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from clu import metrics as metrics_lib
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import optax

from pyramid_jax import placement
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs.state import TrainState
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import optimizer


Batch = Mapping[str, jax.Array]
Finish = Callable[[Batch], Batch]

# The name of the loss that is reported as `loss`.
MAIN = 'generator'
# Stream of the initial weights; the steps fold in their own number.
_INIT = 2**32 - 1


def create(system: system_lib.Trainable, config: ConfigDict) -> TrainState:
  """Returns the state before the first update; traceable."""
  key = jax.random.fold_in(system_lib.key_of(config.train.seed), _INIT)
  params, extra = system.init(key)
  tx = optimizer.create(config)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=optimizer.initial_averages(config, params, system.ema_patterns()),
    opt_state={name: tx.init(tree) for name, tree in params.items()},
    extra=extra,
  )


def check_batch(
  system: system_lib.Trainable, config: ConfigDict, mesh: Mesh
) -> None:
  """Raises a ValueError for a batch that does not divide among the devices."""
  count = config.train.accumulate
  mesh_lib.check_batch(mesh, config.train.batch_size, count)
  if isinstance(system, system_lib.Staged):
    mesh_lib.check_stages(mesh, system.stage_batch, count)


def abstract(
  create: Callable[[], TrainState], mesh: Mesh, config: ConfigDict
) -> TrainState:
  """Returns the shapes of a state, with their shardings.

  The moments of the optimizer, and averages, are split over all devices.

  Raises:
    UserError: layers that the mesh cannot split, or none that its axis `tensor`
      would.
  """
  with sharding.traced_on(mesh):
    shapes = jax.eval_shape(create)
  sharding.check_tensor(shapes.params, mesh.shape)
  return dataclasses.replace(
    sharding.abstract(shapes, mesh, config.mesh.fsdp_min_size),
    ema=updated(shapes.ema, mesh, config),
    opt_state=updated(shapes.opt_state, mesh, config),
  )


def updated(tree: Any, mesh: Mesh, config: ConfigDict) -> Any:
  """Returns the shapes of weights, or of what has their paths, in an update."""
  return sharding.abstract(tree, mesh, config.mesh.fsdp_min_size, True)


def make_measure(
  system: system_lib.Trainable, config: ConfigDict, finish: Finish, mesh: Mesh
) -> Callable[[Any, Any, Batch], Any]:
  """Returns (extra, frozen, batch) -> extra, which measures the first batch.

  It measures over the whole batch, also where a step is accumulated over
  microbatches. A system that is not `system_lib.Measuring` measures nothing.
  """
  if not isinstance(system, system_lib.Measuring):
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

  return placement.within(mesh, measure)


def _step_key(config: ConfigDict, step: jax.Array) -> jax.Array:
  return jax.random.fold_in(system_lib.key_of(config.train.seed), step)


def gradients(
  losses: Callable[[Any], tuple[Mapping[str, jax.Array], Any]], params: Any
) -> tuple[Mapping[str, jax.Array], Any, dict[str, Any]]:
  """Differentiates each loss by the parameters of its name alone.

  The forward pass that the losses share runs once: of the linear map from
  parameters to losses, one output is transposed per loss.

  Args:
    losses: params -> ({loss name: scalar}, aux).
    params: {loss name: tree}.

  Returns:
    ({loss name: scalar}, aux, {loss name: gradient}).
  """
  values, tangents, aux = jax.linearize(losses, params, has_aux=True)
  grads = {}
  for name, value in values.items():
    pull = jax.linear_transpose(lambda t, p=name: tangents(t)[p], params)
    grads[name] = pull(jnp.ones_like(value))[0][name]
  return values, aux, grads


def losses_of(
  system: system_lib.Trainable,
) -> Callable[..., tuple[dict[str, jax.Array], Any]]:
  """Returns the losses of a system as a function of its parameters.

  It is (params, frozen, extra, key, step, batch) -> ({loss name: scalar},
  (metrics by loss name, new extra)); the batch is that of `Reader.finish`.
  """

  def losses(params, frozen, extra, key, step, batch):
    weights = system_lib.Weights(params, frozen, extra)
    results, new = system.losses(weights, key, step, batch)
    values = {name: r[0] for name, r in results.items()}
    return values, ({name: r[1] for name, r in results.items()}, new)

  return losses


def _microbatches(batch: Batch, count: int, mesh: Mesh) -> Batch:
  """(B, ...) -> (count, B / count, ...); every row stays on its device."""
  rows = NamedSharding(mesh, PartitionSpec(None, placement.BATCH_AXES))

  def split(x):
    x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(x, rows)

  return {k: split(v) for k, v in batch.items()}


def _update(
  system: system_lib.Trainable,
  config: ConfigDict,
  tx: optax.GradientTransformation,
  state: TrainState,
  grads: Any,
  extra: Any,
) -> TrainState:
  """Moves all parameters, then the averages.

  They are split as the gradients are.
  """
  moved, opt_state = {}, {}
  for name, tree in state.params.items():
    updates, opt_state[name] = tx.update(
      grads[name], state.opt_state[name], tree
    )
    moved[name] = optax.apply_updates(tree, updates)
  params: system_lib.Params = moved
  if isinstance(system, system_lib.Settling):
    params, extra = system.settle(params, extra)
  count = optimizer.update_count(state.opt_state)
  return TrainState(
    step=state.step + 1,
    params=params,
    ema=optimizer.averages(config, state.ema, params, count),
    opt_state=opt_state,
    extra=extra,
  )


def _checked(
  config: ConfigDict, old: TrainState, new: TrainState, is_finite: jax.Array
) -> tuple[TrainState, jax.Array]:
  """Returns the state after a step, and whether the step is finite.

  It is if its losses and gradients are (`is_finite`) and what it would change.
  With `train.skip_nonfinite`, one that is not changes the step's number alone:
  the next has its own batch and its own key.
  """
  is_finite &= state_lib.all_finite((new.params, new.ema, new.extra))
  if not config.train.skip_nonfinite:  # The old state was donated to the new.
    return new, is_finite
  kept = dataclasses.replace(old, step=new.step)
  choose = lambda a, b: jnp.where(is_finite, a, b)
  return jax.tree.map(choose, new, kept), is_finite


def make_step(
  system: system_lib.Trainable, config: ConfigDict, finish: Finish, mesh: Mesh
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, dict[str, Any]]]:
  """Returns the pure function (state, frozen, batch) -> (state, metrics).

  The metrics are float32 scalars: `loss` (of the generator), `grad_norm`,
  `learning_rate`, `finite` (1 if all losses, gradients and updated values
  are), and the metrics of the system; names of another loss begin with
  'loss name/'. With `train.skip_nonfinite`, steps that are not finite leave the
  weights as they are, and `skipped` counts them.
  """
  count = config.train.accumulate
  losses = losses_of(system)
  # Splits what an update reads and writes as its moments are.
  size = config.mesh.fsdp_min_size
  shared = lambda tree: sharding.constrained(tree, mesh, size, over_all=True)
  places = lambda tree: sharding.shardings(tree, mesh, size, over_all=True)
  tx = optimizer.create(config, places if mesh.size > 1 else None)

  def micro(params, *rest):
    *others, batch = rest
    inputs = (*others, finish(batch))
    values, (reported, new), grads = gradients(
      lambda params: losses(params, *inputs), params
    )
    return shared(grads), _flat_metrics(values, reported), new

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
      # NVlabs/edm: training_loop.py.
      bounded = lambda x: jnp.nan_to_num(x, nan=0.0, posinf=1e5, neginf=-1e5)
      grads = jax.tree.map(bounded, grads)
    finite = jnp.ones((), bool)
    for name, grad in grads.items():
      prefix, norm = _prefix(name, grads), optax.tree.norm(grad)
      metrics[f'{prefix}grad_norm'] = norm
      finite &= jnp.isfinite(norm) & jnp.isfinite(metrics[f'{prefix}loss'])
    updates = optimizer.update_count(state.opt_state)
    metrics['learning_rate'] = optimizer.learning_rate(config, updates)
    old = dataclasses.replace(state, params=shared(state.params))
    new = _update(system, config, tx, old, grads, extra)
    new, metrics['finite'] = _checked(config, old, new, finite)
    if config.train.skip_nonfinite:
      metrics['skipped'] = new.step - optimizer.update_count(new.opt_state)
    metrics = {k: v.astype(jnp.float32) for k, v in metrics.items()}
    return new, metrics

  return placement.within(mesh, step)


def _accumulate(one, extra, key, batches, count):
  """Averages gradients and metrics over microbatches, one at a time."""

  def body(carry, item):
    index, batch = item
    extra, total = carry
    grads, values, extra = one(extra, jax.random.fold_in(key, index), batch)
    averages = jax.tree.map(metrics_lib.Average.from_model_output, values)
    return (extra, jax.tree.map(jnp.add, total, grads)), averages

  first = jax.tree.map(lambda x: x[0], batches)
  shapes = jax.eval_shape(one, extra, key, first)[0]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  items = (jnp.arange(count), batches)
  (extra, total), averages = jax.lax.scan(body, (extra, zeros), items)
  grads = jax.tree.map(lambda x: x / count, total)
  return grads, {k: m.reduce().compute() for k, m in averages.items()}, extra


def _prefix(name: str, names: Mapping[str, Any]) -> str:
  main = MAIN if MAIN in names else min(names)
  return '' if name == main else f'{name}/'


def _flat_metrics(values, reported) -> dict[str, jax.Array]:
  flat = {}
  for name, value in values.items():
    for key, metric in {**reported[name], 'loss': value}.items():
      flat[_prefix(name, values) + key] = jnp.asarray(metric, jnp.float32)
  return flat


def compile_step(
  step: Callable[..., Any],
  mesh: Mesh,
  state: Any,
  frozen: Any,
  batch: Any,
  options: flags.Options | None = None,
) -> jax.stages.Compiled:
  """Compiles a step of `make_step`; see `trace_step`.

  Args:
    step: of `make_step`.
    mesh: over which the batch is split.
    state: abstract, with shardings (`sharding.abstract`).
    frozen: pretrained weights, abstract too.
    batch: arrays, or abstract ones.
    options: of the compiler; None for none.
  """
  lowered = trace_step(step, mesh, state, frozen, batch).lower()
  return lowered.compile(flags.for_jax(options or {}))


def trace_step(
  step: Callable[..., Any], mesh: Mesh, state: Any, frozen: Any, batch: Any
) -> jax.stages.Traced:
  """Returns the program of `compile_step`, which donates its state."""
  shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, frozen))
  jitted = jax.jit(
    step,
    in_shardings=(*shardings, mesh_lib.batch_sharding(mesh)),
    out_shardings=(shardings[0], mesh_lib.replicated(mesh)),
    donate_argnums=0,
  )
  return jitted.trace(state, frozen, batch)
