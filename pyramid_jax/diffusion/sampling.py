"""The coarse-to-fine loop: the one sampler of every system."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers


# shape -> standard normal
Normal = Callable[[tuple[int, ...]], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One step from coarse to fine.

  `state` is the list of finished scales, coarse to fine, each at its own grid.

  Attributes:
    spans: (levels, denoise) pairs, scanned in turn with the solver's carry
      kept; `denoise(x, level, context, first) -> Prediction`, guidance inside.
      That of a network alone also takes `taps`, names of activations that
      the prediction then has.
    enter: (state, normal) -> (x, context); `normal(shape)` is the stage's
      initial noise, of which x has `levels.initial_std` times as much;
      `context` is all that does not depend on the level.
    leave: (state, x, x0, context) -> state with this stage's scale finished;
      x0 is the clean prediction of the last step.
    before: (x, level, draw) -> x, changes the state in front of each step;
      `draw()` is noise of its own. None leaves it as it is.
    after: (x_next, x, prediction, mean, ends) -> x_next, changes the state that
      a step led to from x: prediction is what the step's first call gave, mean
      is x_next without noise that the step drew, ends are the levels of x and
      of x_next. None leaves it as it is.
    halves: of a stage with classifier-free guidance: its two halves apart.
  """

  spans: tuple[tuple[schedules.Levels, Callable[..., Any]], ...]
  enter: Callable[[list[jax.Array], Normal], tuple[jax.Array, Any]]
  leave: Callable[[list[jax.Array], jax.Array, jax.Array, Any], list[jax.Array]]
  before: Callable[..., jax.Array] | None = None
  after: Callable[..., jax.Array] | None = None
  halves: 'Halves | None' = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves:
  """The two network calls of a guided stage, for who treats one otherwise.

  Attributes:
    cond: the stage of the condition alone.
    null: the stage of the null condition alone.
    spans: for each span of the guided stage the index of the span of `cond`
      and `null` that serves it, and (cond, null, level) -> Prediction, what
      guidance makes of both predictions; None where the condition is alone.
  """

  cond: Stage
  null: Stage
  spans: tuple[tuple[int, Callable[..., Any] | None], ...]


