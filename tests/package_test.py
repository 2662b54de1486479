"""What `import pyramid_jax` brings, and what it does not start."""

import subprocess
import sys

import pytest

import pyramid_jax
from pyramid_jax import pipeline
from pyramid_jax.evaluation import grids


def test_names_of_the_package():
  assert pyramid_jax.Pipeline is pipeline.Pipeline
  assert pyramid_jax.grid is grids.grid
  assert pyramid_jax.__version__.count('.') == 2
  assert set(pyramid_jax.__all__) <= set(dir(pyramid_jax))
  with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
    _ = pyramid_jax.Pipelin


def test_importing_starts_no_device():
  program = """
import sys, pyramid_jax
for name in ('__version__', 'Pipeline', 'grid'):
  getattr(pyramid_jax, name)
  bridge = sys.modules.get('jax._src.xla_bridge')
  print(len(bridge._backends) if bridge else 0)
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == ['0'] * 3
