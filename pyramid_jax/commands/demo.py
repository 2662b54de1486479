"""Serves a page on which one draws, types and gets images of trained runs.

  python -m pyramid_jax.commands.demo --workdir=DIR[,DIR...]

A DIR is a run, a converted checkpoint or the name of a model that comes with
the package ('shapes'). The page is on this machine alone, see docs/demo.md; it
needs gradio (extra `demo`). Exit codes are those of `pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.demo')

import argparse
from collections.abc import Sequence
import pathlib
import sys
import time
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.demo import examples
from pyramid_jax.demo import making
from pyramid_jax.demo import page
from pyramid_jax.demo import server
from pyramid_jax.distributed import program_cache
from pyramid_jax.runs import stopping


PORT = 7860
_POLL_SECS = 0.2


def run(flags: argparse.Namespace) -> None:
  """Serves the page that flags describe until a signal comes, see `main`.

  Raises:
    UserError: a run that makes no images, or no gradio.
  """
  sources = flags.workdir.split(',')
  options = {
    name: value
    for name in ('sketch', 'upsampler')
    if (value := getattr(flags, name)) is not None
  }
  if options and len(sources) > 1:
    raise errors.UserError(
      f'--{next(iter(options))} is for one --workdir, got {len(sources)}.'
    )
  names = tuple(filter(None, flags.host.lower().split(',')))
  with server.folder() as uploads:
    server.check_gradio()
    program_cache.keep()
    tabs = opened(sources, uploads, **options)
    served = server.launch(tabs, flags.port, names)
    verbosity = logging.get_verbosity()
    try:
      sys.stdout.write(f'The page is at {served.local_url}\n')
      sys.stdout.flush()
      logging.set_verbosity(logging.WARNING)  # not a line for each request
      while True:
        time.sleep(_POLL_SECS)
        stopping.check()
    finally:
      logging.set_verbosity(verbosity)
      served.close(verbose=False)


def opened(
  sources: Sequence[str], uploads: pathlib.Path, **options: Any
) -> list[page.Tab]:
  """Opens models and compiles their programs.

  Args:
    sources: see `making.load`, as `options`.
    uploads: where the server keeps files.
    **options: of `pipeline.load`.
  """
  tabs = []
  for source, title in zip(sources, titles(sources), strict=True):
    model = making.load(source, title, **options)
    making.compile_programs(model)
    samples = examples.of(model.pipe, model.controls)
    tabs.append(page.Tab(model=model, samples=samples, uploads=uploads))
  return tabs


def titles(sources: Sequence[str]) -> list[str]:
  """Returns a name for each of some folders; no two are the same."""
  found: list[str] = []
  for source in sources:
    name = pathlib.PurePath(source).name or source
    same = found.count(name)
    found.append(source if same else name)
  return found


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.demo',
    description='Serves a page on which one draws and types requests.',
  )
  add = parser.add_argument
  path = command_line.path
  runs = 'runs, or names of models of the package, separated by commas'
  add('--workdir', required=True, type=path, metavar='DIR[,DIR...]', help=runs)
  add('--sketch', type=path, metavar='DIR', help='run that follows sketches')
  add('--upsampler', type=path, metavar='DIR', help='run that enlarges images')
  port = command_line.at_least(0)
  add('--port', type=port, default=PORT, help='0 for any that is free')
  hosts = 'names under which a browser may ask for the page, such as of a proxy'
  add('--host', default=','.join(server.NAMES), help=hosts)

  def body(flags: argparse.Namespace, config: Any) -> None:
    del config
    with stopping.listening():
      run(flags)

  return command_line.run(parser, body, arguments)
