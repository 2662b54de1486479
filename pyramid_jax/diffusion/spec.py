"""The options of a sampling run, as one value."""

import dataclasses
import math

import flax.struct
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.solvers import base as solver_lib


static = levels_lib.static


@flax.struct.dataclass
class SamplerSpec:
  """How images are sampled; all but the scales of guidance is static.

  Attributes:
    guidance: classifier-free guidance; None builds no half for the null
      condition.
    classifier_scale: the factor of a classifier's gradient; None where no
      classifier guides.
    image_scale: the factor of the gradient of a distance from the given image;
      None where no image guides.
    solver: one of `solvers.SOLVERS`.
    steps: solver steps of every stage, (S,), or of each, coarse to fine.
    spacing: where the steps lie; 'auto' is what suits the solver on a chain,
      and the discretization in continuous time.
    end: where the steps on a chain end, see `timesteps.spaced_levels`.
    variance: the variance of the steps of ddpm, see `solvers.ddpm.ancestral`.
    eta: noise of ddim, 0 deterministic, 1 as noisy as ddpm.
    temperature: factor of the noise of ddim and ddpm.
    discretization: levels of a preconditioned network for 'auto'.
    rho: the exponent of 'karras': a larger one has more low levels.
    sigma_min: the lowest level of a preconditioned network, 0 its own.
    sigma_max: the highest level of a preconditioned network, 0 its own.
    churn: noise that heun and euler add in each step, in continuous time.
    windows: (side, stride) of the windows in which a larger latent is sampled,
      (0, 0) for none.
  """

  guidance: classifier_free.Guidance | None = None
  classifier_scale: float | None = None
  image_scale: float | None = None
  solver: str = static('ddim')
  steps: tuple[int, ...] = static((50,))
  spacing: str = static('auto')
  end: str = static('auto')
  variance: str = static('fixed_small')
  eta: float = static(0.0)
  temperature: float = static(1.0)
  discretization: str = static('edm')
  rho: float = static(7.0)
  sigma_min: float = static(0.0)
  sigma_max: float = static(0.0)
  churn: edm_timesteps.Churn = static(edm_timesteps.Churn())
  windows: tuple[int, int] = static((0, 0))

  def make_solver(self) -> solver_lib.Solver:
    """Returns the solver; for the errors see `solvers.create`."""
    return solvers.create(
      self.solver,
      eta=self.eta,
      temperature=self.temperature,
      variance=self.variance,
      churn=self.churn.amount,
    )

  def steps_of(self, stages: int) -> tuple[int, ...]:
    """Returns the steps of each stage, coarse to fine."""
    if len(self.steps) == 1:
      return self.steps * stages
    if len(self.steps) != stages:
      allowed = 'one number' if stages == 1 else f'one number or {stages}'
      raise ValueError(
        f'sample.steps has {len(self.steps)} values, must be {allowed},'
        ' coarse to fine'
      )
    return self.steps

  def check_guidance(self, channels: int, stages: int) -> None:
    """Refuses guidance of more channels, or scales of other stages."""
    if self.guidance is None:
      return
    guided, shape = self.guidance.channels, np.shape(self.guidance.scale)
    if guided and guided > channels:
      raise ValueError(
        f'config.sample.guidance_channels is {guided}, must be at most'
        f' {channels}, the channels of the state'
      )
    if shape and shape != (stages,):
      raise ValueError(
        f'sample.guidance_parts has {shape[0]} values, must be one number or'
        f' {stages}, coarse to fine'
      )

  def guidance_of(self, stage: int) -> classifier_free.Guidance | None:
    """Returns the guidance of a stage, counted from the coarsest, 0."""
    return None if self.guidance is None else self.guidance.of_stage(stage)

  def chain_levels(
    self, chain: schedules.Chain, stages: int = 1
  ) -> list[levels_lib.Levels]:
    """Returns the levels of each stage on a discrete chain, without churn."""
    churn, spacing = self.churn.amount, self.spacing
    checks.check('sample.churn', churn, not churn, '0 on a discrete chain')
    if spacing == 'auto':
      spacing = solvers.SPACINGS[self.solver]
    return [
      timesteps.spaced_levels(chain, count, spacing, self.rho, self.end)
      for count in self.steps_of(stages)
    ]

  def edm_timesteps(self) -> edm_timesteps.EdmTimesteps:
    """Returns where the steps of a preconditioned network lie."""
    auto = self.discretization
    names = {'auto': auto, 'karras': 'edm', 'log_snr': 'log_snr'}
    if self.spacing not in names:
      raise ValueError(
        f'sample.spacing is {self.spacing!r}, must be one of'
        f' {", ".join(names)} in continuous time'
      )
    return edm_timesteps.EdmTimesteps(
      discretization=names[self.spacing],
      sigma_min=self.sigma_min or None,
      sigma_max=self.sigma_max or None,
      rho=self.rho,
      churn=self.churn,
    )


def from_config(config: ConfigDict) -> SamplerSpec:
  """Returns the spec of `config.sample` and `config.diffusion.variance`.

  Raises:
    ValueError: a field out of its range.
  """
  s = config.sample
  if 'solver' not in s:  # a first stage, which is not sampled from
    return SamplerSpec()
  names = [field.name for field in dataclasses.fields(SamplerSpec)]
  options = {name: s[name] for name in names if name in s} | {
    'guidance': _guidance(s),
    'classifier_scale': s.classifier_scale if s.get('classifier') else None,
    'image_scale': s.image_scale if s.get('image_distance') else None,
    'steps': (s.steps,) if isinstance(s.steps, int) else tuple(s.steps),
    'variance': config.get('diffusion', {}).get('variance', 'fixed_small'),
    'churn': edm_timesteps.Churn(
      amount=s.get('churn', 0.0),
      low=s.get('churn_min', 0.0),
      high=s.get('churn_max', 0.0) or math.inf,
      noise=s.get('churn_noise', 1.0),
    ),
    'windows': tuple(s.get('windows', (0, 0))),
  }
  return SamplerSpec(**options)


def _guidance(sample: ConfigDict) -> classifier_free.Guidance | None:
  """Returns the guidance of a config, whose scale 1 means none."""
  scale = sample.guidance
  if scale == 1:
    return None
  parts = sample.get('guidance_parts', (1.0,))  # 1 + part (scale - 1)
  scales = [1.0 + (scale - 1.0) * part for part in parts]
  return classifier_free.Guidance(
    scale=scales[0] if len(scales) == 1 else np.asarray(scales, np.float32),
    interval=tuple(sample.guidance_interval) or (0.0, 1.0),
    channels=sample.get('guidance_channels', 0) or None,
    power=sample.get('guidance_power', 0.0) or None,
  )
