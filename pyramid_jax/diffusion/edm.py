"""EDM (arXiv:2206.00364): preconditioning; `edm_loss` trains with it.

A noisy image is `y + sigma * eps`. A preconditioning turns a raw network F
into a denoiser D(x; sigma) = c_skip x + c_out F(c_in x; c_noise). Its functions
take JAX arrays, or NumPy arrays, which they keep in float64.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib


# (x, c_noise) -> the raw output; a second half of its channels is ignored.
Network = Callable[[jax.Array, jax.Array], jax.Array]
_math = gaussian.array_library


def vp_sigma(t: Any, beta_d: float, beta_min: float) -> Any:
  """Returns the noise level at time t of the VP process (table 1)."""
  m = _math(t)
  return m.sqrt(m.expm1(0.5 * beta_d * t**2 + beta_min * t))


def vp_time(sigma: Any, beta_d: float, beta_min: float) -> Any:
  """Returns the time at which the VP process has a noise level."""
  m = _math(sigma)
  log = m.log1p(sigma**2)
  # The root of the quadratic in the form that keeps digits near zero.
  return 2.0 * log / (m.sqrt(beta_min**2 + 2.0 * beta_d * log) + beta_min)


@functools.lru_cache
def iddpm_sigmas(length: int, c1: float, c2: float) -> np.ndarray:
  """Returns the (M + 1,) falling levels u_0 .. u_M = 0 of iDDPM (table 1)."""
  bar = np.sin(0.5 * np.pi * np.arange(length + 1) / length / (c2 + 1)) ** 2
  u = np.zeros(length + 1)
  for j in range(length, 0, -1):
    u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(bar[j - 1] / bar[j], c1) - 1)
  u.flags.writeable = False
  return u


def check_range(low: float, high: float, zero: bool = False) -> None:
  """Refuses noise levels that do not rise from above 0, or 0 with `zero`."""
  allowed = f'{"at least" if zero else "above"} 0 and below sigma_max {high}'
  ok = (low >= 0 if zero else low > 0) and low < high
  checks.check('sigma_min', low, ok, allowed)


class Preconditioning:
  """A column of table 1 as functions of noise levels of any shape.

  The defaults are those of networks that predict the noise of a
  variance-preserving state.
  """

  @property
  def sigma_min(self) -> float:
    """The lowest level that the network was trained for."""
    raise NotImplementedError

  @property
  def sigma_max(self) -> float:
    """The highest level that the network was trained for."""
    raise NotImplementedError

  def c_skip(self, sigma: Any) -> Any:
    return _math(sigma).ones_like(sigma)

  def c_out(self, sigma: Any) -> Any:
    return -sigma

  def c_in(self, sigma: Any) -> Any:
    return 1.0 / _math(sigma).sqrt(sigma**2 + 1.0)

  def c_noise(self, sigma: Any) -> Any:
    raise NotImplementedError

  def round_sigma(self, sigma: Any) -> Any:
    """Returns the nearest levels that the network was trained for."""
    return sigma


@dataclasses.dataclass(frozen=True, kw_only=True)
class VP(Preconditioning):
  """A network that was trained on the VP process (arXiv:2011.13456).

  Attributes:
    beta_d: growth of the rate of noise.
    beta_min: the rate at time 0.
    length: M; the network is given M - 1 at time 1.
    epsilon_t: the smallest trained time.
  """

  beta_d: float = 19.9
  beta_min: float = 0.1
  length: int = 1000
  epsilon_t: float = 1e-5

  def __post_init__(self):
    checks.check('beta_d', self.beta_d, self.beta_d >= 0, 'at least 0')
    checks.check('beta_min', self.beta_min, self.beta_min > 0, 'above 0')
    ok = 0 < self.epsilon_t < 1
    checks.check('epsilon_t', self.epsilon_t, ok, 'between 0 and 1')

  @property
  def sigma_min(self) -> float:
    return float(vp_sigma(self.epsilon_t, self.beta_d, self.beta_min))

  @property
  def sigma_max(self) -> float:
    return float(vp_sigma(1.0, self.beta_d, self.beta_min))

  def c_noise(self, sigma: Any) -> Any:
    return (self.length - 1) * vp_time(sigma, self.beta_d, self.beta_min)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VE(Preconditioning):
  """A network that was trained on the VE process (arXiv:2011.13456)."""

  sigma_min: float = 0.02
  sigma_max: float = 100.0

  def __post_init__(self):
    check_range(self.sigma_min, self.sigma_max)

  def c_out(self, sigma: Any) -> Any:
    return sigma

  def c_in(self, sigma: Any) -> Any:
    return _math(sigma).ones_like(sigma)

  def c_noise(self, sigma: Any) -> Any:
    return _math(sigma).log(0.5 * sigma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IDDPM(Preconditioning):
  """A network of iDDPM (arXiv:2102.09672), which knows M levels.

  Attributes:
    c1: the smallest ratio of two neighbours' alphas_bar.
    c2: offset of the cosine schedule.
    length: M.
  """

  c1: float = 1e-3
  c2: float = 8e-3
  length: int = 1000

  def __post_init__(self):
    checks.check('C_1', self.c1, 0 < self.c1 < 1, 'between 0 and 1')
    checks.check('C_2', self.c2, self.c2 >= 0, 'at least 0')
    checks.check('M', self.length, self.length >= 2, 'at least 2')

  @property
  def sigmas(self) -> np.ndarray:
    """(M + 1,) the trained levels, falling to 0."""
    return iddpm_sigmas(self.length, self.c1, self.c2)

  @property
  def sigma_min(self) -> float:
    return float(self.sigmas[-2])

  @property
  def sigma_max(self) -> float:
    return float(self.sigmas[0])

  def c_noise(self, sigma: Any) -> Any:
    m = _math(sigma)
    return m.asarray(self.length - 1 - self.index(sigma), m.float32)

  def index(self, sigma: Any) -> Any:
    """Returns the index in `sigmas` of the level nearest to each sigma."""
    m = _math(sigma)
    u = m.asarray(self.sigmas)
    return m.argmin(m.abs(m.asarray(sigma)[..., None] - u), axis=-1)

  def round_sigma(self, sigma: Any) -> Any:
    return _math(sigma).asarray(self.sigmas)[self.index(sigma)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDM(Preconditioning):
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
    checks.check('sigma_data', self.sigma_data, self.sigma_data > 0, 'above 0')

  def c_skip(self, sigma: Any) -> Any:
    return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

  def c_out(self, sigma: Any) -> Any:
    return sigma * self.sigma_data * self.c_in(sigma)

  def c_in(self, sigma: Any) -> Any:
    return 1.0 / _math(sigma).sqrt(sigma**2 + self.sigma_data**2)

  def c_noise(self, sigma: Any) -> Any:
    return _math(sigma).log(sigma) / 4.0


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
  checks.one_of('preconditioning', name, PRECONDITIONINGS)
  return _PRECONDITIONINGS[name](**options)


def denoise(
  precond: Preconditioning, network: Network, x: jax.Array, sigma: jax.Array
) -> jax.Array:
  """Returns D(x; sigma), (B, H, W, C) float32, at sigma > 0, (B,) or scalar."""
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
) -> levels_lib.Prediction:
  """Returns the prediction of `denoise` for x = alpha * (y + sigma * eps)."""
  sigma = level.sigma / level.alpha
  x0 = denoise(precond, network, x / level.alpha, sigma)
  return levels_lib.Prediction.from_x0(x, x0, level)
