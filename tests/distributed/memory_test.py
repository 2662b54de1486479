"""How much memory there is, and what is said when it is used up."""

import json

import jax
import jax.numpy as jnp
import pytest

from pyramid_jax import errors
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import mesh as mesh_lib
from tests.helpers import processes


# As XLA and NumPy wrote them.
CPU = 'RESOURCE_EXHAUSTED: Out of memory allocating 202675386264 bytes.'
GPU = (
  'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 42949672960'
  ' bytes.'
)
BFC = (
  'RESOURCE_EXHAUSTED: Allocator (GPU_0_bfc) ran out of memory trying to'
  ' allocate 2.50GiB (rounded to 2684354560)requested by op'
)
TPU = (
  'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.50G of'
  ' 15.48G hbm. Exceeded hbm capacity by 9.02G.'
)
TPU_COMPILE = (
  'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for'
  ' HLO temporaries (18.00G) exceeds available HBM (15.75G).'
)
TPU_RUN = (
  'RESOURCE_EXHAUSTED: Error loading program: Attempting to reserve 4.50G at'
  ' the bottom of memory. That was not possible. There are 3.20G free'
)
NUMPY = (
  'Unable to allocate 7.28 TiB for an array with shape (1000000000000,) and'
  ' data type float64'
)


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    (CPU, 202675386264),
    (GPU, 42949672960),
    (BFC, 2.5 * 2**30),
    (TPU, 24.5 * 2**30),
    (TPU_COMPILE, 18 * 2**30),
    (TPU_RUN, 4.5 * 2**30),
    (NUMPY, int(7.28 * 2**40)),
    ('', None),
  ],
)
def test_bytes_needed(text, want):
  error = MemoryError(text)
  assert memory.needed(error) == want


def said(error):
  with (
    pytest.raises(errors.UserError) as info,
    memory.explained(lambda: 'take less.'),
  ):
    raise error
  assert info.value.code == errors.USAGE
  return str(info.value)


def test_one_line_with_bytes_and_advice(monkeypatch):
  monkeypatch.setattr(memory, 'available', lambda mesh=None: 1234)
  monkeypatch.setattr(memory, 'available_on_host', lambda: 5678)
  line = said(jax.errors.JaxRuntimeError(CPU))
  assert line == (
    'out of memory: 202,675,386,264 bytes needed, 1,234 bytes available;'
    ' take less.'
  )
  assert '16,621,523,435 bytes available;' in said(
    jax.errors.JaxRuntimeError(TPU)
  )
  line = said(MemoryError())
  assert 'unknown number of bytes needed, 5,678 bytes available on the' in line
  line = said(memory.OutOfMemory(9, 8))
  assert line == 'out of memory: 9 bytes needed, 8 bytes available; take less.'


@pytest.mark.parametrize(
  'error',
  [
    jax.errors.JaxRuntimeError('INTERNAL: RESOURCE_EXHAUSTED in its text'),
    ValueError('RESOURCE_EXHAUSTED: out of memory'),
    errors.UserError('as it was', errors.DATA),
  ],
)
def test_other_errors_stay_what_they_are(error):
  with pytest.raises(type(error)) as info, memory.explained(lambda: ''):
    raise error
  assert info.value is error


def test_a_program_that_needs_more_than_there_is(monkeypatch):
  mesh = mesh_lib.pure_data()
  total = lambda x: jnp.sort(jnp.outer(x, x), axis=0)[0]
  small = jax.jit(total).lower(jnp.ones(8)).compile()
  memory.check_program(small, mesh)
  side = 2**23
  large = jax.jit(total).lower(jnp.ones(side)).compile()
  with pytest.raises(memory.OutOfMemory) as info:
    memory.check_program(large, mesh)
  assert info.value.needed >= 4 * side**2
  monkeypatch.setattr(memory, 'available_on_host', lambda: None)
  memory.check_program(large, mesh)


LIMITED = """
import json, resource
import numpy as np
from pyramid_jax.distributed import memory
before = memory.available_on_host()
size = 3 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
left = memory.available_on_host()
held = np.ones(2**27)
print(json.dumps([before, left, memory.available_on_host()]))
"""


def test_a_limit_of_the_address_space_counts():
  done = processes.run('-c', LIMITED)
  assert done.returncode == 0, done.stderr
  before, left, then = json.loads(done.stdout)
  assert 2**20 < left < min(before, 3 * 2**30)
  assert then == pytest.approx(left - 2**30, abs=2**26)


class Device:
  """A device that tells of its memory, or does not."""

  def __init__(self, stats):
    self._stats = stats

  def __str__(self):
    return 'gpu:0'

  def memory_stats(self):
    return self._stats


def test_the_memory_of_devices(monkeypatch):
  stats = {'bytes_in_use': 2**29, 'peak_bytes_in_use': 2**30, 'other': 1}
  found = [Device(stats), Device(None)]
  monkeypatch.setattr(jax, 'local_devices', lambda: found)
  row = {
    'device': 'gpu:0',
    'process': 0,
    'in_use': 2**29,
    'peak': 2**30,
    'limit': None,
  }
  assert memory.of_devices() == [row]
  assert memory.described(row) == (
    'gpu:0 has 0.50 GiB in use, 1.00 at most, of ?'
  )
