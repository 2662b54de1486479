"""What a system is to the trainer and to the sampler."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import flax.struct
import jax
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import pretrained


Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, jax.Array]


@flax.struct.dataclass
class Weights:
  """Everything that a system needs to be run.

  Attributes:
    params: {player: tree}, the trained weights (EMA where it is averaged).
    frozen: {part: tree}, the weights of `System.frozen_parts`.
    extra: the untrained state: batch statistics, the measured latent scale.
  """

  params: Params
  frozen: Params
  extra: Params


@flax.struct.dataclass
class Edit:
  """A picture to begin with, instead of noise.

  Attributes:
    image: (B, H, W, 3) in [-1, 1].
    mask: (B, H, W), not 0 where the picture is painted anew; None: all of it
      may change.
    strength: in (0, 1], the share of the steps that are taken; the picture
      is noised to the level where they begin.
  """

  image: jax.Array
  mask: jax.Array | None = None
  strength: float = flax.struct.field(pytree_node=False, default=1.0)


class System(Protocol):
  """One paper: which parts, which loss, which stages.

  Built once from the config by `systems.create(config)`; holds no arrays.
  """

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Returns `(params, extra)`, params by player; traceable.

    `batch` may be empty where shapes are all that is asked for.
    """

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    """Returns the parts that are loaded, never trained."""

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Metrics]], Params]:
    """Returns `({player: (loss, metrics)}, extra)`.

    Player p's loss is differentiated by `params[p]` alone, at the parameters
    before the step (the reference code alternates the players instead).
    `step` counts finished updates, `extra` comes back for the next step.
    """

  def ema_patterns(self) -> list[str]:
    """Returns regular expressions of the averaged 'player/path' names."""

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    """Returns what the sampler needs of a batch, the null condition too."""

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
  ) -> list[sampling.Stage]:
    """Returns the stages, coarse to fine; shape is (B, H, W) of the image."""

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    """Returns the clean state of every stage, coarse first.

    Args:
      weights: of the system.
      image: (B, H, W, 3) in [-1, 1].
    """

  def edited(
    self, weights: Weights, stages: list[sampling.Stage], edit: Edit
  ) -> list[sampling.Stage]:
    """Returns the stages such that they begin with a picture."""

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    """Returns (B, H, W, 3) in [-1, 1]; an unfinished state gives a preview."""

  @property
  def solver(self) -> solvers.Solver:
    """The sampler's solver."""

  @property
  def image_size(self) -> int:
    """Side of a sample, px."""

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    """Returns (B, H, W, 3) in [-1, 1]: samples, or reconstructions."""


def generate(
  system: System,
  weights: Weights,
  key: jax.Array,
  batch: Batch,
  count: int,
  *,
  start: Sequence[jax.Array] = (),
  last: int | None = None,
  edit: Edit | None = None,
  shape: tuple[int, int] | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
  """Samples images: condition, stages, decode, to be called under `jax.jit`.

  Args:
    system: what to sample from.
    weights: its weights.
    key: typed key of all noise.
    batch: the arrays of `count` conditions.
    count: B.
    start: finished scales to build on, coarse first.
    last: the last stage to run, None for the finest; an earlier one gives a
      preview.
    edit: a picture to begin with.
    shape: height and width of the images, None for the system's square.

  Returns:
    Images (B, H, W, 3) in [-1, 1] and the finished scales.
  """
  condition = system.condition(weights, batch)
  sides = shape or (system.image_size, system.image_size)
  stages = system.stages(weights, condition, (count, *sides))
  if edit is not None:
    stages = system.edited(weights, stages, edit)
  state = sampling.run(
    stages,
    system.solver,
    sampling.Noise.from_key(key),
    start=start,
    first=len(start),
    last=last,
  )
  return system.decode(weights, state), state


def sample_batch(
  system: System, weights: Weights, key: jax.Array, batch: Batch
) -> jax.Array:
  """Returns a sample of every condition in a batch, see `generate`."""
  count = next(iter(batch.values())).shape[0]
  return generate(system, weights, key, batch, count)[0]


def steps_of_one_stage(config: ConfigDict) -> int:
  """Returns the solver steps of a system that has one stage.

  Raises:
    ValueError: one number for each of several stages.
  """
  steps = config.sample.steps
  if not isinstance(steps, int):
    raise ValueError(
      f'config.sample.steps is {tuple(steps)}, must be one number for'
      f' {config.system.name}'
    )
  return steps
