"""Programs of the repository in processes of their own, on one device."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import jax


ROOT = pathlib.Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
  """Returns this environment with one device and the tests' program cache."""
  flags = [x for x in os.environ['XLA_FLAGS'].split() if 'device' not in x]
  return {
    **os.environ,
    'XLA_FLAGS': ' '.join(flags),
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'PYTHONPATH': os.fspath(ROOT),
  }


def run(*args: Any) -> subprocess.CompletedProcess[str]:
  """Runs `python ARGS` in the root of the repository; keeps what it writes."""
  return subprocess.run(
    [sys.executable, *map(str, args)],
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
