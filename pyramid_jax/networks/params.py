"""Modules applied to weights that are given as a tree."""

from typing import Any

from flax import linen as nn


def apply(module: nn.Module, params: Any, *args: Any, **kwargs: Any) -> Any:
  """Returns what a module, or its `method`, gives with these parameters."""
  return module.apply({'params': params}, *args, **kwargs)