@flax.struct.dataclass
class Noise:
  """The randomness of a sampling run: a key, or recorded arrays.

  Attributes:
    key: typed key, or None when recorded.
    initial: recorded initial noise, one array a stage.
    steps: recorded noise of the steps, one (S, ...) array a stage.
    before: recorded noise of `Stage.before`, one (S, ...) array a stage.
  """

  key: jax.Array | None = None
  initial: tuple[jax.Array, ...] = ()
  steps: tuple[jax.Array, ...] = ()
  before: tuple[jax.Array, ...] = ()

  @classmethod
  def from_key(cls, key: jax.Array) -> 'Noise':
    """Draws everything from one typed key."""
    return cls(key=key)

  @classmethod
  def recorded(
    cls,
    initial: Sequence[jax.Array],
    steps: Sequence[jax.Array] = (),
    before: Sequence[jax.Array] = (),
  ) -> 'Noise':
    """Replays recorded noise; what nothing draws from may be empty."""
    return cls(initial=tuple(initial), steps=tuple(steps), before=tuple(before))

  def start(self, stage: int) -> Normal:
    """Returns the initial noise of a stage, by shape."""
    if self.key is None:
      return lambda shape: jnp.broadcast_to(self.initial[stage], shape)
    key = jax.random.fold_in(self.key, 2 * stage)
    return lambda shape: jax.random.normal(key, shape)

  def per_step(
    self, stage: int, count: int, shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array]:
    """Returns `count` rows of the steps and of `before`; see `draw`."""
    if self.key is None:
      rows = (count, *shape)
      return (
        _recorded(self.steps, stage, rows),
        _recorded(self.before, stage, rows),
      )
    key = jax.random.fold_in(self.key, 2 * stage + 1)
    keys = jax.random.split(key, count)
    return keys, jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)

  def draw(self, row: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Turns one row of `per_step` into noise of a shape."""
    if self.key is None:
      return jnp.broadcast_to(row, shape)
    return jax.random.normal(row, shape)


def _recorded(
  arrays: Sequence[jax.Array], stage: int, shape: tuple[int, ...]
) -> jax.Array:
  """Returns the rows of a stage, zeros where nothing was recorded."""
  if not arrays:
    return jnp.zeros(shape[:1])
  if arrays[stage].shape != shape:
    raise ValueError(
      f'recorded noise of stage {stage} has shape'
      f' {arrays[stage].shape}, needed is {shape}'
    )
  return arrays[stage]


@flax.struct.dataclass
class Trace:
  """Every step of a stage: x after it and its clean prediction, (S, B, ...)."""

  x: jax.Array
  x0: jax.Array


def run(
  stages: Sequence[Stage],
  solver: solvers.Solver,
  noise: Noise,
  *,
  start: Sequence[jax.Array] = (),
  first: int = 0,
  last: int | None = None,
  trace: bool = False,
) -> Any:
  """Samples coarse to fine; to be called under `jax.jit`.

  The stages are unrolled (their shapes differ), the levels of each are one
  `lax.scan`, so compile time does not grow with the number of steps.

  Args:
    stages: coarse to fine.
    solver: one step.
    noise: drawn or recorded.
    start: the finished scales that `first` builds on.
    first: the first stage to run.
    last: the last stage to run, None for the finest.
    trace: also return every step.

  Returns:
    The list of finished scales, coarse to fine; with `trace` a pair of it and
    a list of `Trace`, one a stage that ran.

  Raises:
    ValueError: `start` does not hold `first` scales, or `last` is no stage.
  """
  last = len(stages) - 1 if last is None else last
  if len(start) != first:
    raise ValueError(
      f'starting at stage {first} needs {first} finished scales,'
      f' got {len(start)}'
    )
  if not first <= last < len(stages):
    raise ValueError(
      f'the last stage is {last}, allowed are {first}..{len(stages) - 1}'
    )
  state, traces = list(start), []
  for index in range(first, last + 1):
    state, steps = _run_stage(stages[index], index, solver, noise, state, trace)
    traces.append(steps)
  return (state, traces) if trace else state


def _run_stage(
  stage: Stage,
  index: int,
  solver: solvers.Solver,
  noise: Noise,
  state: list[jax.Array],
  trace: bool,
) -> tuple[list[jax.Array], Trace | None]:
  """Runs one stage; returns the new state and, if asked, its steps."""
  x, context = stage.enter(state, noise.start(index))
  total = sum(levels.time.shape[0] - 1 for levels, _ in stage.spans)
  rows = noise.per_step(index, total, x.shape)
  if stage.before and noise.key is None and not noise.before:
    raise ValueError(f'stage {index} needs recorded noise before its steps')

  def before(x, level, rows):
    if stage.before is None:
      return x
    return stage.before(x, level, lambda: noise.draw(rows[1], x.shape))

  carry: Any = None
  taken, outputs = 0, []
  for levels, denoise in stage.spans:
    call = _FirstCall(denoise, context)

    def step(carry, scanned, call=call):
      level, next_level, rows = scanned
      draw = lambda: noise.draw(rows[0], x.shape)
      carry = carry.replace(x=before(carry.x, level, rows))
      moved = solver.step(carry, call, level, next_level, draw)
      ends = level, next_level
      carry = _finished(stage, carry.x, moved, call, ends)
      return carry, (carry.x, carry.prediction.x0) if trace else None

    done = 0
    if carry is None:
      begin = before(x, solvers.row(levels, 0), solvers.row(rows, 0))
      carry, done = solver.init(begin, call, levels)
      if not done:  # the first step is scanned, with its own change
        carry = carry.replace(x=x)
      else:
        ends = solvers.row(levels, 0), solvers.row(levels, done)
        carry = _finished(stage, begin, carry, call, ends)
      if done and trace:
        outputs.append((carry.x[None], carry.prediction.x0[None]))
    count = levels.time.shape[0] - 1
    scanned = (
      solvers.row(levels, slice(done, -1)),
      solvers.row(levels, slice(done + 1, None)),
      solvers.row(rows, slice(taken + done, taken + count)),
    )
    carry, out = jax.lax.scan(step, carry, scanned)
    outputs.append(out)
    taken += count
  state = stage.leave(state, carry.x, carry.prediction.x0, context)
  if not trace:
    return state, None
  xs, x0s = (jnp.concatenate(o) for o in zip(*outputs, strict=True))
  return state, Trace(x=xs, x0=x0s)


class _FirstCall:
  """A denoiser as solvers see it, which keeps what its first call gave.

  Attributes:
    prediction: of the first call of the step that was traced last.
  """

  prediction: solvers.Prediction

  def __init__(self, denoise: Callable[..., Any], context: Any):
    self._denoise = denoise
    self._context = context

  def __call__(self, x, level, first) -> solvers.Prediction:
    prediction = self._denoise(x, level, self._context, first)
    if first:
      self.prediction = prediction
    return prediction.replace(gradient=None)


def _finished(
  stage: Stage,
  x: jax.Array,
  carry: Any,
  call: _FirstCall,
  ends: tuple[solvers.Levels, solvers.Levels],
) -> Any:
  """Applies `Stage.after`, and leaves out what is for the step alone."""
  x_next = carry.x
  if stage.after is not None:
    mean = x_next if carry.mean is None else carry.mean
    x_next = stage.after(x_next, x, call.prediction, mean, ends)
  prediction = carry.prediction.replace(variance=None)
  return carry.replace(x=x_next, prediction=prediction, mean=None)
