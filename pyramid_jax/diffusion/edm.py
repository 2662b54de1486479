"""EDM (arXiv:2206.00364): preconditioning; `edm_loss` trains with it.

A noisy image is `y + sigma * eps`. A preconditioning turns a raw network F
into a denoiser D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), for the
networks of four papers (table 1). Its functions take NumPy arrays, which they
keep in float64 (time grids on the host), or JAX arrays.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
import types
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib


# (x, c_noise) -> the raw output; a second half of its channels is ignored.
Network = Callable[[jax.Array, jax.Array], jax.Array]


def _math(x: Any) -> types.ModuleType:
  """Returns the library that an array belongs to."""
  return jnp if isinstance(x, jax.Array) else np


def vp_sigma(t: Any, beta_d: float, beta_min: float) -> Any:
  """Returns the noise level at time t of the VP process (table 1)."""
  m = _math(t)
  return m.sqrt(m.expm1(0.5 * beta_d * t**2 + beta_min * t))


def vp_time(sigma: Any, beta_d: float, beta_min: float) -> Any:
  """Returns the time at which the VP process has a noise level.

  The root of the quadratic in the form that keeps digits near zero.
  """
  m = _math(sigma)
  log = m.log1p(sigma**2)
  return 2.0 * log / (m.sqrt(beta_min**2 + 2.0 * beta_d * log) + beta_min)


@functools.lru_cache
def iddpm_sigmas(length: int, c1: float, c2: float) -> np.ndarray:
  """Returns the (M + 1,) falling levels u_0 .. u_M = 0 of iDDPM, float64.

  The row "time steps" of table 1.
  """
  bar = np.sin(0.5 * np.pi * np.arange(length + 1) / length / (c2 + 1)) ** 2
  u = np.zeros(length + 1)
  for j in range(length, 0, -1):
    u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(bar[j - 1] / bar[j], c1) - 1)
  u.flags.writeable = False
  return u


def check(name: str, value: float, ok: bool, allowed: str) -> None:
  """Raises ValueError of one line where a value is not `ok`."""
  if not ok:
    raise ValueError(f'{name} is {value}, must be {allowed}')


def check_range(low: float, high: float, zero: bool = False) -> None:
  """Refuses noise levels that do not rise from above 0, or from 0 on."""
  allowed = f'{"at least" if zero else "above"} 0 and below sigma_max {high}'
  ok = (low >= 0 if zero else low > 0) and low < high
  check('sigma_min', low, ok, allowed)


class Preconditioning(Protocol):
  """See the module docstring; table 1 of the paper.

  `sigma_min` and `sigma_max` bound what the network was trained for,
  `round_sigma` gives the nearest such level.
  """

  @property
  def sigma_min(self) -> float: ...

  @property
  def sigma_max(self) -> float: ...

  def c_skip(self, sigma: Any) -> Any: ...

  def c_out(self, sigma: Any) -> Any: ...

  def c_in(self, sigma: Any) -> Any: ...

  def c_noise(self, sigma: Any) -> Any: ...

  def round_sigma(self, sigma: Any) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class VP:
  """Of a network that was trained on the VP process (arXiv:2011.13456).

  Attributes:
    beta_d: growth of the rate of noise.
    beta_min: the rate at time 0.
    length: M, time 1 is told as M - 1.
    epsilon_t: the smallest trained time.
  """

  beta_d: float = 19.9
  beta_min: float = 0.1
  length: int = 1000
  epsilon_t: float = 1e-5

  def __post_init__(self):
    check_vp(self.beta_d, self.beta_min, self.epsilon_t)

  @property
  def sigma_min(self) -> float:
    return float(vp_sigma(self.epsilon_t, self.beta_d, self.beta_min))

  @property
  def sigma_max(self) -> float:
    return float(vp_sigma(1.0, self.beta_d, self.beta_min))

  def c_skip(self, sigma: Any) -> Any:
    return _math(sigma).ones_like(sigma)

  def c_out(self, sigma: Any) -> Any:
    return -sigma

  def c_in(self, sigma: Any) -> Any:
    return 1.0 / _math(sigma).sqrt(sigma**2 + 1.0)

  def c_noise(self, sigma: Any) -> Any:
    return (self.length - 1) * vp_time(sigma, self.beta_d, self.beta_min)

  def round_sigma(self, sigma: Any) -> Any:
    return sigma


def check_vp(beta_d: float, beta_min: float, epsilon_t: float) -> None:
  """Refuses what is no VP process."""
  check('beta_d', beta_d, beta_d >= 0, 'at least 0')
  check('beta_min', beta_min, beta_min > 0, 'above 0')
  check('epsilon_t', epsilon_t, 0 < epsilon_t < 1, 'between 0 and 1')


@dataclasses.dataclass(frozen=True, kw_only=True)
class VE:
  """Of a network that was trained on the VE process (arXiv:2011.13456)."""

  sigma_min: float = 0.02
  sigma_max: float = 100.0

  def __post_init__(self):
    check_range(self.sigma_min, self.sigma_max)

  def c_skip(self, sigma: Any) -> Any:
    return _math(sigma).ones_like(sigma)

  def c_out(self, sigma: Any) -> Any:
    return sigma

  def c_in(self, sigma: Any) -> Any:
    return _math(sigma).ones_like(sigma)

  def c_noise(self, sigma: Any) -> Any:
    return _math(sigma).log(0.5 * sigma)

  def round_sigma(self, sigma: Any) -> Any:
    return sigma


@dataclasses.dataclass(frozen=True, kw_only=True)
class IDDPM:
  """Of a network of iDDPM (arXiv:2102.09672), which knows M levels.

  Attributes:
    c1: the smallest ratio of two neighbours' alphas_bar.
    c2: offset of the cosine schedule.
    length: M.
  """

  c1: float = 1e-3
  c2: float = 8e-3
  length: int = 1000

  def __post_init__(self):
    check('C_1', self.c1, 0 < self.c1 < 1, 'between 0 and 1')
    check('C_2', self.c2, self.c2 >= 0, 'at least 0')
    check('M', self.length, self.length >= 2, 'at least 2')

  @property
  def sigmas(self) -> np.ndarray:
    """(M + 1,) the trained levels, falling, the last is 0."""
    return iddpm_sigmas(self.length, self.c1, self.c2)

  @property
  def sigma_min(self) -> float:
    return float(self.sigmas[-2])

  @property
  def sigma_max(self) -> float:
    return float(self.sigmas[0])

  def c_skip(self, sigma: Any) -> Any:
    return _math(sigma).ones_like(sigma)

  def c_out(self, sigma: Any) -> Any:
    return -sigma

  def c_in(self, sigma: Any) -> Any:
    return 1.0 / _math(sigma).sqrt(sigma**2 + 1.0)

  def c_noise(self, sigma: Any) -> Any:
    m = _math(sigma)
    return m.asarray(self.length - 1 - self.index(sigma), m.float32)

  def index(self, sigma: Any) -> Any:
    """Returns where in `sigmas` the level nearest to each sigma stands."""
    m = _math(sigma)
    u = m.asarray(self.sigmas)
    return m.argmin(m.abs(m.asarray(sigma)[..., None] - u), axis=-1)

  def round_sigma(self, sigma: Any) -> Any:
    return _math(sigma).asarray(self.sigmas)[self.index(sigma)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM:
  """The paper's own: inputs and targets of unit variance at every level.

  Attributes:
    sigma_min: the smallest supported level.
    sigma_max: the largest.
    sigma_data: standard deviation of the clean images.
  """

  sigma_min: float = 0.0
  sigma_max: float = math.inf
  sigma_data: float = 0.5

  def __post_init__(self):
    check_range(self.sigma_min, self.sigma_max, zero=True)
    check('sigma_data', self.sigma_data, self.sigma_data > 0, 'above 0')

  def c_skip(self, sigma: Any) -> Any:
    return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

  def c_out(self, sigma: Any) -> Any:
    return sigma * self.sigma_data * self.c_in(sigma)

  def c_in(self, sigma: Any) -> Any:
    return 1.0 / _math(sigma).sqrt(sigma**2 + self.sigma_data**2)

  def c_noise(self, sigma: Any) -> Any:
    return _math(sigma).log(sigma) / 4.0

  def round_sigma(self, sigma: Any) -> Any:
    return sigma


_PRECONDITIONINGS: dict[str, Callable[..., Preconditioning]] = {
  'vp': VP,
  've': VE,
  'iddpm': IDDPM,
  'edm': EDM,
}
PRECONDITIONINGS = tuple(_PRECONDITIONINGS)


def make_preconditioning(name: str, **options: Any) -> Preconditioning:
  """Returns a preconditioning by name, with the attributes of its class.

  Raises:
    ValueError: unknown name, or an attribute out of range.
  """
  if name not in _PRECONDITIONINGS:
    raise ValueError(
      f'preconditioning {name!r} is not one of {PRECONDITIONINGS}'
    )
  return _PRECONDITIONINGS[name](**options)


def denoise(
  precond: Preconditioning, network: Network, x: jax.Array, sigma: jax.Array
) -> jax.Array:
  """Returns D(x; sigma), (B, H, W, C) float32.

  Args:
    precond: what stands around the network.
    network: (c_in x, c_noise) -> (B, H, W, C or 2C).
    x: (B, H, W, C) noisy images.
    sigma: (B,) or scalar, above 0.
  """
  x = x.astype(jnp.float32)
  skip, out, scale = (
    gaussian.per_example(jnp.asarray(c(sigma), jnp.float32), x)
    for c in (precond.c_skip, precond.c_out, precond.c_in)
  )
  raw = network(scale * x, precond.c_noise(sigma))[..., : x.shape[-1]]
  return skip * x + out * raw.astype(jnp.float32)


def predict(
  precond: Preconditioning,
  network: Network,
  x: jax.Array,
  level: levels_lib.Levels,
) -> prediction_lib.Prediction:
  """Returns what a solver asks for at a level alpha * (y + sigma * eps)."""
  sigma = level.sigma / level.alpha
  x0 = denoise(precond, network, x / level.alpha, sigma)
  return prediction_lib.Prediction.from_x0(x, x0, level)
