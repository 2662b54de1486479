"""`--mode=train`: a config and a folder in, a trained run and a report out."""

from collections.abc import Mapping
import pathlib
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import report
from pyramid_jax.distributed import processes
from pyramid_jax.training import loop


def run(
  config: ConfigDict, workdir: pathlib.Path, options: Mapping[str, Any]
) -> None:
  """Trains, or resumes an interrupted run; see `training.loop.run`.

  At the end, process 0 writes `WORKDIR/report.html`.
  """
  loop.run(config, workdir, options['takeover'], options.get('config'))
  if processes.is_main_process():
    report.write_last(workdir)
