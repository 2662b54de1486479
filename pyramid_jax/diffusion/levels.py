"""Noise levels, tabulated in one class for all systems, and predictions there.

A noisy state is `alpha * x0 + sigma * eps`: on a discrete chain, in continuous
time (EDM), or with one alpha for each band of a Laplacian pyramid.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import laplacian


T = TypeVar('T')


def static(default: Any) -> Any:
  """Returns a field of a `flax.struct.dataclass` that is not traced."""
  return flax.struct.field(pytree_node=False, default=default)


@flax.struct.dataclass
class Levels:
  """Noise levels: S + 1 rows in sampling order, the last is the end level.

  A single row has scalars. Of a Laplacian pyramid, `alpha`, `dalpha`, `keep`,
  `noise`, `log_beta` and `log_variance` have a last axis of K bands, finest
  first.

  Attributes:
    time: (S+1,) float32, what the network is given.
    alpha: (S+1,) or (S+1, K) float32, factor of the clean state.
    sigma: (S+1,) float32, factor of the noise.
    part: (S+1,) float32, the place in the process's time, 0 clean to 1.
    log_beta: (S+1,) float32, log variance of the noise that leads from the
      next row's level to this one's (ancestral sampling; 0 in the last row).
    log_variance: (S+1,) float32, clipped log variance of the posterior.
    t: (S+1,) float32, the variable of integration of Heun's and Euler's rules.
    frame: (S+1,) float32; these rules integrate the state divided by it.
    dalpha: (S+1,) or (S+1, K) float32, d(alpha / frame) / dt.
    dsigma: (S+1,) float32, d(sigma / frame) / dt.
    is_trained: (S+1,) bool, whether the network may be called at this level;
      False at the end of a sweep.
    h: (S+1,) float32, the step in t, from `hat` if given, to the next row.
    hat: the levels to which noise raises the state before each step, t_hat of
      arXiv:2206.00364, algorithm 2; None where no step adds noise.
    mid: the levels of second network calls; None for those of the next row.
    keep: factor of the state when it is raised to `hat`.
    noise: standard deviation of the noise that is added then.
    initial_std: standard deviation of the state in which a whole sweep begins.
    has_bands: whether there is an axis of bands.
  """

  time: jax.Array
  alpha: jax.Array
  sigma: jax.Array
  part: jax.Array
  log_beta: jax.Array
  log_variance: jax.Array
  t: jax.Array
  frame: jax.Array
  dalpha: jax.Array
  dsigma: jax.Array
  is_trained: jax.Array
  h: jax.Array
  hat: 'Levels | None' = None
  mid: 'Levels | None' = None
  keep: jax.Array | None = None
  noise: jax.Array | None = None
  initial_std: float = static(1.0)
  has_bands: bool = static(False)

  def times(self, factor: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the state x (B, H, W, C) times a factor, band by band if any."""
    return laplacian.mix(factor, x) if self.has_bands else factor * x

  def noised(self, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns the noisy state of a clean one and of standard noise."""
    return self.times(self.alpha, x0) + self.sigma * eps

  def kept(self, ahead: 'Levels') -> jax.Array:
    """Returns alpha over that of the next row `ahead`, 1 where both are 0."""
    safe = jnp.where(ahead.alpha > 0, ahead.alpha, 1.0)
    return jnp.where(ahead.alpha > 0, self.alpha / safe, 1.0)

  def renewed(self, ahead: 'Levels') -> jax.Array:
    """Returns the deviation of DDIM's noise, eta = 1, to the row `ahead`."""
    ratio = self.kept(ahead) * ahead.sigma / self.sigma
    return ahead.sigma * jnp.sqrt(jnp.maximum(1.0 - jnp.square(ratio), 0.0))

  def slope(self, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns d(x / frame) / dt of the noise-free process."""
    return self.dsigma * eps + self.times(self.dalpha, x0)


@flax.struct.dataclass
class Prediction:
  """A predicted clean state and the noise that it leaves, (B, H, W, C) each.

  Attributes:
    x0: the clean state.
    eps: the noise.
    variance: the raw output of a network that also learned the variance of
      ancestral steps, see `solvers.ddpm`; other solvers ignore it.
    gradient: that of a log probability by the state, by which ancestral steps
      move their mean, see `guidance.classifier`; other solvers ignore it.
    features: the requested activations of the network, by name.
  """

  x0: jax.Array
  eps: jax.Array
  variance: jax.Array | None = None
  gradient: jax.Array | None = None
  features: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)

  @classmethod
  def from_eps(cls, x: jax.Array, eps: jax.Array, level: Levels):
    """Completes a predicted noise by the clean state it implies."""
    return cls(x0=(x - level.sigma * eps) / level.alpha, eps=eps)

  @classmethod
  def from_x0(cls, x: jax.Array, x0: jax.Array, level: Levels):
    """Completes a predicted clean state by its noise, 0 at a clean level."""
    inverse = jnp.where(
      level.sigma > 0, 1.0 / jnp.where(level.sigma > 0, level.sigma, 1.0), 0.0
    )
    return cls(x0=x0, eps=(x - level.times(level.alpha, x0)) * inverse)

  def clipped(self, x: jax.Array, level: Levels) -> 'Prediction':
    """Returns it with a clean state in [-1, 1], and the noise that x leaves."""
    kept = self.from_x0(x, jnp.clip(self.x0, -1.0, 1.0), level)
    return dataclasses.replace(self, x0=kept.x0, eps=kept.eps)

  @classmethod
  def from_v(cls, x: jax.Array, v: jax.Array, level: Levels):
    """Takes v = alpha * eps - sigma * x0 apart (arXiv:2202.00512)."""
    return cls(
      x0=level.alpha * x - level.sigma * v,
      eps=level.sigma * x + level.alpha * v,
    )

  @classmethod
  def of(
    cls, parameterization: str, x: jax.Array, value: jax.Array, level: Levels
  ):
    """Completes what a network predicts of x.

    Args:
      parameterization: 'eps', 'x0' or 'v', see `gaussian.target`.
      x: (B, H, W, C) the noisy state.
      value: (B, H, W, C) the network's output, or (B, H, W, 2C) with the raw
        variance of ancestral steps in the second half.
      level: the level of x.

    Raises:
      ValueError: unknown parameterization.
    """
    gaussian.check_parameterization(parameterization)
    build = {'eps': cls.from_eps, 'x0': cls.from_x0, 'v': cls.from_v}
    if value.shape[-1] != 2 * x.shape[-1]:
      return build[parameterization](x, value, level)
    value, variance = jnp.split(value, 2, axis=-1)
    prediction = build[parameterization](x, value, level)
    return prediction.replace(variance=variance)


def count(levels: Levels) -> int:
  """Returns S."""
  return levels.time.shape[0] - 1


def row(tree: T, index: int | slice) -> T:
  """Returns one row (scalars) of levels or of another tree, or a slice."""
  return jax.tree.map(lambda a: a[index], tree)


def float32(x: Any) -> Any:
  """Rounds a float64 table on the host."""
  return np.asarray(x, np.float32)


def make(
  *,
  time: np.ndarray,
  alpha: np.ndarray,
  sigma: np.ndarray,
  part: np.ndarray,
  is_trained: Any,
  path: Sequence[np.ndarray] = (),
  logs: Sequence[np.ndarray] = (),
) -> Levels:
  """Returns levels on the host, rounded from what was tabulated in float64.

  The other arguments are those of `Levels`.

  Args:
    path: `t`, `dalpha` and `dsigma` for a frame of 1; without it, the frame is
      alpha and t is sigma / alpha, where an Euler step is a DDIM step.
    logs: `log_beta` and `log_variance`; without it, `ancestral_logs`, or zeros
      where the rows are not in sampling order.
  """
  if path:
    (t, dalpha, dsigma), frame = path, np.ones_like(sigma)
  else:
    t, frame = sigma / alpha, alpha
    dalpha, dsigma = np.zeros_like(alpha), np.ones_like(alpha)
  if not logs:
    logs = (np.zeros_like(alpha),) * 2
    if np.all(np.diff(sigma) < 0):
      logs = ancestral_logs(alpha, sigma)
  return Levels(
    time=float32(time),
    alpha=float32(alpha),
    sigma=float32(sigma),
    part=float32(part),
    log_beta=float32(logs[0]),
    log_variance=float32(logs[1]),
    t=float32(t),
    frame=float32(frame),
    dalpha=float32(dalpha),
    dsigma=float32(dsigma),
    is_trained=is_trained,
    h=float32(np.append(np.diff(t), 0.0)),
    has_bands=alpha.ndim > 1,
  )


def ancestral_logs(
  alpha: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `log_beta` and `log_variance` of any Gaussian process.

  The noise from the next row's level to this one's has the variance
  sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 (arXiv:2107.00630, appendix A).
  The last sigma may be 0.
  """
  sigma = sigma.reshape(sigma.shape + (1,) * (alpha.ndim - 1))
  ahead = alpha[1:]
  ratio = np.divide(alpha[:-1], ahead, out=np.ones_like(ahead), where=ahead > 0)
  beta = sigma[:-1] ** 2 - (ratio * sigma[1:]) ** 2
  small = beta * sigma[1:] ** 2 / sigma[:-1] ** 2
  logs = [np.log(np.maximum(v, 1e-20)) for v in (beta, small)]
  end = np.zeros_like(alpha[:1])
  return np.concatenate([logs[0], end]), np.concatenate([logs[1], end])
