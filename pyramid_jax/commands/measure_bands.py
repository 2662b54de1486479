"""Measures the band powers of a data set, for `config.laplacian.band_rms`.

  python -m pyramid_jax.commands.measure_bands \
      --config=configs/ladm_shapes.py:text

prints the root mean square of each band over training images, finest first,
and, as a rule for `config.laplacian.switch_sigmas`, noise --kappa times as
strong as each detail. The bands are those of latents where the process is one
of latents, and those of the difference from the enlarged condition in
super-resolution. `--config.laplacian.levels=N` sets another number of levels.
Exit codes are those of `pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.measure_bands')

import argparse
from collections.abc import Mapping
from collections.abc import Sequence
import sys
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.config import command_line
from pyramid_jax.diffusion import laplacian
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import stopping
from pyramid_jax.systems.ladm import ladm


SPLIT = 'train'


def measure(config: ConfigDict, count: int, batch_size: int) -> np.ndarray:
  """Returns the (L,) root mean square of the bands, finest first.

  They are those of the first `count` training images.

  Raises:
    UserError: a config, data or weights that cannot be used.
  """
  if config.system.name != 'ladm':
    raise errors.UserError(
      f'config.system.name is {config.system.name!r}, must be ladm: other'
      ' systems have no bands.'
    )
  with errors.user_errors():
    system = ladm.create(_measurable(config))
    reader = data.create(config, SPLIT)
  if count > len(reader):
    raise errors.UserError(
      f'--count={count}: the split has {len(reader)} images.'
    )
  mesh = mesh_lib.create(config.mesh, jax.local_devices()[:1])
  frozen = pretrained.load(system, config, mesh, '.')
  levels = system.process.levels

  @jax.jit
  def powers(frozen: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    batch = reader.finish(batch)
    (x,) = system.space.encode(frozen, batch['image'])
    if 'lr_image' in batch:
      x -= low_resolution.enlarged(batch['lr_image'], config.data.lr_factor)
    parts = [jnp.square(part) for part in laplacian.bands(x, levels)]
    return jnp.stack([m.mean((1, 2, 3)) for m in (*parts, x)])

  total = np.zeros(levels + 1)
  for first in range(0, count, batch_size):
    stopping.check()
    rows = np.arange(first, min(count, first + batch_size))
    arrays = mesh_lib.numeric(reader.batch(rows, np.zeros(len(rows), int)))
    total += np.asarray(powers(frozen, arrays), float).sum(1)
  *squares, mean = total / count
  rms = np.sqrt(squares)
  if not config.laplacian.latent:
    return rms
  if not config.diffusion.scale_by_std:
    return rms * config.diffusion.scale_factor
  return rms / np.sqrt(np.sum(squares) - mean**2)


def _measurable(config: ConfigDict) -> ConfigDict:
  """Returns the config with a process that any number of levels allows."""
  config = config.copy_and_resolve_references()
  levels = config.laplacian.levels
  with config.unlocked():
    config.laplacian.band_rms = (1.0,) * levels
    config.laplacian.switch_sigmas = tuple(map(float, range(1, levels)))
    config.laplacian.stage_batch = config.laplacian.wavelets = (0,)
    config.laplacian.sigma_max = float(levels + 1)
    config.train.batch_size = levels * config.train.accumulate
    config.sample.steps = 1
  return config


def report(rms: Sequence[float], kappa: float) -> str:
  """Returns the lines to paste into a config."""
  marks = [kappa * 2**i * r for i, r in enumerate(rms[:-1])]
  lines = {'band_rms': rms, 'switch_sigmas': marks}
  return '\n'.join(
    f'config.laplacian.{name} = ({", ".join(f"{v:.4g}" for v in values)},)'
    for name, values in lines.items()
  )


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.measure_bands',
    description='Measures the band powers of a data set.',
  )
  whole, real = command_line.above_zero(int), command_line.above_zero(float)
  parser.add_argument('--config', required=True, help='FILE.py[:variant,...]')
  parser.add_argument('--count', type=whole, default=512, help='images')
  parser.add_argument('--batch_size', type=whole, default=64)
  parser.add_argument('--kappa', type=real, default=12.0, help='noise / detail')

  def body(flags: argparse.Namespace, config: Any) -> None:
    with stopping.listening():
      rms = measure(config, flags.count, flags.batch_size)
    sys.stdout.write(f'{report(rms.tolist(), flags.kappa)}\n')

  return command_line.run(parser, body, arguments)
