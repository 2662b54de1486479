"""Writes the weights that a run samples from into one small file.

  python -m pyramid_jax.commands.ship --workdir=DIR --out=NEW_DIR

NEW_DIR is a workdir that samples and is evaluated like DIR, and cannot be
trained further. It has `config.json`, `labels.json` and the file of
`runs/compact`: averages instead of raw weights, the first stage without its
discriminator, nothing of the optimizer; weights are float16, and int8 in the
encoder of the first stage, which only edits of an image read.
"""

if __name__ == '__main__':
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.ship')

import argparse
from collections.abc import Sequence
import sys
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores
from pyramid_jax.runs import compact
from pyramid_jax.runs import loading
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


def ship(
  workdir: stores.Path, out: stores.Path, step: int | None = None
) -> int:
  """Writes a folder of the weights of a run; returns the bytes of its files.

  Args:
    workdir: of the run.
    out: the new folder.
    step: of the checkpoint; None for the newest valid one.

  Raises:
    UserError: a run that does not sample, or a folder that holds a run already
      or cannot be written.
  """
  config = workdir_lib.read_config(workdir)
  system: Any = workdir_lib.create_system(config)
  if system.outputs != system_lib.SAMPLES:
    raise errors.UserError(f'--workdir={workdir}: the run does not sample.')
  if (out / workdir_lib.CONFIG).exists():
    raise errors.UserError(f'--out={out} holds a run already.', errors.OUTPUT)
  run = loading.load(config, workdir, step)
  weights = run.weights
  frozen = weights.frozen.keys() & {pretrained.FIRST_STAGE}
  trees = {
    'params': weights.params,
    'frozen': {name: weights.frozen[name] for name in frozen},
    'extra': weights.extra,
    'step': jnp.int32(run.step),
  }
  if frozen:
    config = config_lib.from_json(config_lib.to_json(config))
    with config.unlocked():
      config.first_stage.checkpoint = ''
  stopping.check()
  workdir_lib.make(out)
  with errors.user_errors(value=errors.DATA, missing=errors.OUTPUT):
    compact.write(out, config, trees, _only_encodes(system.space))
  names = workdir_lib.read_labels(workdir)
  workdir_lib.write_record(out, config, names, [compact.FILE])
  return sum(stores.sizes(out).values())


def _only_encodes(space: spaces.Space) -> set[str]:
  """Returns the paths of the weights of a first stage that no decoder reads."""
  if space.first_stage is None:
    return set()
  network: Any = space.first_stage
  image = jnp.zeros((1, space.image_size, space.image_size, 3))

  def inits(key: jax.Array) -> tuple[Any, Any]:
    variables = network.init(key, image)
    zs = network.apply(variables, image, method='encode')
    decoder = network.init(key, zs, method='decode')
    return variables['params'], decoder['params']

  prefix = f'frozen/{pretrained.FIRST_STAGE}/'
  whole, decoder = (
    {
      prefix + sharding.path_name(path)
      for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in jax.eval_shape(inits, jax.random.key(0))
  )
  return whole - decoder


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  parser = command_line.Parser(
    prog='python -m pyramid_jax.commands.ship',
    description='Writes the weights of a run into one small file.',
  )
  for name, words in (('--workdir', 'of a run'), ('--out', 'a new folder')):
    kind = command_line.folder(name)
    parser.add_argument(name, required=True, type=kind, help=words)
  parser.add_argument('--step', type=int, help='of the checkpoint')

  def body(flags: argparse.Namespace, config: Any) -> None:
    del config
    with stopping.listening():
      size = ship(flags.workdir, flags.out, flags.step)
    sys.stdout.write(f'{size:,} bytes in {flags.out}\n')

  return command_line.run(parser, body, arguments)
