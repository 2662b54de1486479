"""Weights of networks that are trained elsewhere and only used here."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenPart:
  """Weights that a system uses and never trains.

  Attributes:
    init: key -> tree, works under `jax.eval_shape`.
    family: the converter family of foreign files, a key of
      `interop.convert.FAMILIES`.
    path: a workdir or a weight file; empty: the top floor decides (a first
      stage is trained in `WORKDIR/first_stage`) or refuses.
    field: the field of the config that holds `path`, for error messages.
    loss_name: of the workdir's parameters that are this part; empty: all of
      the run, a tree of `params` by loss name and `extra`.
  """

  init: Callable[[jax.Array], Any]
  family: str
  path: str = ''
  field: str = ''
  loss_name: str = 'generator'
