"""Fields of sampling, in groups; a system declares those that it reads."""

import functools

from pyramid_jax.config import field as field_lib
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import sketch


SPACINGS = ('auto', *timesteps.SPACINGS)
_field = functools.partial(Field, resumable=True)

# Of everything that makes grids of images, an autoencoder's too.
IMAGES = {
  'sample.batch_size': _field(
    16,
    'The number of images that are made at a time.',
    low=1,
    high=ranges.BATCH,
  ),
  'sample.count': _field(
    16, 'The number of images of --mode=sample.', low=1, high=ranges.COUNT
  ),
  'sample.batch_limit_secs': _field(
    3600.0,
    'The seconds after which a batch of images is ended as hanging, or ten'
    ' times its usual time where that is longer; 0 for none.',
    low=0,
  ),
  'sample.seed': _field(
    0, 'The seed of the noise of sampling.', low=0, high=ranges.SEED
  ),
}

# Of every generative system.
COMMON = {
  **IMAGES,
  'sample.solver': _field(
    'ddim', 'The solver that turns noise into images.', choices=solvers.SOLVERS
  ),
  'sample.steps': _field(
    50,
    'The number of solver steps: one number for all stages, or one for each,'
    ' coarse to fine.',
    low=1,
    one_or_many=True,
    high=ranges.STEPS,
  ),
  'sample.guidance': _field(
    1.0, 'The scale of classifier-free guidance; 1 for none.', low=0, high=1000
  ),
  'sample.guidance_interval': _field(
    (0.0, 1.0),
    "The parts of the chain's time, from 0 (clean) to 1, between which"
    ' guidance acts; () for all.',
    low=0,
    high=1,
    length=(0, 2),
  ),
  'sample.spacing': _field(
    'auto',
    'The rule that places the steps; auto is what suits the solver on a chain'
    ' of noise levels, and the discretization in continuous time.',
    choices=SPACINGS,
  ),
  'sample.rho': _field(
    7.0,
    'The exponent of karras and EDM: a larger one has more low levels.',
    above=0,
    high=ranges.RHO,
  ),
  'sample.eta': _field(
    0.0,
    'The noise that ddim adds: 0 is deterministic, 1 ancestral.',
    low=0,
    high=ranges.SIGMA,
  ),
  'sample.temperature': _field(
    1.0, 'The factor of the noise of ddim and ddpm.', low=0, high=ranges.SIGMA
  ),
  'sample.project': _field(
    False,
    'Whether super-resolved images are corrected so that they shrink to'
    ' exactly the image that was given.',
  ),
}

# Of systems that diffuse latents along a discrete chain.
CHAIN = {
  'sample.end': _field(
    'auto',
    'The end of the steps on a chain: the clean image (clean), the first noise'
    ' level, whose noise is left (first), or that of the spacing (auto).',
    choices=timesteps.ENDS,
  ),
  'sample.guidance_channels': _field(
    0,
    'The number of first channels that are guided; 0 for all.',
    low=0,
    high=ranges.WIDTH,
  ),
  'sample.guidance_power': _field(
    0.0,
    'The power of a cosine by which guidance grows as the noise falls; 0 for'
    ' a constant scale.',
    low=0,
    high=ranges.POWER,
  ),
}

# Of samplers that add noise in continuous time.
CHURN = {
  'sample.churn': _field(
    0.0,
    'The amount of noise that is added over all steps (EDM).',
    low=0,
    high=ranges.SIGMA,
  ),
  'sample.churn_min': _field(
    0.0, 'The lowest noise level at which noise is added.', low=0
  ),
  'sample.churn_max': _field(
    0.0,
    'The highest noise level at which noise is added; 0 for no bound.',
    low=0,
  ),
  'sample.churn_noise': _field(
    1.0,
    'The standard deviation of the noise that is added.',
    low=0,
    high=ranges.SIGMA,
  ),
}

# Of DiffiT in image space.
CONTINUOUS = {
  **CHURN,
  'sample.discretization': _field(
    'edm',
    'The rule that chooses the noise levels in continuous time.',
    choices=edm_timesteps.DISCRETIZATIONS,
  ),
  'sample.sigma_min': _field(
    0.0,
    "The lowest noise level; 0 for the discretization's own.",
    low=0,
    high=ranges.SIGMA,
  ),
  'sample.sigma_max': _field(
    0.0,
    "The highest noise level; 0 for the discretization's own.",
    low=0,
    high=ranges.SIGMA,
  ),
}

