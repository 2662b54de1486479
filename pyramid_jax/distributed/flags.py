"""Options of XLA by platform and chip, each with its reason and its source.

They are given to the compiler with each program (`compiler_options`), so that
launch scripts set none, and one process may compile for several platforms.
docs/compiler.md says how to change them, and what is no option of a program
because it is read when a process starts.

Left out on purpose: `xla_tpu_spmd_rng_bit_generator_unsafe`, by which random
numbers depend on the mesh; all that moves collectives to SparseCores, which
changed the losses of others (apple/axlearn, the file below); and
`xla_gpu_enable_triton_gemm`, about which sources disagree.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import processes


Value = str | bool | int
Options = Mapping[str, Value]

_MAXTEXT = 'AI-Hypercomputer/maxtext: benchmarks/xla_flags_library.py'
_MAXDIFFUSION = 'AI-Hypercomputer/maxdiffusion: README.md, training on v5p'
_AXLEARN = 'apple/axlearn: axlearn/common/compiler_options.py'
_TOOLBOX = 'NVIDIA/JAX-Toolbox: docs/GPU_performance.md'
# A transformer block of 1,152 channels with its modulation, the widest that
# the configs have, has 96 MiB of weights in float32.
_LAYER_BYTES = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Option:
  """An option of the compiler."""

  name: str  # as in `compiler_options`, without the hyphens of a flag
  value: Value
  why: str  # one sentence
  source: str  # where it was found, 'owner/repository: file'
  alone: bool = False  # whether a program for one device has it too


TABLE: Mapping[str, tuple[Option, ...]] = {
  'tpu': (
    Option(
      'xla_tpu_enable_latency_hiding_scheduler',
      True,
      'Collectives begin as early and end as late as the data allow.',
      _AXLEARN,
    ),
    Option(
      'xla_enable_async_all_gather',
      True,
      'All-gathers have a start and an end that the scheduler can part.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_use_minor_sharding_for_major_trivial_input',
      True,
      'An all-reduce whose result is sliced becomes a reduce-scatter, as the'
      ' gradients of fsdp need it.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_relayout_group_size_threshold_for_reduce_scatter',
      1,
      'The same for groups of any size.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_assign_all_reduce_scatter_layout',
      True,
      'Arrays get the layout that a reduce-scatter takes without a copy.',
      _MAXTEXT,
    ),
  ),
  # Fusions with all-gathers: newer compilers refuse them on other chips, as
  # they may compute wrong values there (libtpu 0.0.52).
  'v5e': (
    Option(
      'xla_tpu_enable_async_collective_fusion',
      True,
      'Collectives run within fusions of the computation beside them.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_enable_async_collective_fusion_fuse_all_gather',
      True,
      'The weights of fsdp are gathered that way too.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_enable_async_collective_fusion_multiple_steps',
      True,
      'One collective may stretch over several fusions.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_overlap_compute_collective_tc',
      True,
      'The tensor core computes while its chip communicates.',
      _MAXTEXT,
    ),
  ),
  'v5p': (
    Option(
      'xla_tpu_scoped_vmem_limit_kib',
      65536,
      'Fusions may use half of the vector memory, for larger blocks.',
      _MAXDIFFUSION,
      alone=True,
    ),
  ),
  'v6e': (
    Option(
      'xla_tpu_scoped_vmem_limit_kib',
      98304,
      'Fusions may use three quarters of the vector memory.',
      _MAXTEXT,
      alone=True,
    ),
    Option(
      'xla_jf_spmd_threshold_for_windowed_einsum_mib',
      1_000_000,
      'Products are not cut up to overlap with their collectives, which gains'
      ' little on a chip with so much arithmetic.',
      _AXLEARN,
    ),
  ),
  'multislice': (
    Option(
      'xla_tpu_enable_data_parallel_all_reduce_opt',
      True,
      'Gradients are reduced between slices while those of the next layer are'
      ' computed.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_data_parallel_opt_different_sized_ops',
      True,
      'The same for layers of different sizes.',
      _MAXTEXT,
    ),
    Option(
      'xla_tpu_enable_megascale_barrier',
      True,
      'Slices wait for each other before collectives between them.',
      _AXLEARN,
    ),
    Option(
      'xla_tpu_enable_sunk_dcn_allreduce_done_with_host_reduction',
      True,
      'Reductions between slices are awaited together and late.',
      _AXLEARN,
    ),
    Option(
      'xla_tpu_host_dcn_reduce_max_sinking_limit',
      64 * 2**20,
      'Larger ones are awaited at once, to save memory.',
      _AXLEARN,
    ),
  ),
  'gpu': (
    Option(
      'xla_gpu_enable_latency_hiding_scheduler',
      True,
      'Collectives begin as early and end as late as the data allow.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_enable_pipelined_all_gather',
      True,
      'In a scan over layers, the weights of the next are gathered early.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_enable_pipelined_reduce_scatter',
      True,
      'In a scan, gradients of fsdp are reduced during the next iteration.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_enable_pipelined_all_reduce',
      True,
      'In a scan, gradients of all devices are too.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_enable_while_loop_double_buffering',
      True,
      'Pipelined collectives of a scan need no copy of their result.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_all_gather_combine_threshold_bytes',
      _LAYER_BYTES,
      'The weights of a layer are gathered at once, and not those of all.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_reduce_scatter_combine_threshold_bytes',
      _LAYER_BYTES,
      'The gradients of a layer are reduced at once.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_all_reduce_combine_threshold_bytes',
      _LAYER_BYTES,
      'Few large reductions use the links better than many small ones, and'
      ' still overlap with the layers before.',
      _TOOLBOX,
    ),
  ),
  'ampere': (),
  'hopper': (
    Option(
      'xla_gpu_enable_analytical_sol_latency_estimator',
      True,
      'The scheduler knows how long collectives take on these links.',
      _TOOLBOX,
    ),
  ),
  'blackwell': (
    Option(
      'xla_gpu_enable_analytical_sol_latency_estimator',
      True,
      'The scheduler knows how long collectives take on these links.',
      _TOOLBOX,
    ),
    Option(
      'xla_gpu_enable_command_buffer',
      'FUSION,CUSTOM_CALL',
      'Graphs of these kernels alone start faster.',
      _TOOLBOX,
      alone=True,
    ),
  ),
}
# What a device says it is -> its rows. v5p calls itself 'TPU v5'.
_TPUS = {
  'TPU v5 lite': 'v5e',
  'TPU v5e': 'v5e',
  'TPU v5': 'v5p',
  'TPU v5p': 'v5p',
  'TPU v6 lite': 'v6e',
  'TPU v6e': 'v6e',
}
_GPUS = {'8': 'ampere', '9': 'hopper', '10': 'blackwell'}  # by major capability
# How names begin that one platform alone knows.
_PREFIXES = {
  'xla_tpu_': ('tpu',),
  'xla_jf_': ('tpu',),
  'xla_sc_': ('tpu',),
  'xla_gpu_': ('gpu', 'cuda'),
  'xla_cpu_': ('cpu',),
}
_REFUSED = re.compile(
  r"No such compile option: '(\w+)'|While setting option (\w+)|into flag (\w+)"
)


def rows(devices: Iterable[Any]) -> tuple[str, ...]:
  """Returns the keys of `TABLE` for the devices of a program, in order.

  The devices are of one kind. Those of a CPU and of a chip that the table does
  not know have none; the latter is logged once.
  """
  devices = list(devices)
  first = devices[0]
  if first.platform == 'tpu':
    chip = _TPUS.get(first.device_kind, '')
    slices = {getattr(device, 'slice_index', None) for device in devices}
    found = ('tpu', chip, *(['multislice'] if len(slices) > 1 else []))
  elif first.platform in ('gpu', 'cuda'):
    major, _, _ = str(getattr(first, 'compute_capability', '')).partition('.')
    chip = _GPUS.get(major, '') if _is_of_nvidia(first) else ''
    found = ('gpu', chip)
  else:
    return ()
  if not chip:
    _log_unknown(first.device_kind)
    return ()
  return found


def _is_of_nvidia(device: Any) -> bool:
  return 'amd' not in device.device_kind.lower()


@functools.cache
def _log_unknown(kind: str) -> None:
  logging.warning('no options of the compiler are known for %s', kind)


def compiler_options(devices: Mesh | Iterable[Any]) -> dict[str, Value]:
  """Returns the options of `TABLE` for programs on these devices, none on CPUs.

  Later rows of the table take precedence. A program for one device has only
  those that do not concern collectives.
  """
  listed = devices.devices.flat if isinstance(devices, Mesh) else devices
  many = list(listed)
  options = (option for row in rows(many) for option in TABLE[row])
  return {o.name: o.value for o in options if o.alone or len(many) > 1}


def given(config: ConfigDict, platform: str) -> dict[str, Value]:
  """Returns the options of `config.compiler.options` for a platform.

  Those whose names belong to another one are left out: a run that was trained
  on TPUs is sampled on a laptop.
  """
  parts = (text.partition('=') for text in config.compiler.options)
  return {
    name: _value(text) for name, _, text in parts if _concerns(name, platform)
  }


def _concerns(name: str, platform: str) -> bool:
  found = (p for prefix, p in _PREFIXES.items() if name.startswith(prefix))
  return platform in next(found, (platform,))


def _value(text: str) -> Value:
  """Returns a text as the type that the compiler wants for it."""
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  return int(text) if re.fullmatch(r'-?\d+', text, re.ASCII) else text


def of_config(config: ConfigDict, mesh: Mesh) -> dict[str, Value]:
  """Returns the options of programs on a mesh: the table's, and a config's.

  An option of the table that this version of the compiler refuses is left out,
  with a warning.

  Raises:
    UserError: the compiler refuses an option of `config.compiler.options`.
  """
  device = _near(mesh)
  own = given(config, device.platform)
  table = compiler_options(mesh) if config.compiler.defaults else {}
  options = {**table, **own}
  bad = refused(options, device)
  for name, reason in bad.items():
    if name in own:
      raise errors.UserError(
        f'config.compiler.options has {name}={own[name]}: {reason}.'
      )
    logging.warning('the compiler of this version: %s', reason)
  return {name: x for name, x in options.items() if name not in bad}


def _near(mesh: Mesh) -> Any:
  """Returns a device of this process, or any if it has none."""
  index, _ = processes.process_part()
  devices = list(mesh.devices.flat)
  return next((d for d in devices if d.process_index == index), devices[0])


def refused(options: Options, device: Any) -> dict[str, str]:
  """Returns {name: reason} of options that the compiler of a device refuses.

  A small program is compiled; the device may be of another machine
  (`jax.experimental.topologies`).
  """
  return dict(_refused(tuple(options.items()), device))


@functools.cache
def _refused(
  options: tuple[tuple[str, Value], ...], device: Any
) -> tuple[tuple[str, str], ...]:
  if not options:
    return ()
  array = jax.ShapeDtypeStruct(
    (), jnp.float32, sharding=SingleDeviceSharding(device)
  )
  program = jax.jit(lambda x: x + 1).lower(array)
  bad: dict[str, str] = {}
  left = dict(options)
  while error := _error(program, left):
    found = _REFUSED.search(error)
    name = '' if found is None else next(filter(None, found.groups()))
    named = {name: error} if name in left else _alone(program, left)
    if not named:
      texts = ', '.join(f'{name}={value}' for name, value in left.items())
      raise errors.UserError(f'options of the compiler, {texts}: {error}.')
    bad |= named
    left = {name: x for name, x in left.items() if name not in bad}
  return tuple(bad.items())


def _alone(program: jax.stages.Lowered, options: Options) -> dict[str, str]:
  """Returns what the compiler says of options that it refuses one by one."""
  said = {name: _error(program, {name: x}) for name, x in options.items()}
  return {name: text for name, text in said.items() if text}


def _error(program: jax.stages.Lowered, options: Options) -> str:
  """Returns why the compiler refuses a program with options, '' if not."""
  try:
    program.compile(for_jax(options))
  except jax.errors.JaxRuntimeError as error:
    _, _, text = (
      str(error).strip().splitlines()[0].rpartition('INVALID_ARGUMENT: ')
    )
    return text.rstrip(' .:')
  return ''


def for_jax(options: Options) -> Any:
  """Returns options as jax takes them, which does not declare whole numbers."""
  return dict(options)
