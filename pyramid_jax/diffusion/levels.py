"""The noise levels that a sampler walks, tabulated; one class for all systems.

A noisy state is `alpha * x0 + sigma * eps`: on a discrete chain, in continuous
time (EDM), or with one alpha for each band of a Laplacian pyramid.
"""

from typing import Any
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import laplacian


T = TypeVar('T')


@flax.struct.dataclass
class Levels:
  """Noise levels: S + 1 rows in sampling order, the last is the end level.

  One row, as a solver sees it, has scalars. Of a Laplacian pyramid, `alpha`,
  `dalpha`, `keep`, `noise`, `log_beta` and `log_variance` have a last axis of
  K bands, finest first.

  Attributes:
    time: (S+1,) float32, what the network is given.
    alpha: (S+1,) or (S+1, K) float32, factor of the clean state.
    sigma: (S+1,) float32, factor of the noise.
    part: (S+1,) float32, the place in the process's time, 0 clean to 1.
    log_beta: (S+1,) float32, log variance of the noise that leads from the
      next row's level to this one's (ancestral sampling; 0 in the last row).
    log_variance: (S+1,) float32, clipped log variance of the posterior.
    t: (S+1,) float32, the variable that Heun's and Euler's rules integrate in.
    frame: (S+1,) float32; these rules integrate the state divided by it.
    dalpha: (S+1,) or (S+1, K) float32, d(alpha / frame) / dt.
    dsigma: (S+1,) float32, d(sigma / frame) / dt.
    is_trained: (S+1,) bool, whether the network may be asked at this level;
      False at the end of a sweep.
    h: (S+1,) float32, from t, of `hat` where there is one, to the next row's.
    hat: the levels where steps begin after noise is added (arXiv:2206.00364,
      algorithm 2); None where no step adds any.
    mid: the levels of second network calls; None for those of the next row.
    keep: factor of the state on the way to `hat`.
    noise: standard deviation of what is added on that way.
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
  initial_std: float = flax.struct.field(pytree_node=False, default=1.0)
  has_bands: bool = flax.struct.field(pytree_node=False, default=False)

  def times(self, factor: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the state x (B, H, W, C) times a factor, band by band if any."""
    return laplacian.mix(factor, x) if self.has_bands else factor * x

  def noised(self, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns the noisy state of a clean one and of standard noise."""
    return self.times(self.alpha, x0) + self.sigma * eps

  def kept(self, ahead: 'Levels') -> jax.Array:
    """Returns alpha over that of the next row, 1 where both are 0.

    Args:
      ahead: the next row.
    """
    safe = jnp.where(ahead.alpha > 0, ahead.alpha, 1.0)
    return jnp.where(ahead.alpha > 0, self.alpha / safe, 1.0)

  def renewed(self, ahead: 'Levels') -> jax.Array:
    """Returns the deviation of the noise that eta = 1 draws anew (DDIM).

    Args:
      ahead: the next row.
    """
    ratio = self.kept(ahead) * ahead.sigma / self.sigma
    return ahead.sigma * jnp.sqrt(jnp.maximum(1.0 - jnp.square(ratio), 0.0))

  def slope(self, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns d(x / frame) / dt of the noise-free process.

    Args:
      x0: (B, H, W, C) the clean state.
      eps: (B, H, W, C) the noise.
    """
    moved = self.dsigma * eps
    if self.has_bands:
      return moved + self.times(self.dalpha, x0)
    return moved + self.dalpha * x0


def count(levels: Levels) -> int:
  """Returns S, the number of steps through the levels."""
  return levels.time.shape[0] - 1


def row(tree: T, index: int | slice) -> T:
  """Returns one row (scalars) of levels or of another tree, or a slice."""
  return jax.tree.map(lambda a: a[index], tree)


def float32(x: Any) -> Any:
  """Rounds what was tabulated in float64; the result stays on the host."""
  return np.asarray(x, np.float32)


def flags(x: Any) -> Any:
  """Returns booleans on the host."""
  return np.asarray(x, bool)


def ancestral_logs(
  alpha: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns `log_beta` and `log_variance` of any Gaussian process.

  The noise from the next row's level to this one's has the variance
  sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 (arXiv:2107.00630, appendix A).

  Args:
    alpha: (S+1,) or (S+1, K) float64.
    sigma: (S+1,) float64; the last may be 0.
  """
  sigma = sigma.reshape(sigma.shape + (1,) * (alpha.ndim - 1))
  ahead = alpha[1:]
  ratio = np.divide(alpha[:-1], ahead, out=np.ones_like(ahead), where=ahead > 0)
  beta = sigma[:-1] ** 2 - (ratio * sigma[1:]) ** 2
  small = beta * sigma[1:] ** 2 / sigma[:-1] ** 2
  logs = [np.log(np.maximum(v, 1e-20)) for v in (beta, small)]
  end = np.zeros_like(alpha[:1])
  return np.concatenate([logs[0], end]), np.concatenate([logs[1], end])
