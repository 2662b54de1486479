"""Keeps compiled programs on disk, so that a second start is quick."""

import os
import pathlib
from typing import Any

import jax


# Programs that took longer to compile are kept; jax keeps those above 1 s.
_CACHED_SECS, _JAX_SECS = 0.1, 1.0


def keep() -> None:
  """Keeps the programs that are compiled from now on.

  A setting of the environment or of jax is not changed.
  """
  if _setting('jax_compilation_cache_dir') is None:
    path = pathlib.Path('~/.cache/pyramid_jax/xla').expanduser()
    jax.config.update('jax_compilation_cache_dir', os.fspath(path))
  name = 'jax_persistent_cache_min_compile_time_secs'
  if name.upper() not in os.environ and _setting(name) == _JAX_SECS:
    jax.config.update(name, _CACHED_SECS)


def _setting(name: str) -> Any:
  return getattr(jax.config, name)
