"""Times a new user: a fresh environment, the wheel alone, an official file.

  python -m tests.helpers.new_user WHEEL

makes a virtual environment in a new folder, installs WHEEL with what it needs,
and runs there what the README shows of official checkpoints: the command that
converts one, on a file of the smallest size with the official names, and the
lines of Python after it. Prints a line of seconds for each step, and fails
where no image comes.
"""

import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from tests import snippets_test
from tests.helpers import documented_runs


def lines() -> str:
  """Returns the README's lines of Python that load what is converted."""
  shown = snippets_test.blocks('README.md', 'python')
  (block,) = [x for x in shown if f"'{snippets_test.OFFICIAL}'" in x]
  return block


def say(line: str) -> None:
  sys.stdout.write(line + '\n')
  sys.stdout.flush()


def timed(name: str, command: list[str]) -> None:
  """Runs a command without the checkout and prints its seconds."""
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
  begun, cpu = time.perf_counter(), used()
  subprocess.run(
    command, env=environment, stdout=subprocess.DEVNULL, check=True
  )
  wall = time.perf_counter() - begun
  say(f'{name}: {wall:.1f} s, {used() - cpu:.1f} s of CPU')


def look(picture: str) -> None:
  """Raises ValueError if a file is no picture, or is of one colour."""
  pixels = np.asarray(Image.open(picture).convert('RGB'))
  if pixels.std() == 0:
    raise ValueError(f'{picture} is of one colour')
  say(f'{picture}: {pixels.shape[1]}x{pixels.shape[0]} px')


def main(wheel: str) -> None:
  file = str(pathlib.Path(wheel).resolve(strict=True))
  module, args = snippets_test.smallest(snippets_test.conversion())
  block = lines()
  (picture,) = re.findall(r"save\('(.*)'\)", block)
  with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    documented_runs.write_files(pathlib.Path())
    python = f'{folder}/venv/bin/python'
    timed('virtual environment', [sys.executable, '-m', 'venv', 'venv'])
    install = ['-m', 'pip', 'install', '--quiet', file]
    timed('pip install', [python, *install])
    timed('convert', [python, '-m', module, *args])
    timed('lines of Python', [python, '-c', block])
    look(picture)


if __name__ == '__main__':
  main(*sys.argv[1:])
