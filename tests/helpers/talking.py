"""A process that joins a run and says what it hears of the others, as JSON."""

import json
import os
import signal
import sys
import time

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import startup
from pyramid_jax.runs import entry


def hear(index):
  """Uses all that `processes` has; returns the values."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec

  mesh = jax.make_mesh((jax.device_count(),), ('data',))
  split = NamedSharding(mesh, PartitionSpec('data'))
  rows = jax.jit(lambda: jnp.arange(6) * 2, out_shardings=split)()

  def refuse():
    raise errors.UserError('process 0 says no', errors.DATA)

  try:
    processes.decided(refuse)
  except errors.UserError as error:
    refused = [str(error), error.code, error.is_shared]
  processes.barrier()
  return {
    'part': processes.process_part(),
    'decided': processes.decided(lambda: {'by': index, 'list': (1, 2)}),
    'collected': processes.collected(index * 10),
    'any': [processes.any_says(index == 1), processes.any_says(False)],
    'host': processes.to_host({'x': rows})['x'].tolist(),
    'refused': refused,
  }


def main(arguments):
  """Does what the first argument says: 'hear', or how process 1 ends."""
  return command_line.exit_code(lambda: work(arguments))


def work(arguments):
  what, *rest = arguments
  config = config_lib.base('ldm').lock()
  overrides, _ = command_line.split(rest)
  config = config_lib.complete(config, overrides)
  with startup.joined(config.distributed):
    index, _ = processes.process_part()
    if what == 'hear':
      sys.stdout.write(f'heard {json.dumps(hear(index))}\n')
      return
    if what == 'refuse':
      processes.decided(lambda: check_input(int(rest[0])))
    if str(index) == rest[0]:
      time.sleep(1)
      end(what)
    time.sleep(100)


def check_input(code):
  raise errors.UserError('a value is wrong', code)


def end(what):
  if what == 'kill':
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'error':
    raise errors.UserError('no such file', errors.MISSING)
  raise ValueError('a bug')


if __name__ == '__main__':
  entry.run('tests.helpers.talking', arguments=sys.argv[1:])
