"""Random weights under which the features of Inception-v3 stay alive."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks import inception


class Small(nn.Module):
  """16 pixels of a corner of an image, and a layer."""

  @nn.compact
  def __call__(self, x):
    x = x[:, :100:25, :100:25].reshape(len(x), -1)
    x = jnp.tanh(nn.Dense(20, precision='highest', name='fc')(x) / 4)
    return inception.Outputs(
      pool=x[:, :6],
      spatial=x[:, 6:10],
      logits=3 * x[:, 10:],
      logits_unbiased=4 * x[:, 10:],
    )


def variables(network: nn.Module) -> dict[str, Any]:
  """Returns parameters and statistics of a (small) network."""
  image = np.zeros((1, 107, 107, 3), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    name = path[-1].key
    if name == 'kernel':
      return noise * np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
    return 0.1 * noise + (1 if name in ('scale', 'var') else 0)

  return jax.tree_util.tree_map_with_path(fill, shapes)
