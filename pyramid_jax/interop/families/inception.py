"""The Inception-v3 behind FID: keys of its PyTorch port.

`pt_inception-2015-12-05-6726825d.pth` of mseitzer/pytorch-fid. Parameters and
running statistics are one tree: {'params': ..., 'batch_stats': ...}.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.interop import mapping
from pyramid_jax.networks import inception


_COUNTER = '.num_batches_tracked'


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key of a parameter or statistic, and its kind."""
  _, *modules, leaf = path
  kernel = 'linear' if modules == ['fc'] else 'conv'
  return mapping.official('.'.join(modules), leaf, kernel)


def adapt(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """Leaves out the counters of batches, which say nothing in evaluation."""
  names = {key: key for key in state if not key.endswith(_COUNTER)}
  return mapping.Renamed(state, names)


def template(network: inception.InceptionV3 | None = None) -> dict[str, Any]:
  """Returns the shapes of all variables; of the published network if None."""
  network = network or inception.InceptionV3()
  image = jnp.zeros((1, inception.SIDE, inception.SIDE, 3))
  return jax.eval_shape(network.init, jax.random.key(0), image)
