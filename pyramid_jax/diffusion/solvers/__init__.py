"""Solvers by name, one file each."""

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion.solvers import base
from pyramid_jax.diffusion.solvers import ddim
from pyramid_jax.diffusion.solvers import ddpm
from pyramid_jax.diffusion.solvers import dpm_solver
from pyramid_jax.diffusion.solvers import heun
from pyramid_jax.diffusion.solvers import plms
from pyramid_jax.diffusion.solvers import unipc


# The spacing of a chain's levels that suits each solver, where none is named.
SPACINGS = {
  'ddim': 'official',
  'plms': 'official',
  'ddpm': 'exact',
  'dpmpp_2m': 'log_snr',
  'unipc': 'log_snr',
  'heun': 'log_snr',
  'euler': 'official',
}
SOLVERS = tuple(SPACINGS)


def create(
  name: str,
  *,
  eta: float = 0.0,
  temperature: float = 1.0,
  variance: str = 'fixed_small',
  churn: float = 0.0,
) -> base.Solver:
  """Returns a solver by name.

  Args:
    name: one of `SOLVERS`.
    eta: noise of DDIM, 0 deterministic, 1 as noisy as DDPM.
    temperature: factor of the noise of DDIM and DDPM.
    variance: the variance of the steps of DDPM, see `ddpm.ancestral`.
    churn: whether Heun and Euler add noise, as much as their levels say.

  Raises:
    ValueError: an unknown name, or noise for a solver that adds none.
  """
  checks.one_of('sample.solver', name, SOLVERS)
  if eta and name != 'ddim':
    raise ValueError(f'sample.eta is {eta}, but {name} needs eta = 0')
  if temperature != 1 and name not in ('ddim', 'ddpm'):
    raise ValueError(
      f'sample.temperature is {temperature}, but {name} adds no noise'
    )
  if churn and name not in ('heun', 'euler'):
    raise ValueError(f'sample.churn is {churn}, but {name} needs churn = 0')
  solvers: dict[str, base.Solver] = {
    'ddim': ddim.DDIM(eta=eta, temperature=temperature),
    'plms': plms.PLMS(),
    'ddpm': ddpm.DDPM(temperature=temperature, variance=variance),
    'dpmpp_2m': dpm_solver.DPMSolverPP2M(),
    'unipc': unipc.UniPC(),
    'heun': heun.Heun(order=2, has_churn=churn > 0),
    'euler': heun.Heun(order=1, has_churn=churn > 0),
  }
  return solvers[name]
