"""Memory of devices and of the host: how much there is, and its end.

What is out of memory ends with one line: the bytes that were needed, those that
are available, and what takes less.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import pathlib
import re
import resource
from typing import Any

import jax
from jax.sharding import Mesh

from pyramid_jax import errors
from pyramid_jax.distributed import processes


# What XLA's allocators and compilers, and NumPy, write of the bytes needed.
_NEEDED = (
  re.compile(r'allocat\w* (?:of )?([\d.]+) ?(B|bytes)\b'),
  re.compile(r'\((\d+) ?(B|bytes)\)'),
  re.compile(r'(?i)allocat\w*[^.;\n]*? ([\d.]+) ?([KMGT]i?B?)\b'),
  re.compile(r'Used ([\d.]+)([KMGT]) of'),
  re.compile(r'temporaries \(([\d.]+)([KMGT])\)'),  # of a program for TPUs
  re.compile(r'reserve ([\d.]+)([KMGT]i?B?)\b'),
)
# And of those that there are.
_THERE = (
  re.compile(r'Used [\d.]+[KMGT] of ([\d.]+)([KMGT])'),
  re.compile(r'available HBM \(([\d.]+)([KMGT])\)'),
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_LIMITED = 2**60  # a limit above is none


class OutOfMemory(MemoryError):
  """More memory would be needed than there is; nothing was taken yet.

  Attributes:
    needed: bytes.
    available: bytes.
  """

  def __init__(self, needed: int, available: int):
    super().__init__(f'{needed} bytes are needed, {available} available')
    self.needed, self.available = needed, available


def available_on_host() -> int | None:
  """Returns the bytes that this process can take; None if it is not known.

  It is the least of the memory that is free or easily freed, what the limit of
  the container leaves, and what the limit of the address space leaves.
  """
  found = [_free(), _left_in_container(), _left_of_address_space()]
  return min((x for x in found if x is not None), default=None)


def _fields(path: str) -> dict[str, int]:
  """Returns the numbers of a file with a name and a number in each line."""
  words = (line.split() for line in pathlib.Path(path).read_text().splitlines())
  pairs = [x for x in words if len(x) > 1 and x[1].isdigit()]
  return {x[0].rstrip(':'): int(x[1]) for x in pairs}


def _free() -> int | None:
  with contextlib.suppress(OSError, KeyError):
    kib = _fields('/proc/meminfo')
    return (kib['MemAvailable'] + kib['SwapFree']) * 2**10
  return None


def _left_in_container() -> int | None:
  folder = pathlib.Path('/sys/fs/cgroup')
  with contextlib.suppress(OSError, KeyError, ValueError):
    limit = int((folder / 'memory.max').read_text())
    used = int((folder / 'memory.current').read_text())
    cached = _fields(f'{folder}/memory.stat')['inactive_file']
    return limit - used + cached
  return None


def _left_of_address_space() -> int | None:
  limit = resource.getrlimit(resource.RLIMIT_AS)[0]
  with contextlib.suppress(OSError, KeyError):
    if 0 <= limit < _LIMITED:
      return limit - _fields('/proc/self/status')['VmSize'] * 2**10
  return None


def available(mesh: Mesh | None = None) -> int | None:
  """Returns the bytes left on the fullest of this process's devices.

  CPU devices share what the host has.

  Args:
    mesh: of the devices; None for all.
  """
  devices = jax.local_devices() if mesh is None else mesh.local_devices
  left = []
  for device in devices:
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
      left.append(stats['bytes_limit'] - stats['bytes_in_use'])
  return min(left) if left else available_on_host()


def of_devices() -> list[dict[str, Any]]:
  """Returns the memory of the devices of all processes, in bytes.

  All processes call it. Each row has `device`, `process`, `in_use`, `peak` (of
  this process, up to now) and `limit`; devices that do not tell, such as CPUs,
  have none.
  """
  index, _ = processes.process_part()
  rows = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'bytes_in_use' in stats:
      row = {'device': str(device), 'process': index}
      row['in_use'] = stats['bytes_in_use']
      row['peak'] = stats.get('peak_bytes_in_use')
      row['limit'] = stats.get('bytes_limit')
      rows.append(row)
  return [row for found in processes.collected(rows) for row in found]


def in_use() -> str:
  """Returns '5.10/16.00 GiB' of the fullest of this process's devices.

  It is '' where devices do not tell, such as CPUs. Nothing is transferred.
  """
  found = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if stats.get('bytes_limit') and 'bytes_in_use' in stats:
      found.append((stats['bytes_in_use'], stats['bytes_limit']))
  if not found:
    return ''
  used, limit = max(found, key=lambda pair: pair[0] / pair[1])
  return f'{used / 2**30:.2f}/{limit / 2**30:.2f} GiB'


def described(row: Mapping[str, Any]) -> str:
  """Returns 'DEVICE has 1.50 GiB in use, 2.25 at most, of 16.00'."""
  shown = lambda count: '?' if count is None else f'{count / 2**30:.2f}'
  return (
    f'{row["device"]} has {shown(row["in_use"])} GiB in use,'
    f' {shown(row["peak"])} at most, of {shown(row["limit"])}'
  )


def check_program(program: jax.stages.Compiled, mesh: Mesh) -> None:
  """Raises OutOfMemory for a program that needs more than its devices have.

  Counted are its scratch memory and its results, but for what is in the place
  of arguments. On a CPU, which promises more than it has, the process would
  otherwise be killed.
  """
  try:
    stats: Any = program.memory_analysis()
  except (NotImplementedError, jax.errors.JaxRuntimeError):
    return  # a backend that does not tell
  there = available(mesh)
  if stats is None or there is None:
    return
  results = stats.output_size_in_bytes - stats.alias_size_in_bytes
  needed = stats.temp_size_in_bytes + max(0, results)
  if mesh.devices.flat[0].platform == 'cpu':
    needed *= len(mesh.local_devices)
  if needed > there:
    raise OutOfMemory(needed, there)


def is_out_of_memory(error: BaseException) -> bool:
  """Whether an error says that memory of the host or a device is used up."""
  if isinstance(error, jax.errors.JaxRuntimeError):
    return str(error).startswith('RESOURCE_EXHAUSTED')
  return isinstance(error, MemoryError)


def needed(error: BaseException) -> int | None:
  """Returns the bytes that could not be had, None if an error does not tell."""
  if isinstance(error, OutOfMemory):
    return error.needed
  return _first(_NEEDED, str(error))


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
  for pattern in patterns:
    if match := pattern.search(text):
      unit = _UNITS.get(match[2][0], 1)
      return int(float(match[1]) * unit)
  return None


@contextlib.contextmanager
def explained(advice: Callable[[], str]) -> Iterator[None]:
  """Turns errors of memory that is used up into `UserError`; others pass.

  Args:
    advice: returns what was asked for and what takes less, a sentence.

  Raises:
    UserError: one line with the bytes needed and available, and the advice.
  """
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not is_out_of_memory(error):
      raise
    raise errors.UserError(f'{_line(error)}; {advice()}') from error


def _line(error: BaseException) -> str:
  """Returns 'out of memory: ... needed, ... available'."""
  is_of_host = type(error) is not OutOfMemory and isinstance(error, MemoryError)
  wish = needed(error)
  if isinstance(error, OutOfMemory):
    there: int | None = error.available
  else:
    there = _first(_THERE, str(error))
    if there is None:
      there = available_on_host() if is_of_host else available()
  return (
    f'out of memory: {_bytes(wish)} needed,'
    f' {_bytes(there)} available{" on the host" if is_of_host else ""}'
  )


def _bytes(count: int | None) -> str:
  return 'an unknown number of bytes' if count is None else f'{count:,} bytes'
