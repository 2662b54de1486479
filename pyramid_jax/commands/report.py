"""A page of a run: curves, images, scores, config, commands to go on.

  python -m pyramid_jax.commands.report --workdir=RUN

writes RUN/report.html, also while the run is training or after it was stopped.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.report')

import argparse
from collections.abc import Sequence
import sys
from typing import Any

from pyramid_jax import report
from pyramid_jax.config import command_line
from pyramid_jax.runs import stopping


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.report',
    description='Writes WORKDIR/report.html: what a run is and how it went.',
  )
  workdir = command_line.folder('--workdir')
  parser.add_argument('--workdir', required=True, type=workdir, help='of a run')

  def body(flags: argparse.Namespace, config: Any) -> None:
    del config
    with stopping.listening():
      sys.stdout.write(f'{report.write(flags.workdir)}\n')

  return command_line.run(parser, body, arguments)
