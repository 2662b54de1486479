"""`--mode=evaluate`: a run or saved images in, a table of scores out."""

from collections.abc import Mapping
import pathlib
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax.evaluation import scoring


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Prints and saves the scores; see `evaluation.scoring.run`."""
  scoring.run(config, workdir, options)
