"""Official checkpoints to ours, and back.

  python -m pyramid_jax.commands.convert --family=frido \
      --config=configs/frido_coco.py:text --checkpoint=model.ckpt --workdir=DIR

writes a workdir that `--mode=sample` reads; so do `--family=ldm` and
`--family=latent_diffit`, which takes the files of the network and of the first
stage, and `--family=edm`, which takes a network that NVlabs/edm pickled. The
other families are single networks and write DIR/params.safetensors, which a
config can name as weights: `lpips`, `clip_text`, `t5`, `inception`, `pidinet`
and `diffit.latent` need no config; several files are joined by commas, and
those that a `model.safetensors.index.json` lists are named by it.
`--export=FILE.safetensors` instead of `--checkpoint` goes the other way; with
`--layout=diffusers` a first stage or a U-Net of LDM is written under the names
of that library. Both layouts are read.

Exit codes: 0 done, 64 a wrong command line or config, 65 a file that is
damaged or lacks keys, 66 a file that is not there, 73 DIR holds a run already.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.convert')

import argparse
from collections.abc import Sequence

from ml_collections import ConfigDict

from pyramid_jax.config import command_line
from pyramid_jax.interop import convert
from pyramid_jax.interop import parts
from pyramid_jax.runs import stopping


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.convert',
    description='Converts official checkpoints, in both directions.',
  )
  families = [*convert.WHOLE, *convert.FAMILIES]
  parser.add_argument('--family', required=True, choices=families)
  parser.add_argument('--config', help='FILE.py[:variant,...]')
  parser.add_argument(
    '--checkpoint',
    type=command_line.path,
    help='PyTorch, safetensors, npz or a pickle of EDM',
  )
  parser.add_argument(
    '--workdir',
    required=True,
    type=command_line.folder('--workdir'),
    help='folder to write',
  )
  parser.add_argument(
    '--allow_missing',
    action='store_true',
    help='keep initial values for what the checkpoint lacks',
  )
  parser.add_argument(
    '--weights',
    default='',
    help='ema, raw or the name of a set, where a file has several; averages'
    ' are taken unless this says otherwise',
  )
  parser.add_argument(
    '--export',
    type=command_line.path,
    help='FILE.safetensors to write from DIR',
  )
  parser.add_argument(
    '--layout',
    choices=parts.LAYOUTS,
    default=parts.LAYOUTS[0],
    help='names of the tensors that --export writes',
  )

  def body(flags: argparse.Namespace, config: ConfigDict | None) -> None:
    if bool(flags.checkpoint) == bool(flags.export):
      parser.error('give either --checkpoint=FILE or --export=FILE')
    with stopping.listening():
      if flags.export:
        convert.export(flags)
      else:
        convert.convert(flags, config)

  return command_line.run(parser, body, arguments)
