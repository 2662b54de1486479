"""The coarse-to-fine loop: the one sampler of every system."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pyramid_jax import placement
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion.solvers import base as solver_lib


Levels = levels_lib.Levels
# shape -> standard normal
Normal = Callable[[tuple[int, ...]], jax.Array]
# (x, level, context, first) -> Prediction. The denoiser of one network also
# takes `features`, the names of activations that the prediction will have.
Denoiser = Callable[..., Any]
# (step, context) -> step: changes the state before or after a step, or the
# calls of the denoiser within it. The noise of the inputs is a `StepNoise`.
Around = Callable[[solver_lib.Step, Any], solver_lib.Step]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
  """Steps of a stage that are all alike.

  Attributes:
    levels: the noise levels, one row more than steps.
    denoise: the denoiser, guidance inside.
    around: functions around each step, the innermost first.
  """

  levels: Levels
  denoise: Denoiser
  around: tuple[Around, ...] = ()

  @property
  def steps(self) -> int:
    return levels_lib.count(self.levels)

  def part(self, first: int, last: int) -> 'Segment':
    """Returns the steps first .. last - 1."""
    rows = levels_lib.row(self.levels, slice(first, last + 1))
    return dataclasses.replace(self, levels=rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One step from coarse to fine.

  `state` is the list of finished scales, coarse to fine, each at its own grid.

  Attributes:
    segments: scanned in turn; the solver's carry goes from one to the next.
    enter: (state, normal) -> (x, context); `normal(shape)` is the stage's
      initial noise, which x has `levels.initial_std` times; `context` is all
      that does not depend on the level.
    leave: (state, x, x0, context) -> state with this stage's scale finished;
      x0 is the clean prediction of the last step.
  """

  segments: tuple[Segment, ...]
  enter: Callable[[list[jax.Array], Normal], tuple[jax.Array, Any]]
  leave: Callable[[list[jax.Array], jax.Array, jax.Array, Any], list[jax.Array]]

  @property
  def steps(self) -> int:
    return sum(segment.steps for segment in self.segments)

  def part(self, first: int, last: int) -> tuple[Segment, ...]:
    """Returns the segments of the steps first .. last - 1."""
    parts, begin = [], 0
    for segment in self.segments:
      a, b = max(first - begin, 0), min(last - begin, segment.steps)
      if a < b:
        parts.append(segment.part(a, b))
      begin += segment.steps
    return tuple(parts)


@flax.struct.dataclass
class Noise:
  """The randomness of a sampling run: a key for each image, or recorded arrays.

  Attributes:
    keys: (B,) typed keys, or None when recorded.
    initial: recorded initial noise, an array of each stage.
    steps: recorded noise of the steps, an (S, ...) array of each stage.
    known: recorded noise of what a mask keeps, an (S, ...) array of each stage.
  """

  keys: jax.Array | None = None
  initial: tuple[jax.Array, ...] = ()
  steps: tuple[jax.Array, ...] = ()
  known: tuple[jax.Array, ...] = ()

  @classmethod
  def from_keys(cls, keys: jax.Array) -> 'Noise':
    """Draws the noise of B images from their typed keys (B,)."""
    return cls(keys=keys)

  @classmethod
  def recorded(
    cls,
    initial: Sequence[jax.Array],
    steps: Sequence[jax.Array] = (),
    known: Sequence[jax.Array] = (),
  ) -> 'Noise':
    """Replays recorded noise; noise that is not drawn may be empty."""
    return cls(initial=tuple(initial), steps=tuple(steps), known=tuple(known))

  def start(self, stage: int) -> Normal:
    """Returns the initial noise of a stage, by shape."""
    if self.keys is None:
      return lambda shape: jnp.broadcast_to(self.initial[stage], shape)
    keys = _folded(self.keys, 2 * stage)
    return lambda shape: _normal(keys, shape)

  def rows(self, stage: int, count: int, shape: tuple[int, ...]) -> Any:
    """Returns a row for `at` of each of `count` steps of a stage."""
    if self.keys is not None:
      return jnp.arange(count)
    shape = count, *shape
    return tuple(_recorded(a, stage, shape) for a in (self.steps, self.known))

  def at(self, stage: int, row: Any, shape: tuple[int, ...]) -> 'StepNoise':
    """Returns the noise of a step, given its row and the state's shape."""
    if self.keys is None:
      recorded = lambda index: jnp.broadcast_to(row[index], shape)
      return StepNoise(recorded, bool(self.known))
    keys = _folded(_folded(self.keys, 2 * stage + 1), row)
    return StepNoise(lambda index: _normal(_folded(keys, index), shape))


