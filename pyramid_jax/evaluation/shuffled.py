"""Conditions of other examples, to see what the conditions bring."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np


def condition(config: ConfigDict, batch: Mapping[str, Any]) -> dict[str, Any]:
  """Gives every example the edges of its neighbour, if the config asks.

  Args:
    config: of the run.
    batch: arrays of B examples, on the host or on a device.
  """
  batch = dict(batch)
  if 'edges' in batch and config.sketch.shuffled_condition:
    edges = batch['edges']
    roll = np.roll if isinstance(edges, np.ndarray) else jnp.roll
    batch['edges'] = roll(edges, 1, axis=0)
  return batch