WINDOWS = {
  'sample.windows': _field(
    (0, 0),
    'The side and the stride of overlapping windows in a larger latent;'
    ' (0, 0) for none.',
    low=0,
    length=(2,),
    high=ranges.SIDE,
  )
}

SHAPE = {
  'sample.shape': _field(
    (0, 0),
    'The height and width of the images in pixels; (0, 0) for the square of'
    ' data.image_size.',
    low=0,
    length=(2,),
    high=ranges.SIDE,
  )
}

# Of classifier guidance, with which systems of one stage are sampled.
CLASSIFIER = {
  'sample.classifier': _field(
    '',
    'The workdir of a classifier of noisy states, a run of the system'
    ' classifier; empty for no classifier guidance.',
    path=True,
  ),
  'sample.classifier_scale': _field(
    1.0,
    "The factor of the gradient of the classifier's log probability.",
    low=0,
    high=1000,
  ),
}

# Of guidance by the image of the condition.
IMAGE = {
  'sample.image_distance': _field(
    '',
    'The distance of the estimate, downsampled, from the low-resolution image,'
    ' whose gradient guides super-resolution: half the squared error (l2) or'
    ' LPIPS; empty for no guidance.',
    choices=('', 'l2', 'lpips'),
  ),
  'sample.image_scale': _field(
    1.0, 'The factor of the gradient of that distance.', low=0, high=1000
  ),
  'sample.image_weights': _field(
    '', 'The weight file of LPIPS for that distance.', path=True
  ),
}

# Of sketch guidance, which any generative system can be sampled with.
SKETCH = {
  'sketch.predictor': _field(
    '',
    'The workdir of an edge predictor, a run of the system sketch; empty for'
    ' no sketch guidance.',
    path=True,
  ),
  'sketch.beta': _field(
    (1.6, 0.8, 0.4),
    'The length of a correction over that of its step, for each stage, coarse'
    ' to fine; the last number serves the remaining stages.',
    low=0,
    high=ranges.WEIGHT,
  ),
  'sketch.stop_fraction': _field(
    (0.5, 0.3),
    'The share of the steps that are corrected, for each stage, coarse to'
    ' fine; the last number serves the remaining stages.',
    low=0,
    high=1,
  ),
  'sketch.norm_ref': _field(
    'mean',
    'The step whose length a correction is measured by: without its noise'
    ' (mean), or with it (sample).',
    choices=sketch.NORM_REFS,
  ),
  'sketch.shuffled_condition': _field(
    False, 'Whether evaluation uses the edges of another example.'
  ),
}


def not_empty(name: str) -> field_lib.Check:
  """Returns a check that a tuple has at least one item."""

  def check(values: field_lib.Values) -> field_lib.Broken | None:
    return None if values[name] else field_lib.Broken(name, 'not empty')

  return check


def _rising_interval(values: field_lib.Values) -> field_lib.Broken | None:
  """Guidance acts from an earlier part of the time to a later one."""
  interval = values['sample.guidance_interval']
  if list(interval) == sorted(interval):
    return None
  return field_lib.Broken(
    'sample.guidance_interval', 'two numbers 0 <= from <= to <= 1, or ()'
  )


def windows_overlap(values: field_lib.Values) -> field_lib.Broken | None:
  """Windows leave no gaps."""
  side, stride = values['sample.windows']
  if stride > side:
    allowed = 'two numbers, the side of a window and at most as long a stride'
  elif side and not stride:
    allowed = 'with a stride above 0'
  else:
    return None
  return field_lib.Broken('sample.windows', allowed)


def shape_is_whole(values: field_lib.Values) -> field_lib.Broken | None:
  """A shape has both sides or none."""
  shape = values['sample.shape']
  if shape == (0, 0) or min(shape) > 0:
    return None
  return field_lib.Broken('sample.shape', 'height and width above 0, or (0, 0)')


COMMON_CHECKS = (
  _rising_interval,
  not_empty('sketch.beta'),
  not_empty('sketch.stop_fraction'),
)
