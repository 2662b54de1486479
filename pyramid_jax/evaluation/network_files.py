"""What networks that score images have in common: a file, and devices."""

import pathlib

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.files import digests


def label(path: pathlib.Path) -> str:
  """Returns the name of a file and the beginning of its hash."""
  return f'{path.name} (sha256 {digests.sha256(path)[:8]})'


def unavailable(title: str, file: str, where: str, found: str) -> str:
  """Returns one line that says which file of a score to put where."""
  return f'{title} is unavailable: put {file} at {where}; {found}.'


def local_devices(config: ConfigDict) -> tuple[Mesh, int]:
  """Returns the devices of this process, and how many images they take.

  Each process has the features of its own images.
  """
  mesh = mesh_lib.pure_data(jax.local_devices())
  rows = -(-config.evaluate.batch_size // mesh_lib.pure_data().size)
  return mesh, rows * mesh.size
