"""Trains, samples and scores the runs behind published numbers; writes a page.

  python -m pyramid_jax.commands.results --tier=cpu --workdir=runs/results

goes on where it was stopped. `--only=NAME,NAME` runs some rows and those that
they need, `--page_alone` runs none. Every row is a folder below WORKDIR.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.results')

import argparse
from collections.abc import Sequence
import pathlib
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax import results
from pyramid_jax.config import command_line
from pyramid_jax.files import stores


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.results',
    description='Trains, samples and scores every row of a tier, and writes'
    ' the page of their scores.',
  )
  parser.add_argument(
    '--tier', required=True, choices=results.TIERS, help='which machines'
  )
  parser.add_argument(
    '--workdir',
    required=True,
    type=command_line.folder('--workdir'),
    help='of all rows, on a disk',
  )
  parser.add_argument('--only', default='', help='names of rows, with commas')
  parser.add_argument(
    '--page',
    type=command_line.path,
    help='Markdown file; WORKDIR/results_TIER.md',
  )
  parser.add_argument(
    '--small', action='store_true', help='the variants `debug` of the configs'
  )
  parser.add_argument(
    '--page_alone', action='store_true', help='runs nothing, writes the page'
  )
  return command_line.run(parser, _body, arguments)


def _body(flags: argparse.Namespace, config: Any) -> None:
  del config
  for path in (flags.workdir, flags.page or ''):
    if stores.is_remote(path):
      raise errors.UserError(f'{path}: must be on a disk of this machine.')
  folder = pathlib.Path(flags.workdir)
  page = pathlib.Path(flags.page or folder / f'results_{flags.tier}.md')
  rows = results.chosen(flags.tier, flags.only)
  failed = []
  for row in [] if flags.page_alone else rows:
    result = results.run(row, folder, tier=flags.tier, small=flags.small)
    if result.failure:
      failed.append(f'{row.name}: {result.failure}')
    results.write(flags.tier, folder, page)
  done = results.write(flags.tier, folder, page)
  logging.info(
    '%s: %d of %d rows are measured', page, sum(done.values()), len(done)
  )
  if failed:
    raise errors.UserError('; '.join(failed))
