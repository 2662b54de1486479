"""What the programs of a config need on a topology, as JSON and as a table."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import chips
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.planning import abstract
from pyramid_jax.planning import compiling
from pyramid_jax.planning import minimum
from pyramid_jax.planning import program as program_lib
from pyramid_jax.planning import roofline
from pyramid_jax.planning import warnings


# By program, the field with the number of images of a batch.
BATCH = {'train': 'train.batch_size', 'sampler': 'sample.batch_size'}

_STAGES = {
  compiling.END: 'to the end',
  compiling.PARTITIONER: 'after the partitioner',
}
Plan = dict[str, Any]  # of JSON's types


def plan(
  task: compiling.Task, until: str = compiling.END, has_largest: bool = True
) -> Plan:
  """Returns what a program needs; docs/scaling.md says what the keys are.

  What is not known after the partitioner alone is None.

  Args:
    task: the program.
    until: one of `compiling.STAGES`.
    has_largest: whether another batch is compiled to find the largest one.
  """
  draft = task.draft()
  found = compiling.compiled(task, draft, until)
  is_whole = found.stage == compiling.END
  program = program_lib.Program.of(found.text)
  if not is_whole:  # what is not fused yet says nothing of the traffic
    program = dataclasses.replace(program, hbm_bytes=0)
  topology = task.topology
  chip = chips.CHIPS[topology.family.kind]
  work = draft.model_flops()
  largest = None
  if has_largest and found.peak_bytes is not None:
    largest = _largest_batch(task, draft, found.peak_bytes)
  return {
    'topology': str(topology),
    'chips': topology.chips,
    'devices': topology.devices,
    'mesh': ' x '.join(f'{axis} {n}' for axis, n in draft.mesh.shape.items()),
    'stage': found.stage,
    'batch': draft.images,
    'params': sum(leaf.size for leaf in jax.tree.leaves(draft.params)),
    'state_bytes': sharding.device_bytes(draft.state),
    'frozen_bytes': sharding.device_bytes(draft.frozen),
    'temporary_bytes': found.temporary_bytes,
    'peak_bytes': found.peak_bytes,
    'hbm_capacity_bytes': int(chip.memory_bytes),
    'model_flops_per_image': work // draft.images,
    'program_flops': program.flops,
    'hbm_bytes': int(program.hbm_bytes) if is_whole else None,
    'hbm_minimum_bytes': draft.least_bytes(),
    'collectives': _collectives(task, draft, program),
    **_times(task, draft, program, work, is_whole),
    'largest_batch': largest,
    'compile_seconds': round(found.seconds, 1),
    'warnings': [*_warnings(task, draft, found, program)],
  }


def _collectives(
  task: compiling.Task, draft: abstract.Draft, program: program_lib.Program
) -> Plan:
  """Returns the collectives by kind, with what the sharding needs of them."""
  needed: dict[str, int] = {}
  if task.program == 'train':
    config = task.config
    needed = minimum.of_training(
      draft.params,
      draft.updated,
      minimum.read(draft.traced, draft.state, draft.frozen),
      draft.mesh,
      config.dtype,
      config.train.accumulate,
    )
  found = program.by_kind()
  return {
    kind: {
      'count': found.get(kind, (0, 0))[0],
      'bytes': found.get(kind, (0, 0))[1],
      'minimum_bytes': needed.get(kind, 0),
    }
    for kind in sorted({*found, *needed})
  }


def _times(
  task: compiling.Task,
  draft: abstract.Draft,
  program: program_lib.Program,
  work: int,
  is_whole: bool,
) -> Plan:
  """Returns the part of a plan that follows from the rates of the chips."""
  topology = task.topology
  chip = chips.CHIPS[topology.family.kind]
  places = (
    roofline.places(draft.mesh.devices.flat)
    if topology.is_tpu
    else roofline.nodes(topology.sides[1], topology.sides[0])
  )
  assert chip.links is not None  # of every family
  network = roofline.Network(chip.links, places)
  seconds = roofline.Seconds.of(program, chip, network)
  own, peak = work / topology.devices, chip.peak(task.config.dtype)
  known = dataclasses.asdict(seconds)
  return {
    'seconds': known if is_whole else {**known, 'memory': None},
    'bound': seconds.bound,
    'step_seconds': {'overlapped': seconds.slowest, 'serial': seconds.total},
    'images_per_second': draft.images / seconds.slowest,
    'mfu_ceiling': seconds.mfu_ceiling(own, peak),
    'mfu_floor': seconds.mfu_floor(own, peak) if is_whole else None,
  }


def _largest_batch(
  task: compiling.Task, draft: abstract.Draft, peak_bytes: int
) -> int | None:
  """Returns the largest batch that fits, from a second compilation.

  The bytes of a device are taken for linear in the batch. None is returned
  where the second batch is none that the system takes.
  """
  config, count = task.config, draft.images
  step = mesh_lib.batch_parts(draft.mesh)
  if task.program == 'train':
    step *= config.train.accumulate
  other = max(step, count // 2 // step * step)
  other = 2 * other if other == count else other
  try:
    second = dataclasses.replace(
      task, config=with_batch(config, task.program, other)
    )
    found = compiling.compiled(second, second.draft())
  except errors.UserError:
    return None
  assert found.peak_bytes is not None
  slope = (found.peak_bytes - peak_bytes) / (other - count)
  there = chips.CHIPS[task.topology.family.kind].memory_bytes
  if slope <= 0:
    return None
  most = count + (there - peak_bytes) / slope
  return max(0, int(most // step) * step)


def with_batch(config: ConfigDict, program: str, count: int) -> ConfigDict:
  """Returns a config with another batch; LaDM's stages keep their shares."""
  name = BATCH[program]
  section, field = name.split('.')
  values: dict[str, str] = {name: str(count)}
  stages = config.get('laplacian', {}).get('stage_batch', (0,))
  if program == 'train' and sum(stages):
    parts = (size * count // config[section][field] for size in stages)
    values['laplacian.stage_batch'] = ','.join(map(str, parts))
  copy = config_lib.from_json(config_lib.to_json(config))
  config_lib.override(copy, values)
  config_lib.validate(copy)
  return copy


def _warnings(
  task: compiling.Task,
  draft: abstract.Draft,
  found: compiling.Compiled,
  program: program_lib.Program,
) -> Iterator[str]:
  chip = chips.CHIPS[task.topology.family.kind]
  if found.peak_bytes is not None and found.peak_bytes > chip.memory_bytes:
    yield (
      f'{_scaled(found.peak_bytes, "B", 1024)} are needed of the'
      f' {_scaled(chip.memory_bytes, "B", 1024)} of a chip'
    )
  parts = mesh_lib.batch_parts(draft.mesh)
  if draft.images % parts:
    yield (
      f'config.{BATCH[task.program]} is {draft.images}, which {parts} chips do'
      f' not divide: they compute {-(-draft.images // parts) * parts} images'
    )
  trees = {'state': draft.state, 'frozen': draft.frozen}
  min_size = task.config.mesh.fsdp_min_size
  yield from warnings.of_leaves(trees, draft.mesh, min_size)
  yield from warnings.of_collectives(minimum.excess(program, trees))
  yield from warnings.of_minimum(_collectives(task, draft, program))
  if task.topology.is_tpu:
    yield from warnings.of_products(draft.traced)
  for what, names in (
    ('loops that run an unknown number of times', program.unknown_loops),
    ('kernels whose operations are not counted', program.uncounted),
  ):
    if names:
      yield f'{len(names)} {what}: {names[0]}'


def _scaled(value: float | None, unit: str, base: int = 1000) -> str:
  """Returns '1.50 GFLOP' of 1.5e9, '-' of None; base 1024 gives 'GiB'."""
  if value is None:
    return '-'
  for prefix in ('', 'k', 'M', 'G', 'T', 'P'):
    if value < base or prefix == 'P':
      break
    value /= base
  if base == 1024 and prefix:
    prefix = f'{prefix.upper()}i'
  digits = 2 if prefix else 0
  return f'{value:.{digits}f} {prefix}{unit}'


def as_json(name: str, plans: Mapping[str, Plan]) -> Plan:
  """Returns the plan of a training step with that of its sampler inside.

  Args:
    name: of the config.
    plans: by program, those of `plan`; one that was not asked for has None in
      place of its numbers.
  """
  named = {program: {'config': name, **x} for program, x in plans.items()}
  (some, *_) = named.values()
  own = named.get('train') or dict.fromkeys(some)
  return {**own, 'sampler': named.get('sampler')}


def _rows(found: Plan) -> Iterator[tuple[str, str]]:
  """Yields (name, value) of the rows of the table of a program."""
  size = lambda value: _scaled(value, 'B', 1024)
  share = lambda value: '-' if value is None else f'{value:.1%}'
  secs = lambda value: '-' if value is None else f'{1000 * value:.3g} ms'
  yield 'compiled', _STAGES[found['stage']]
  yield 'mesh', found['mesh']
  yield 'batch', str(found['batch'])
  yield 'trained parameters', f'{found["params"]:,}'
  for name in ('state', 'frozen', 'temporary', 'peak'):
    yield f'{name}, a chip', size(found[f'{name}_bytes'])
  yield 'there, a chip', size(found['hbm_capacity_bytes'])
  yield 'largest batch', str(found['largest_batch'] or '-')
  per_image, flops = found['model_flops_per_image'], found['program_flops']
  ratio = flops * found['devices'] / (per_image * found['batch'])
  yield 'model, an image', _scaled(per_image, 'FLOP')
  yield 'program, a chip', f'{_scaled(flops, "FLOP")}, {ratio:.2f} x the model'
  least = size(found['hbm_minimum_bytes'])
  yield 'HBM traffic, a chip', f'{size(found["hbm_bytes"])} (least {least})'
  for kind, numbers in found['collectives'].items():
    least = size(numbers['minimum_bytes'])
    moved = f'{numbers["count"]} x, {size(numbers["bytes"])}'
    yield kind, f'{moved} (least {least})'
  for name, value in found['seconds'].items():
    bound = ' (bound)' if name == found['bound'] else ''
    yield name, secs(value) + bound
  steps = found['step_seconds']
  yield 'a run, all overlapped', secs(steps['overlapped'])
  yield 'a run, none overlapped', secs(steps['serial'])
  yield 'images/s, at most', f'{found["images_per_second"]:.4g}'
  yield 'MFU, all overlapped', share(found['mfu_ceiling'])
  yield 'MFU, none overlapped', share(found['mfu_floor'])
  yield 'compiled in', f'{found["compile_seconds"]:.0f} s'


def table(name: str, plans: Mapping[str, Plan]) -> str:
  """Returns the text of a plan, one column for each program.

  Args:
    name: of the config.
    plans: by program, those of `plan`.
  """
  columns = [dict(_rows(found)) for found in plans.values()]
  names = dict.fromkeys(row for column in columns for row in column)
  (first, *_) = plans.values()
  lines = [f'{name} on {first["topology"]}, {first["chips"]} chips']
  lines.append(_line('', plans))
  lines += [_line(row, [c.get(row, '-') for c in columns]) for row in names]
  for program, found in plans.items():
    lines += [f'{program}: {text}' for text in found['warnings']]
  return '\n'.join(lines) + '\n'


def _line(name: str, values: Iterable[str]) -> str:
  cells = ''.join(f'{value:<34}' for value in values)
  return f'{name:<24}{cells}'.rstrip()
