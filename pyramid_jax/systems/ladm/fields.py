"""What the fields of a config mean for LaDM, checked before all else."""

from typing import Any

from ml_collections import ConfigDict

from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.diffusion import laplacian_timesteps
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.systems import spaces


# Solvers that go band by band.
SOLVERS = ('ddim', 'ddpm', 'euler', 'heun', 'dpmpp_2m')


def process(config: ConfigDict, space: spaces.Space) -> laplacian.Process:
  """Returns the process of a config.

  Raises:
    ValueError: numbers that make none, or an image that it cannot halve.
  """
  f = config.laplacian
  found = laplacian.Process(
    f.levels,
    tuple(f.switch_sigmas),
    f.schedule,
    tuple(f.band_rms),
    f.sigma_min,
    f.sigma_max,
  )
  for wavelet, stage in zip(
    per_stage(config, 'wavelets'), range(f.levels, 0, -1), strict=True
  ):
    cell = space.factor * 2 ** (stage - 1 + wavelet)
    for name in ('image_size', 'buckets'):
      size = config.data[name]
      if size % cell:
        raise ValueError(
          f'config.data.{name} is {size}, must be a multiple of {cell} for'
          f' stage {stage} with config.laplacian.wavelets {wavelet}'
        )
  return found


def per_stage(config: ConfigDict, name: str) -> tuple[Any, ...]:
  """Returns a field that has one value a stage, coarse to fine.

  Raises:
    ValueError: another number of values.
  """
  values, levels = tuple(config.laplacian[name]), config.laplacian.levels
  if len(values) == 1:
    return values * levels
  if len(values) != levels:
    raise ValueError(
      f'config.laplacian.{name} is {values}, must be one number or {levels},'
      ' coarse to fine'
    )
  return values


def kind(config: ConfigDict) -> str:
  """Returns the kind of the preconditioning.

  Raises:
    ValueError: an unknown one.
  """
  name = config.laplacian.preconditioning
  if name not in laplacian_loss.KINDS:
    raise ValueError(
      f'config.laplacian.preconditioning is {name!r}, must be one of'
      f' {", ".join(laplacian_loss.KINDS)}'
    )
  return name


def stage_batch(config: ConfigDict) -> tuple[int, ...]:
  """Returns the examples of a batch for each stage, coarse to fine.

  Raises:
    ValueError: parts that do not sum to the batch.
  """
  levels, size = config.laplacian.levels, config.train.batch_size
  size //= config.train.accumulate
  shares = tuple(config.laplacian.stage_batch)
  if shares == (0,) and size % levels == 0:
    return (size // levels,) * levels
  if len(shares) != levels or sum(shares) != size or min(shares) < 1:
    raise ValueError(
      f'config.laplacian.stage_batch is {shares}, must be {levels} numbers'
      f' above 0, coarse to fine, that sum to {size}, the batch, or 0 for equal'
      ' parts of it'
    )
  return shares


def check_small_image(config: ConfigDict) -> None:
  """Refuses what cannot be with a small image as the condition.

  Raises:
    ValueError: latents, or bands that are hidden until their switch.
  """
  if 'superres' not in (config.condition.task, config.condition.also):
    return
  if config.laplacian.schedule == 'hard':
    raise ValueError(
      "config.laplacian.schedule is 'hard', must be another with a small"
      ' picture: a hidden band is not replaced by what the picture says of it'
    )
  if config.laplacian.latent:
    raise ValueError(
      'config.laplacian.latent is True, must be False with a small image,'
      ' which says something of images'
    )


def check_spec(spec: spec_lib.SamplerSpec, process: laplacian.Process) -> None:
  """Refuses what cannot be sampled band by band.

  Raises:
    ValueError: the field of `config.sample`, and what is allowed.
  """
  if spec.solver not in SOLVERS:
    raise ValueError(
      f'config.sample.solver is {spec.solver!r}, must be one of'
      f' {", ".join(SOLVERS)} for ladm'
    )
  if process.schedule == 'vp' and spec.solver in ('heun', 'euler'):
    raise ValueError(
      f"config.laplacian.schedule 'vp' has an infinite slope at the switches:"
      f' config.sample.solver must be ddim, it is {spec.solver!r}'
    )
  if spec.windows != (0, 0):
    raise ValueError(
      f'config.sample.windows is {spec.windows}, must be (0, 0) for ladm'
    )
  if spec.spacing not in ('auto', *laplacian_timesteps.SPACINGS):
    raise ValueError(
      f'config.sample.spacing is {spec.spacing!r}, must be one of auto,'
      f' {", ".join(laplacian_timesteps.SPACINGS)} for ladm'
    )
  spec.make_solver()
