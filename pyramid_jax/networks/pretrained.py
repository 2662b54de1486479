"""Weights of networks that are trained elsewhere and only used here."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedPart:
  """Weights that a system uses and never trains."""

  init: Callable[[jax.Array], Any]  # key -> tree, works under `jax.eval_shape`
  # The converter family of files of other code, a key of
  # `interop.convert.FAMILIES`.
  family: str
  # A workdir or a weight file; empty for a first stage that is trained in
  # `WORKDIR/first_stage`, else refused by the command.
  path: str = ''
  # The field of the config that holds `path`, for error messages.
  field: str = ''
  # Whose parameters of the workdir are this part; empty for the whole run, a
  # tree of `params` by loss name and `extra`.
  loss_name: str = 'generator'
  # Whether it is a denoiser that every step of a sampler applies. It is split
  # as what is trained, and training keeps its float32. Others are stored in the
  # element types in use, and large ones are split over all devices.
  is_denoiser: bool = False
  # Whether trained weights are added to its own. Neither are rounded before.
  is_summed: bool = False
