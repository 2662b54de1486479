"""`--mode=train`: a config and a folder in, a trained run out."""

from collections.abc import Mapping
import pathlib
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax.training import loop


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Trains, or resumes an interrupted run; see `training.loop.run`."""
  loop.run(config, workdir, options['takeover'])
