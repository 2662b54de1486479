"""Paints a panorama of 360 degrees with a model, view by view.

  python -m pyramid_jax.commands.panorama --workdir=DIR --prompt='...' \
      --output=FILE.png

FILE.png is the equirectangular image, twice as wide as high. The model must
take an image and a mask; see `pyramid_jax.pipeline.panorama`. With --hdr, a run
of the system `hdr`, its light is in FILE.hdr, a Radiance file. Exit codes are
those of `pyramid_jax.main`.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.panorama')

import argparse
from collections.abc import Sequence
import pathlib
import sys
from typing import Any

from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.data.pixels import radiance
from pyramid_jax.distributed import processes
from pyramid_jax.files import whole_files
from pyramid_jax.pipeline import light
from pyramid_jax.pipeline import opening
from pyramid_jax.pipeline import panorama
from pyramid_jax.runs import stopping


def run(flags: argparse.Namespace) -> None:
  """Writes the panorama that flags describe, see `main`.

  Raises:
    UserError: a model that paints none, or a file that cannot be written.
  """
  output = pathlib.Path(flags.output)
  if output.suffix != '.png':
    raise errors.UserError(f'--output={output}: must be the name of a .png.')
  if flags.hdr is not None:
    light.check(flags.hdr)
  pipe = opening.load(flags.workdir)
  image = panorama.make(
    pipe,
    flags.prompt,
    height=flags.height,
    fov=flags.fov,
    overlap=flags.overlap,
    seed=flags.seed,
  )

  bright = flags.hdr and light.radiance(flags.hdr, image)

  def write() -> None:
    with errors.writing(output):
      whole_files.save_png(output, image)
      if bright is not None:
        data = radiance.encode(bright)
        whole_files.save(
          output.with_suffix(radiance.SUFFIX), lambda file: file.write(data)
        )
    height, width, _ = image.shape
    sys.stdout.write(f'{width} x {height} px in {output}\n')

  processes.decided(write)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.panorama',
    description='Paints a panorama of 360 degrees, view by view.',
  )
  add = parser.add_argument
  workdir = command_line.folder('--workdir')
  add('--workdir', required=True, type=workdir, help='of a run')
  add('--output', required=True, type=command_line.path, help='new FILE.png')
  add('--prompt', help='the caption of all views')
  hdr = command_line.folder('--hdr')
  add('--hdr', type=hdr, help='of a run of hdr: light in FILE.hdr, too')
  whole, real = command_line.at_least(0), command_line.above_zero(float)
  add('--height', type=whole, default=0, help='px; 0 for that of the views')
  add('--fov', type=real, default=90.0, help='angle of a view, degrees')
  add('--overlap', type=real, default=0.35, help='share that is repeated')
  add('--seed', type=whole, help='of the first view')

  def body(flags: argparse.Namespace, config: Any) -> None:
    del config
    with stopping.listening():
      run(flags)

  return command_line.run(parser, body, arguments)
