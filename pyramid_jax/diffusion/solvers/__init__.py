"""Solvers by name, one file each."""

from pyramid_jax.diffusion.solvers import base
from pyramid_jax.diffusion.solvers import ddim
from pyramid_jax.diffusion.solvers import ddpm
from pyramid_jax.diffusion.solvers import dpm_solver
from pyramid_jax.diffusion.solvers import heun
from pyramid_jax.diffusion.solvers import plms
from pyramid_jax.diffusion.solvers import unipc


SOLVERS = ('ddim', 'plms', 'ddpm', 'dpmpp_2m', 'unipc', 'heun', 'euler')
# The spacing of a chain's levels that suits a solver, where none is named.
SPACINGS = {
  'ddim': 'official',
  'plms': 'official',
  'ddpm': 'exact',
  'dpmpp_2m': 'log_snr',
  'unipc': 'log_snr',
  'heun': 'log_snr',
  'euler': 'official',
}


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
    variance: of the steps of DDPM, see `ddpm.ancestral`.
    churn: noise that Heun and Euler add anew; their levels hold how much.

  Raises:
    ValueError: unknown name, or noise where a solver has none.
  """
  if name not in SOLVERS:
    raise ValueError(f'sample.solver {name!r} is not one of {SOLVERS}')
  if eta and name != 'ddim':
    raise ValueError(f'sample.eta is {eta}, but {name} needs eta = 0')
  if temperature != 1 and name not in ('ddim', 'ddpm'):
    raise ValueError(
      f'sample.temperature is {temperature}, but {name} adds no noise'
    )
  if churn and name not in ('heun', 'euler'):
    raise ValueError(f'sample.churn is {churn}, but {name} needs churn = 0')
  if name == 'ddim':
    return ddim.DDIM(eta=eta, temperature=temperature)
  if name == 'ddpm':
    return ddpm.DDPM(temperature=temperature, variance=variance)
  if name in ('heun', 'euler'):
    return heun.Heun(order=2 if name == 'heun' else 1, has_churn=churn > 0)
  if name == 'plms':
    return plms.PLMS()
  return dpm_solver.DPMSolverPP2M() if name == 'dpmpp_2m' else unipc.UniPC()
