"""Fields of every config whatever its system, and groups that systems share."""

from collections.abc import Collection
from typing import Any

from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion.solvers import ddpm
from pyramid_jax.networks.layers import attention
from pyramid_jax.networks.layers import remat


DTYPES = ('float32', 'bfloat16')

FIELDS = {
  'name': Field('', 'The name of the experiment in logs and titles.'),
  'dtype': Field(
    'float32',
    'The type of activations; weights, averages and losses are float32.',
    choices=DTYPES,
  ),
  'remat': Field(
    remat.NONE,
    'Which activations are computed again in the backward pass, which saves'
    ' memory and takes time: none, all but the results of layers with weights'
    ' (products, or offload to the memory of the host), all but those of'
    ' attention, or all (full).',
    choices=tuple(remat.POLICIES),
    resumable=True,
  ),
  'scan_blocks': Field(
    8,
    'How many equal blocks in a row, or more, are one loop of the program,'
    ' which compiles sooner and copies their weights once a step; 0 for no'
    ' number.',
    low=0,
    high=ranges.NETWORK,
    resumable=True,
  ),
  'attention': Field(
    'auto',
    'The kernel of attention: xla works everywhere, cudnn on GPUs, flash on'
    ' TPUs, and auto chooses.',
    choices=attention.IMPLEMENTATIONS,
    resumable=True,
  ),
  'system.name': Field('', 'The system, a key of pyramid_jax.systems.SYSTEMS.'),
}

# Groups that several systems declare.

# Of one latent, which is scaled; those of Frido are not.
SCALE = {
  'diffusion.scale_factor': Field(
    1.0,
    'The factor that the latents are multiplied by.',
    above=0,
    high=ranges.WEIGHT,
  ),
  'diffusion.scale_by_std': Field(
    False,
    'Whether the factor is one over the standard deviation of the latents of'
    ' the first batch.',
  ),
}

LOSS_TYPE = {
  'diffusion.loss_type': Field(
    'l1',
    'Whether the training error is absolute (l1) or squared (l2).',
    choices=gaussian.LOSSES,
  ),
}

# Of the noise of a discrete chain.
SCHEDULE = {
  'diffusion.timesteps': Field(
    1000,
    'The number of noise levels of the training chain.',
    low=1,
    high=ranges.STEPS,
  ),
  'diffusion.beta_schedule': Field(
    'scaled_linear',
    'How beta grows: linear, scaled_linear (linear in its square root), sqrt'
    ' (the square root of linear) or cosine.',
    choices=schedules.SCHEDULES,
  ),
  'diffusion.linear_start': Field(0.0015, 'The first beta.', above=0, below=1),
  'diffusion.linear_end': Field(0.0155, 'The last beta.', above=0, below=1),
}

# Of a denoiser on such a chain.
CHAIN = {
  **SCHEDULE,
  'diffusion.parameterization': Field(
    'eps',
    'What the network predicts: the noise (eps), the clean state (x0) or the'
    ' velocity (v).',
    choices=schedules.PARAMETERIZATIONS,
  ),
  'diffusion.variance': Field(
    'fixed_small',
    'The variance of the steps of ddpm; learned_range needs a network that'
    ' predicts it.',
    choices=ddpm.VARIANCES,
  ),
  **sample_fields.COMMON,
  **sample_fields.CHAIN,
  **sample_fields.SKETCH,
}

# Of a log-normal distribution of noise levels, LaDM's too.
LOG_NORMAL = {
  'diffusion.P_mean': Field(
    -1.2,
    'The mean of the logarithm of the noise level in training.',
    low=-ranges.LOGARITHM,
    high=ranges.LOGARITHM,
  ),
  'diffusion.P_std': Field(
    1.2,
    'The standard deviation of the logarithm of the noise level in training.',
    above=0,
    high=ranges.LOGARITHM,
  ),
}

NOISE_MIX = {
  'diffusion.noise_mix_ratio': Field(
    0.1,
    'The share of noise in the finished coarser scales in training.',
    low=0,
    high=1,
  ),
}

GENERATIVE_CHECKS = sample_fields.COMMON_CHECKS


def check_value(
  name: str, value: Any, allowed: Collection[Any], reason: str = ''
) -> None:
  """Raises ValueError if the value of a field is not among those allowed.

  `name` is that of the field, as 'data.buckets'; `reason` ends the message.
  """
  if value not in allowed:
    values = ', '.join(map(str, allowed))
    must = f'one of {values}' if len(allowed) > 1 else repr(*allowed)
    raise ValueError(f'config.{name} is {value!r}, must be {must}{reason}')


def check_multiple(name: str, size: int, of: int, reason: str) -> None:
  """Raises ValueError if the value of a field is no multiple of a number.

  `name` is that of the field, as 'data.image_size'; `reason` ends the message
  and names the origin of the number.
  """
  if size % of:
    raise ValueError(
      f'config.{name} is {size}, must be a multiple of {of}{reason}'
    )
