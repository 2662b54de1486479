"""The protocols of systems, and sampling from one."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks import pretrained


# What evaluation measures of a system.
SAMPLES, RECONSTRUCTIONS, PREDICTIONS, CLASSES = OUTPUTS = (
  'samples',
  'reconstructions',
  'predictions',
  'classes',
)
# Noise levels at which a system without a chain reads activations.
CONTINUOUS_LEVELS = 256
# Requests in addition to the condition of the task.
EDITS = ('image', 'mask', 'strength')
REQUESTS = (*EDITS, 'sketch', 'map')

BHW = tuple[int, int, int]  # batch size, height and width of images
Condition = condition_lib.Condition
SamplerSpec = spec_lib.SamplerSpec
Stages = list[sampling.Stage]
Normal = Callable[[tuple[int, ...]], jax.Array]  # shape -> standard normal
Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, jax.Array]
Losses = Mapping[str, tuple[jax.Array, Metrics]]  # (value, metrics) by name


@flax.struct.dataclass
class Weights:
  """Everything that a system needs to be run."""

  # {loss name: tree}, the trained weights (EMA where it is averaged).
  params: Params
  frozen: Params  # {part: tree}, the weights of `Trainable.pretrained_parts`
  # The untrained state: batch statistics, the measured latent scale.
  extra: Params


@flax.struct.dataclass
class Edit:
  """An image to begin with, instead of noise."""

  image: jax.Array  # (B, H, W, 3) in [-1, 1]
  # (B, H, W), not 0 where the image is sampled again; None where all of it may
  # change.
  mask: jax.Array | None = None
  # In (0, 1], the share of the steps that are taken; the image is noised to the
  # level where they begin.
  strength: float = flax.struct.field(pytree_node=False, default=1.0)


class Trainable(Protocol):
  """One paper, or a part of one; built by `systems.create`, has no arrays."""

  @property
  def image_size(self) -> int:
    """The side of a square image, px."""

  @property
  def outputs(self) -> str:
    """What evaluation measures: one of `OUTPUTS`."""

  def example_rows(self) -> Batch:
    """Returns one row of what is read beside the image, such as conditions."""

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    """Returns `(params, extra)`, params by loss name; traceable."""

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    """Returns the parts that are loaded, never trained."""

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[Losses, Params]:
    """Returns the losses, and `weights.extra` for the next step.

    The loss NAME is differentiated by `params[NAME]` alone, at the parameters
    before the step (the reference code alternates the losses instead). `step`
    counts finished updates.
    """

  def ema_patterns(self) -> list[str]:
    """Returns regular expressions of the averaged 'loss name/path' names."""

  def check_extra(self, extra: Params) -> None:
    """Raises ValueError for the untrained state of another system."""


class OverBatch(Protocol):
  """A walk over a batch, microbatch by microbatch."""

  def __call__(
    self, key: jax.Array, function: Callable[[Batch, Normal], Any]
  ) -> Any:
    """Returns the results of a function, stacked over M microbatches.

    Args:
      key: the key of the function's draws.
      function: (batch, normal) -> tree of arrays; `batch` has B / M rows, and
        `normal(shape)` gives these rows of a draw for all B.

    Returns:
      The tree with a first axis of M.
    """


@runtime_checkable
class Settling(Protocol):
  """A system that changes weights after each update, not by a gradient."""

  def settle(self, params: Params, extra: Params) -> tuple[Params, Params]:
    """Returns params and `extra` as the next step has them; traceable.

    Args:
      params: {loss name: tree}, the updated weights.
      extra: what `losses` returned.
    """


@runtime_checkable
class Measuring(Protocol):
  """A system whose untrained state holds numbers of the first batch."""

  def measure(
    self, frozen: Params, extra: Params, key: jax.Array, over: OverBatch
  ) -> Params:
    """Returns `extra` with the measurements before the first step.

    Args:
      frozen: {part: tree}, the weights of `pretrained_parts`.
      extra: the untrained state of `init`.
      key: that `losses` gets in the first step.
      over: walks over the batch of the first step.
    """


@runtime_checkable
class Staged(Protocol):
  """A system that trains each stage on other rows of a batch."""

  @property
  def stage_batch(self) -> tuple[int, ...]:
    """The number of rows of each stage, coarse to fine."""


class Reconstructing(Trainable, Protocol):
  """A first stage, which reconstructs images."""

  @property
  def codebooks(self) -> tuple[int, ...]:
    """The number of codes of each scale, () without a codebook."""

  def reconstruct(
    self, weights: Weights, image: jax.Array, scales: int | None = None
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Reconstructs images (B, H, W, 3) in [-1, 1].

    The latents of all but the first `scales`, coarse to fine, are 0, and no
    codes are returned; None for all of them.

    Returns:
      Images in [-1, 1], and the codes of each codebook, (B, h, w) int32.
    """