@dataclasses.dataclass(frozen=True)
class StepNoise:
  """The noise of one step; a call returns what the solver adds.

  Attributes:
    draw: index -> standard normal, independent for each index.
    has_known: whether there is `known`; recorded noise may lack it.
  """

  draw: Callable[[int], jax.Array]
  has_known: bool = True

  def __call__(self) -> jax.Array:
    return self.draw(0)

  def known(self) -> jax.Array:
    """Returns the noise of what a mask keeps."""
    return self.draw(1)


def _folded(keys: jax.Array, data: Any) -> jax.Array:
  return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def _normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws (B, ...), every image from its own key."""
  if shape[:1] != keys.shape:
    raise ValueError(f'noise of shape {shape} from {keys.shape[0]} keys')
  draw = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))
  return placement.rows(draw(keys))


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
  solver: solver_lib.Solver,
  noise: Noise,
  *,
  start: Sequence[jax.Array] = (),
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
    start: the finished scales of the first stages, which are left out.
    last: the last stage to run, None for the finest.
    trace: whether to return every step.

  Returns:
    The list of finished scales, coarse to fine; with `trace` a pair of it and
    a list of the `Trace` of each stage that ran.
  """
  last = len(stages) - 1 if last is None else last
  first = len(start)
  if not first <= last < len(stages):
    raise ValueError(
      f'the last stage is {last}, allowed are {first}..{len(stages) - 1}'
      f' with {first} finished scales'
    )
  state, traces = list(start), []
  for index in range(first, last + 1):
    state, steps = _run_stage(stages[index], index, solver, noise, state, trace)
    traces.append(steps)
  return (state, traces) if trace else state


def _run_stage(
  stage: Stage,
  index: int,
  solver: solver_lib.Solver,
  noise: Noise,
  state: list[jax.Array],
  trace: bool,
) -> tuple[list[jax.Array], Trace | None]:
  """Runs one stage; returns the new state and, if asked, its steps."""
  x, context = stage.enter(state, noise.start(index))
  x = placement.rows(x)
  rows = noise.rows(index, stage.steps, x.shape)
  carry = solver.start(x, stage.segments[0].levels)
  taken, outputs = 0, []

  def mover(segment, step):
    """Returns (carry, (level, next level, row)) -> (carry, traced)."""
    for around in segment.around:
      step = around(step, context)

    def denoise(x, level, first):
      return segment.denoise(x, level, context, first)

    def move(carry, scanned):
      level, next_level, row = scanned
      drawn = noise.at(index, row, x.shape)
      inputs = solver_lib.StepInputs(denoise, level, next_level, drawn)
      carry = step(carry, inputs)
      # What lives for one step alone is not a part of the carry.
      prediction = carry.prediction.replace(
        variance=None, gradient=None, features={}
      )
      carry = carry.replace(
        x=placement.rows(carry.x), prediction=prediction, mean=None
      )
      return carry, (carry.x, prediction.x0) if trace else None

    return move

  for segment in stage.segments:
    scanned = (
      levels_lib.row(segment.levels, slice(0, -1)),
      levels_lib.row(segment.levels, slice(1, None)),
      levels_lib.row(rows, slice(taken, taken + segment.steps)),
    )
    if not taken and solver.first_step is not None:
      move = mover(segment, solver.first_step)
      carry, out = move(carry, levels_lib.row(scanned, 0))
      outputs.append(jax.tree.map(lambda a: a[None], out))
      scanned = levels_lib.row(scanned, slice(1, None))
    carry, out = jax.lax.scan(mover(segment, solver.step), carry, scanned)
    outputs.append(out)
    taken += segment.steps
  state = stage.leave(state, carry.x, carry.prediction.x0, context)
  state = placement.rows(state)
  if not trace:
    return state, None
  xs, x0s = (jnp.concatenate(o) for o in zip(*outputs, strict=True))
  return state, Trace(x=xs, x0=x0s)
