"""Drafts of programs compiled: to the end, or until XLA has partitioned them.

After the partitioner, operations and collectives of a device are known; what
lies in memory is not. U-Nets of a pod take many minutes from there to the end.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import multiprocessing
import os
import pathlib
import re
import tempfile
import threading
import time
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import sharding
from pyramid_jax.planning import abstract
from pyramid_jax.planning import topologies
from pyramid_jax.runs import stopping


END, PARTITIONER = STAGES = ('end', 'partitioner')
DRAFTS: Mapping[str, Callable[..., abstract.Draft]] = {
  'train': abstract.training,
  'sampler': abstract.sampling,
}
_PASS = '.*spmd-partitioning'  # that of TPUs has another beginning
_DUMPED = re.compile(r'\.after_(tpu-)?spmd-partitioning\..*txt')
_POLL_SECS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """A program of XLA for one device of a mesh.

  Attributes:
    text: of its instructions.
    stage: one of `STAGES`.
    seconds: that the compiler took.
    peak_bytes: of the main memory of a device, None if it is not known.
    temporary_bytes: of it, what is neither argument nor result.
  """

  text: str
  stage: str
  seconds: float
  peak_bytes: int | None = None
  temporary_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What is compiled: a program of a config for a topology."""

  config: ConfigDict
  topology: topologies.Topology
  program: str  # a key of `DRAFTS`

  def draft(self) -> abstract.Draft:
    """Returns the program, not compiled."""
    mesh = topologies.mesh(self.topology, self.config.mesh)
    return DRAFTS[self.program](self.config, mesh)


def compiled(task: Task, draft: abstract.Draft, until: str = END) -> Compiled:
  """Compiles a program.

  CPU devices only stand for GPUs, so that their programs end after the
  partitioner, as do those that need more memory than there is.

  Args:
    task: that the draft was made of.
    draft: is compiled.
    until: one of `STAGES`.
  """
  if until == PARTITIONER or not task.topology.is_tpu:
    return partitioned(task)
  lowered = draft.traced.lower()
  start = time.monotonic()
  try:
    options = flags.for_jax(draft.options)
    program = stopping.call(lowered.compile, options)
  except jax.errors.JaxRuntimeError as error:
    if not memory.is_out_of_memory(error):
      raise
    logging.warning('%s', str(error).partition('\n')[0])
    found = partitioned(task)
    return dataclasses.replace(found, peak_bytes=_needed(error, draft))
  stats = program.memory_analysis()
  return Compiled(
    text=program.as_text(),
    stage=END,
    seconds=time.monotonic() - start,
    peak_bytes=_peak(stats),
    temporary_bytes=stats.temp_size_in_bytes,
  )


def _peak(stats: Any) -> int:
  """Returns the bytes of a device that a program needs at a time.

  Both numbers are upper bounds. The sum of arguments, results and temporaries
  has places that arrays take in turn more than once. XLA's own peak, where a
  backend has one, counts what lies in the place of a result in addition to it.
  """
  results = stats.output_size_in_bytes - stats.alias_size_in_bytes
  arguments, temporary = stats.argument_size_in_bytes, stats.temp_size_in_bytes
  total = arguments + max(0, results) + temporary
  return min(total, getattr(stats, 'peak_memory_in_bytes', 0) or total)


def _needed(error: BaseException, draft: abstract.Draft) -> int | None:
  """Returns the bytes that a program would need, None if an error lacks them.

  Where temporaries alone exceed a device, the arguments come in addition.
  """
  needed = memory.needed(error)
  if needed is None or 'temporaries' not in str(error):
    return needed
  return needed + sharding.device_bytes((draft.state, draft.frozen))


def partitioned(task: Task) -> Compiled:
  """Compiles in a process that is stopped once the partitioner is through."""
  given = config_lib.to_json(task.config), task.topology, task.program
  with tempfile.TemporaryDirectory() as folder:
    context = multiprocessing.get_context('spawn')
    process = context.Process(target=_compile, args=(*given, folder))
    process.daemon = True
    process.start()
    try:
      text, seconds = dumped(process, pathlib.Path(folder))
    finally:
      process.kill()
      process.join()
  return Compiled(text=text, stage=PARTITIONER, seconds=seconds)


def _compile(
  config: str, topology: topologies.Topology, program: str, folder: str
) -> None:
  """Compiles a program, and writes it down after the partitioner."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  task = Task(
    config=config_lib.from_json(config), topology=topology, program=program
  )
  draft = task.draft()
  lowered = draft.traced.lower()
  dump = {'xla_dump_to': folder, 'xla_dump_hlo_pass_re': _PASS}
  lowered.compile(flags.for_jax({**draft.options, **dump}))


def _end_with_parent() -> None:
  """Ends this process, which may compile for long, once its parent has."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os._exit(errors.RESTART)


def dumped(
  process: multiprocessing.process.BaseProcess, folder: pathlib.Path
) -> tuple[str, float]:
  """Waits for the text of a program; returns it and how long XLA took."""
  size = -1
  while True:
    stopping.check()
    is_over = not process.is_alive()
    files = sorted(folder.iterdir())
    found = [file for file in files if _DUMPED.search(file.name)]
    before, size = size, found[-1].stat().st_size if found else -1
    if found and (is_over or size == before):
      begun = min(file.stat().st_mtime for file in files)
      return found[-1].read_text(), found[-1].stat().st_mtime - begun
    if is_over:
      raise errors.UserError(
        f'the compiler ended with {process.exitcode} before it had partitioned'
        ' the program; the lines above say why.',
        errors.BUG,
      )
    time.sleep(_POLL_SECS)
