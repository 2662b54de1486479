"""Where the weights of a whole model come from: a run, or a release."""

from collections.abc import Mapping
import os
from typing import Any

from pyramid_jax import errors
from pyramid_jax.interop import diffusers_folder
from pyramid_jax.runs import checkpoints


def load(
  folder: str | os.PathLike[str],
  abstract: Mapping[str, Any],
  step: int | None = None,
  averaged: bool = True,
  with_retired: bool = False,
) -> dict[str, Any]:
  """Returns the weights of a workdir, or of a folder of diffusers.

  Args:
    folder: of a run, or of a pipeline of diffusers, which has no checkpoints.
    abstract: see `checkpoints.load`.
    step: of the checkpoint; None = the newest valid one.
    averaged: whether averages replace the parameters that have some.
    with_retired: see `checkpoints.load`.

  Raises:
    UserError: there are none, they are damaged, or of another network.
  """
  if not diffusers_folder.is_folder(folder):
    return checkpoints.load(folder, abstract, step, averaged, with_retired)
  if step is not None:
    raise errors.UserError(
      f'{folder} is a folder of diffusers, which has no checkpoint of step'
      f' {step}.',
      errors.MISSING,
    )
  return diffusers_folder.load(folder, abstract)


def frozen(folder: str | os.PathLike[str], step: int) -> dict[str, str]:
  """Returns the hashes of the pretrained weights that a step was trained with.

  Those that are not known are left out.
  """
  if diffusers_folder.is_folder(folder):
    return {}
  return checkpoints.frozen(folder, step)