class Predicting(Trainable, Protocol):
  """A predictor of the edges of noised images."""

  def target_edges(self, frozen: Params, batch: Batch) -> jax.Array:
    """Returns the edges to be predicted, (B, H, W) in [-1, 1]."""

  def predicted(
    self, weights: Weights, key: jax.Array, batch: Batch, times: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts the edges of images that are noised.

    Args:
      weights: the weights of the system.
      key: the key of the noise.
      batch: images, conditions and edges.
      times: (B,) of the noise, from 0 (data) to 1 (noise).

    Returns:
      The (B,) squared errors, means over stages, and (B, H, W) edges.
    """

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    """Returns predicted edges as images (B, H, W, 3) in [-1, 1]."""


class Classifying(Trainable, Protocol):
  """A classifier of noised images."""

  def logits(
    self, weights: Weights, key: jax.Array, batch: Batch, times: jax.Array
  ) -> jax.Array:
    """Classifies images that are noised.

    Args:
      weights: the weights of the system.
      key: the key of the noise.
      batch: images.
      times: (B,) of the noise, from 0 (data) to 1 (noise).

    Returns:
      (B, classes) logits, without a class for none.
    """

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    """Returns noised images (B, H, W, 3) in [-1, 1]."""


class Generative(Trainable, Protocol):
  """A system that images can be sampled from.

  Nothing about sampling lives in a system: it is in the `SamplerSpec`.
  """

  @property
  def accepts(self) -> frozenset[str]:
    """Those of `REQUESTS` that it serves in addition to its condition."""

  @property
  def any_shape(self) -> bool:
    """Whether images may have other shapes than the square of training."""

  @property
  def stage_count(self) -> int:
    """The number of stages."""

  def scale_shape(self, stage: int) -> tuple[int, int]:
    """Returns height and width of a finished scale, 0 = coarsest."""

  def check_spec(self, spec: SamplerSpec) -> None:
    """Raises ValueError for a spec that the system cannot serve."""

  def check_rows(self, names: Collection[str]) -> None:
    """Raises ValueError if a batch of these arrays lacks one."""

  def example_condition(self) -> Condition:
    """Returns a condition of zeros of one example, to trace with."""

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    """Encodes the condition of a batch, and the null condition."""

  def stages(
    self, weights: Weights, condition: Condition, shape: BHW, spec: SamplerSpec
  ) -> Stages:
    """Returns the stages, coarse to fine, for images of shape (B, H, W)."""

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    """Returns the clean states, coarse first, of images (B, H, W, 3)."""

  def edited(self, weights: Weights, stages: Stages, edit: Edit) -> Stages:
    """Returns the stages such that they begin with an image."""

  def guided(
    self, weights: Weights, condition: Condition, stages: Stages
  ) -> Stages:
    """Returns the stages with sketch guidance, if the system has any."""

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    """Returns images (B, H, W, 3) in [-1, 1].

    A state whose finest scales are not finished gives a preview.
    """


class Base(Generative, Protocol):
  """A system whose activations an edge predictor can read."""

  @property
  def has_latents(self) -> bool:
    """Whether states are latents of a first stage."""

  @property
  def cells(self) -> tuple[int, ...]:
    """The patch size of the network of each stage, 1 for a U-Net."""

  def dense_spec(self) -> SamplerSpec:
    """Returns a spec without guidance that has all levels of training."""


@flax.struct.dataclass
class Extent:
  """Which stages are run, and at which size."""

  start: tuple[jax.Array, ...] = ()  # finished scales to build on, coarse first
  # The last stage to run, None for the finest; an earlier one gives a preview.
  last: int | None = flax.struct.field(pytree_node=False, default=None)
  # Height and width of the images, None for the system's square.
  shape: tuple[int, int] | None = flax.struct.field(
    pytree_node=False, default=None
  )


def key_of(seed: int) -> jax.Array:
  """Returns the key of a seed of 63 bits.

  It is `jax.random.key(seed)` below 2**32; of higher seeds that function takes
  the lower 32 bits alone.
  """
  words: Any = np.array(divmod(seed, 2**32), np.uint32)
  return jax.random.wrap_key_data(words, impl='threefry2x32')


def image_keys(seed: int, indices: Any) -> jax.Array:
  """Returns the keys of (B,) images, on which all of their noise depends."""
  return folded(key_of(seed), indices)


def folded(key: jax.Array, indices: Any) -> jax.Array:
  """Folds each of (B,) numbers into a key; returns (B,) keys."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(indices))


def generate(
  system: Generative,
  weights: Weights,
  keys: jax.Array,
  batch: Batch,
  spec: SamplerSpec,
  edit: Edit | None = None,
  extent: Extent | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
  """Samples images: condition, stages, decode, to be called under `jax.jit`.

  Args:
    system: what is sampled.
    weights: the weights of the system.
    keys: (B,) of `image_keys`.
    batch: the arrays of B conditions.
    spec: how they are sampled.
    edit: an image to begin with.
    extent: which stages at which size, None for all at the square of training.

  Returns:
    Images (B, H, W, 3) in [-1, 1] and the finished scales.
  """
  extent = extent or Extent()
  condition = system.condition(weights, batch)
  sides = extent.shape or (system.image_size, system.image_size)
  shape = (keys.shape[0], *sides)
  stages = system.stages(weights, condition, shape, spec)
  if edit is not None:
    stages = system.edited(weights, stages, edit)
  stages = system.guided(weights, condition, stages)
  state = sampling.run(
    stages,
    spec.make_solver(),
    sampling.Noise.from_keys(keys),
    start=extent.start,
    last=extent.last,
  )
  return system.decode(weights, state), state


def stage_steps(
  system: Generative,
  weights: Weights,
  spec: SamplerSpec,
) -> tuple[int, ...]:
  """Returns the steps of each stage, coarse to fine, by shapes alone."""
  found: list[int] = []

  def build(weights: Weights) -> None:
    shape = (1, system.image_size, system.image_size)
    stages = system.stages(weights, system.example_condition(), shape, spec)
    found.extend(stage.steps for stage in stages)

  jax.eval_shape(build, weights)
  return tuple(found)
