"""What a sampling run is asked to do, as one value."""

from collections.abc import Sequence
import math

import flax.struct
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.solvers import base as solver_lib


def _static(default):
  return flax.struct.field(pytree_node=False, default=default)


@flax.struct.dataclass
class SamplerSpec:
  """How images are sampled; all but the scale of guidance is static.

  Attributes:
    guidance: classifier-free guidance; None builds no half for the null
      condition.
    solver: a name of `solvers.SOLVERS`.
    steps: solver steps of every stage, (S,), or of each, coarse to fine.
    spacing: where the steps lie; 'auto' is what suits the solver, or the
      process.
    variance: of the steps of ddpm, see `solvers.ddpm.ancestral`.
    eta: noise of ddim, 0 deterministic, 1 as noisy as ddpm.
    temperature: factor of the noise of ddim and ddpm.
    discretization: levels of a preconditioned network for 'auto'.
    rho: how much levels of 'karras' crowd at low noise.
    sigma_min: the lowest level of a preconditioned network, 0 its own.
    sigma_max: the highest level of a preconditioned network, 0 its own.
    churn: noise that heun and euler add anew, in continuous time.
    windows: (side, stride) of the windows in which a latent larger than they
      are is sampled, (0, 0) for never.
  """

  guidance: classifier_free.Guidance | None = None
  solver: str = _static('ddim')
  steps: tuple[int, ...] = _static((50,))
  spacing: str = _static('auto')
  variance: str = _static('fixed_small')
  eta: float = _static(0.0)
  temperature: float = _static(1.0)
  discretization: str = _static('edm')
  rho: float = _static(7.0)
  sigma_min: float = _static(0.0)
  sigma_max: float = _static(0.0)
  churn: edm_timesteps.Churn = _static(edm_timesteps.Churn())
  windows: tuple[int, int] = _static((0, 0))

  def make_solver(self) -> solver_lib.Solver:
    """Returns the solver.

    Raises:
      ValueError: unknown name, or noise where it has none.
    """
    return solvers.create(
      self.solver,
      eta=self.eta,
      temperature=self.temperature,
      variance=self.variance,
      churn=self.churn.amount,
    )

  def steps_of(self, stages: int) -> tuple[int, ...]:
    """Returns the steps of each of so many stages, coarse to fine.

    Raises:
      ValueError: steps of another number of stages.
    """
    if len(self.steps) == 1:
      return self.steps * stages
    if len(self.steps) != stages:
      allowed = 'one number' if stages == 1 else f'one number or {stages}'
      raise ValueError(
        f'sample.steps has {len(self.steps)} values, must be {allowed},'
        ' coarse to fine'
      )
    return self.steps

  def check_channels(self, channels: int) -> None:
    """Refuses guidance of more channels than a state has.

    Args:
      channels: of the state.

    Raises:
      ValueError: more are guided.
    """
    guided = self.guidance.channels if self.guidance else None
    if guided and guided > channels:
      raise ValueError(
        f'config.sample.guidance_channels is {guided}, must be at most'
        f' {channels}, the channels of the state'
      )

  def check_scales(self, stages: int) -> None:
    """Refuses guidance scales of another number of stages.

    Args:
      stages: of the system.

    Raises:
      ValueError: one scale a stage, of other stages.
    """
    if self.guidance is None or np.ndim(self.guidance.scale) == 0:
      return
    (count,) = np.shape(self.guidance.scale)
    if count != stages:
      raise ValueError(
        f'sample.guidance_parts has {count} values, must be one number or'
        f' {stages}, coarse to fine'
      )

  def guidance_of(self, stage: int) -> classifier_free.Guidance | None:
    """Returns the guidance of a stage, counted from the coarsest, 0."""
    return None if self.guidance is None else self.guidance.of_stage(stage)

  def chain_levels(
    self, chain: schedules.Chain, stages: int = 1
  ) -> list[levels_lib.Levels]:
    """Returns the levels of each stage on a discrete chain.

    Raises:
      ValueError: an unknown spacing, a count that it cannot serve, or churn.
    """
    if self.churn.amount:
      raise ValueError(
        f'sample.churn is {self.churn.amount}, must be 0 on a discrete chain'
      )
    spacing = self.spacing
    if spacing == 'auto':
      spacing = solvers.SPACINGS[self.solver]
    return [
      timesteps.spaced_levels(chain, count, spacing, self.rho)
      for count in self.steps_of(stages)
    ]

  def edm_timesteps(self) -> edm_timesteps.EdmTimesteps:
    """Returns where the steps of a preconditioned network lie.

    Raises:
      ValueError: a spacing that continuous time does not have.
    """
    names = {
      'auto': self.discretization,
      'karras': 'edm',
      'log_snr': 'log_snr',
    }
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
  """Returns what `config.sample` says.

  Args:
    config: of a run; `config.diffusion.variance` is read where there is one.

  Raises:
    ValueError: a field out of its range.
  """
  s = config.sample
  if 'solver' not in s:  # a first stage, which nothing is sampled from
    return SamplerSpec()
  steps = s.steps
  return SamplerSpec(
    guidance=_guidance(s),
    solver=s.solver,
    steps=(steps,) if isinstance(steps, int) else tuple(steps),
    spacing=s.spacing,
    variance=config.get('diffusion', {}).get('variance', 'fixed_small'),
    eta=s.get('eta', 0.0),
    temperature=s.get('temperature', 1.0),
    discretization=s.get('discretization', 'edm'),
    rho=s.get('rho', 7.0),
    sigma_min=s.get('sigma_min', 0.0),
    sigma_max=s.get('sigma_max', 0.0),
    churn=edm_timesteps.Churn(
      amount=s.get('churn', 0.0),
      low=s.get('churn_min', 0.0),
      high=s.get('churn_max', 0.0) or math.inf,
      noise=s.get('churn_noise', 1.0),
    ),
    windows=tuple(s.get('windows', (0, 0))),
  )


def _guidance(sample: ConfigDict) -> classifier_free.Guidance | None:
  """Returns the guidance of a config, whose scale 1 means none."""
  if sample.guidance == 1:
    return None
  return classifier_free.Guidance(
    scale=_scales(sample.guidance, sample.get('guidance_parts', (1.0,))),
    interval=tuple(sample.guidance_interval) or (0.0, 1.0),
    channels=sample.get('guidance_channels', 0) or None,
    power=sample.get('guidance_power', 0.0) or None,
  )


def _scales(scale: float, parts: Sequence[float]) -> float | np.ndarray:
  """Returns the scale of all stages, or of each: 1 + part (scale - 1)."""
  scales = [1.0 + (scale - 1.0) * part for part in parts]
  return scales[0] if len(scales) == 1 else np.asarray(scales, np.float32)
