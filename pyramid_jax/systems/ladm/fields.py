"""The fields of LaDM, and their checks."""

from typing import Any

from ml_collections import ConfigDict

from pyramid_jax.config import field as field_lib
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.diffusion import laplacian_timesteps
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import spaces


# Solvers that go band by band.
SOLVERS = ('ddim', 'ddpm', 'euler', 'heun', 'dpmpp_2m')
NETWORKS = ('unet', 'diffit')

FIELDS = {
  'laplacian.levels': Field(
    3,
    'The number of resolutions, which are the stages.',
    low=1,
    high=ranges.LEVELS,
  ),
  'laplacian.switch_sigmas': Field(
    (1.0, 2.4),
    'The noise levels of the full resolution from which on the bands 1, 2, ...'
    ' are gone and the next coarser stage is enough, rising.',
    items=float,
    above=0,
    high=ranges.SIGMA,
  ),
  'laplacian.schedule': Field(
    'quad', 'How a band fades.', choices=laplacian.SCHEDULES
  ),
  'laplacian.band_rms': Field(
    (0.086, 0.098, 0.53),
    'The root mean square of the bands of the data, finest first, and of the'
    ' coarsest resolution, as measured by python -m'
    ' pyramid_jax.commands.measure_bands.',
    above=0,
    high=ranges.SIGMA,
  ),
  'laplacian.sigma_min': Field(
    0.002,
    'The lowest noise level of the full resolution.',
    above=0,
    high=ranges.SIGMA,
  ),
  'laplacian.sigma_max': Field(
    320.0,
    'The highest noise level of the full resolution; 320 is 80 at the'
    ' coarsest of three.',
    above=0,
    high=ranges.SIGMA,
  ),
  'laplacian.preconditioning': Field(
    'band',
    'Whether each band is preconditioned (band), or their sum (scalar).',
    choices=laplacian_loss.KINDS,
  ),
  'laplacian.shared': Field(False, 'Whether one network serves all stages.'),
  'laplacian.network': Field(
    'unet', 'The network of a stage.', choices=NETWORKS
  ),
  'laplacian.self_context': Field(
    False,
    'Whether a finer stage of a diffit is conditioned on the clean image of'
    ' the stage before, with diffusion.noise_mix_ratio in training.',
  ),
  'laplacian.latent': Field(
    False, 'Whether latents of a first stage are diffused, or images.'
  ),
  'laplacian.stage_batch': Field(
    (0,),
    'The number of examples of a batch for each stage, coarse to fine; (0,)'
    ' for equal parts.',
    low=0,
    high=ranges.BATCH,
  ),
  'laplacian.wavelets': Field(
    (0,),
    'The levels of the Haar packet around the network: one number, or one for'
    ' each stage, coarse to fine.',
    low=0,
    high=ranges.LEVELS,
  ),
  **fields_lib.LOG_NORMAL,
  **fields_lib.NOISE_MIX,
  **fields_lib.SCALE,
  **sample_fields.COMMON,
  **sample_fields.CHURN,
  **sample_fields.SHAPE,
  'sample.guidance_parts': Field(
    (1.0,),
    'The share of sample.guidance - 1 in a stage: one number, or one for each'
    ' stage, coarse to fine.',
    low=0,
    resumable=True,
    high=ranges.WEIGHT,
  ),
  **sample_fields.SKETCH,
}


def _one_or_every_stage(values: field_lib.Values) -> field_lib.Broken | None:
  levels = values['laplacian.levels']
  if len(values['sample.guidance_parts']) in (1, levels):
    return None
  return field_lib.Broken(
    'sample.guidance_parts', f'one number or {levels}, coarse to fine'
  )


CHECKS = (
  *fields_lib.GENERATIVE_CHECKS,
  sample_fields.shape_is_whole,
  _one_or_every_stage,
)


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
    reason = f' for stage {stage} with config.laplacian.wavelets {wavelet}'
    for name in ('image_size', 'buckets'):
      size = config.data[name]
      fields_lib.check_multiple(f'data.{name}', size, cell, reason)
  return found


def per_stage(config: ConfigDict, name: str) -> tuple[Any, ...]:
  """Returns a value for each stage, coarse to fine, of a field of one or all.

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


def check_low_resolution(config: ConfigDict) -> None:
  """Raises ValueError for super-resolution of latents or hidden bands."""
  if 'superres' not in (config.condition.task, config.condition.also):
    return
  if config.laplacian.schedule == 'hard':
    raise ValueError(
      "config.laplacian.schedule is 'hard', must be another with a"
      ' low-resolution image, which determines a part of each hidden band'
    )
  reason = ' with a low-resolution image, which conditions images'
  fields_lib.check_value(
    'laplacian.latent', config.laplacian.latent, (False,), reason
  )


def check_spec(spec: spec_lib.SamplerSpec, process: laplacian.Process) -> None:
  """Raises ValueError for what cannot be sampled band by band."""
  spacings = ('auto', *laplacian_timesteps.SPACINGS)
  for name, value, allowed in (
    ('solver', spec.solver, SOLVERS),
    ('spacing', spec.spacing, spacings),
  ):
    fields_lib.check_value(f'sample.{name}', value, allowed, ' for ladm')
  if process.schedule == 'vp' and spec.solver in ('heun', 'euler'):
    raise ValueError(
      f"config.laplacian.schedule 'vp' has an infinite slope at the switches:"
      f' config.sample.solver must be ddim, it is {spec.solver!r}'
    )
