"""Storage that fails in the process of a command, as its environment says.

`FAULTS` is JSON, a list of faults, each with
  error: the name of an errno, such as 'ENOSPC';
  path: a pattern; paths that it finds fail;
  on: 'write' (open for writing, write, rename, make, sync) or 'read' (open);
  share: of the calls that fail, from the first; 1 if not given;
  delay: seconds that every call of the kind takes.
"""

import builtins
import errno
import io
import json
import os
import random
import re
import time

from pyramid_jax.files import retries
from tests.helpers import fake_run
from tests.helpers import full_disk


VARIABLE = 'FAULTS'


def plan(*faults):
  """Returns the environment of a command with faults."""
  return {VARIABLE: json.dumps(faults)}


def fake():
  """Puts the fakes of training and the faults in place."""
  fake_run.install()
  install()


def paint():
  """Puts the painter and the faults in place."""
  full_disk.paint()
  install()


def nobody():
  """Makes the process one of a user without any rights."""
  fake_run.install()
  os.setgroups([])
  os.setgid(65534)
  os.setuid(65534)


def install():
  """Patches what opens, writes and renames files in Python."""
  faults = json.loads(os.environ[VARIABLE])
  seed = int(os.environ.get('PYRAMID_JAX_FAULT_SEED', '0'))
  rng = random.Random(seed)
  retries.WAITS_SECS = (0.01, 0.02, 0.03)

  def strike(kind, path):
    name = f'/proc/self/fd/{path}'
    path = os.readlink(name) if isinstance(path, int) else os.fsdecode(path)
    for fault in faults:
      if fault['on'] != kind or not re.search(fault['path'], path):
        continue
      time.sleep(fault.get('delay', 0))
      if fault['error'] and rng.random() < fault.get('share', 1):
        number = getattr(errno, fault['error'])
        raise OSError(number, os.strerror(number), path)

  def opened(original):
    def function(file, mode='r', *args, **options):
      if not isinstance(file, int):
        strike('write' if set(mode) & set('wax+') else 'read', file)
      return original(file, mode, *args, **options)

    return function

  builtins.open = opened(builtins.open)
  io.open = opened(io.open)
  low = os.open

  def open_low(path, flags, *args, **options):
    is_write = flags & (os.O_WRONLY | os.O_RDWR)
    strike('write' if is_write else 'read', path)
    return low(path, flags, *args, **options)

  os.open = open_low
  for name, place in (
    *(('write', 0), ('fsync', 0), ('mkdir', 0), ('unlink', 0)),
    *(('replace', 1), ('rename', 1), ('link', 1)),
  ):
    setattr(os, name, _changing(getattr(os, name), place, strike))


def _changing(original, place, strike):
  def function(*args, **options):
    strike('write', args[place])
    return original(*args, **options)

  return function
