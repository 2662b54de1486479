"""The machine and the software of this process, in words."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform


_PACKAGES = (
  'pyramid_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
)


def described() -> str:
  """Returns 'Intel Xeon, 2 cores, 24 GiB', as far as the system tells."""
  cores = os.cpu_count() or 1
  parts = [_processor(), f'{cores} core{"s" * (cores > 1)}']
  with contextlib.suppress(OSError, ValueError):
    size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    parts.append(f'{size / 2**30:.0f} GiB')
  return ', '.join(part for part in parts if part)


def _processor() -> str:
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      name, _, value = line.partition(':')
      if name.strip() == 'model name':
        return value.strip()
  return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
  """Returns the versions of Python and of packages that are installed."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found
