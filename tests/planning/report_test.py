import dataclasses
import json

import pytest

from pyramid_jax.planning import compiling
from pyramid_jax.planning import report
from pyramid_jax.planning import topologies
from tests.helpers import configs


# What readers of plan.json may rely on.
KEYS = (
  *('config', 'topology', 'chips', 'batch', 'params', 'peak_bytes'),
  *('hbm_capacity_bytes', 'model_flops_per_image', 'program_flops'),
  *('hbm_bytes', 'collectives', 'seconds', 'bound', 'mfu_ceiling'),
  *('mfu_floor', 'largest_batch', 'compile_seconds', 'warnings'),
)
PER_IMAGE, BASE = 1000, 5000  # bytes


def compiled(task, draft, until=compiling.END):
  """Compiles for the CPU devices of this process, and counts memory simply."""
  text = draft.traced.lower().compile().as_text()
  is_whole = until == compiling.END
  return compiling.Compiled(
    text=text,
    stage=until,
    seconds=2.0,
    peak_bytes=BASE + PER_IMAGE * draft.images if is_whole else None,
    temporary_bytes=1 if is_whole else None,
  )


def task(program='train', **fields):
  values = {
    'train.batch_size': 16,
    'sample.batch_size': 8,
    'sample.steps': 1,
    **fields,
  }
  config = configs.load('diffit_cifar10.py:class,vp,debug', **values)
  topology = topologies.parse('h100:4x2')
  return compiling.Task(config=config, topology=topology, program=program)


@pytest.fixture(scope='module')
def plans():
  """Returns the plan of each program."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compiling, 'compiled', compiled)
    train = report.plan(task())
    sampler = report.plan(task('sampler'), has_largest=False)
    return {'train': train, 'sampler': sampler}


def test_a_plan_has_what_its_program_needs(plans):
  found = plans['train']
  assert (found['chips'], found['batch'], found['stage']) == (8, 16, 'end')
  assert found['peak_bytes'] == BASE + 16 * PER_IMAGE
  # All chips have the same work: a share of the batch.
  own = found['model_flops_per_image'] * 16 / 8
  assert 0.9 * own < found['program_flops'] < 1.3 * own
  # Gradients of data parallelism are summed, and nothing else is sent.
  assert set(found['collectives']) == {'all-reduce'}
  assert found['collectives']['all-reduce']['bytes'] >= 4 * found['params']
  slowest = max(found['seconds'].values())
  assert found['seconds'][found['bound']] == slowest
  assert found['step_seconds']['overlapped'] == slowest
  assert found['step_seconds']['serial'] == sum(found['seconds'].values())
  assert found['images_per_second'] == 16 / slowest
  assert 0 < found['mfu_floor'] < found['mfu_ceiling'] <= 1


def test_the_largest_batch_follows_from_two(plans):
  there = plans['train']['hbm_capacity_bytes']
  most = (there - BASE) // PER_IMAGE // 8 * 8
  assert plans['train']['largest_batch'] == most
  assert plans['sampler']['largest_batch'] is None


def test_after_the_partitioner_memory_is_not_known(monkeypatch):
  monkeypatch.setattr(compiling, 'compiled', compiled)
  found = report.plan(task(), compiling.PARTITIONER)
  unknown = {name for name, value in found.items() if value is None}
  assert unknown == {
    *('hbm_bytes', 'peak_bytes', 'temporary_bytes', 'largest_batch'),
    'mfu_floor',
  }
  assert found['seconds']['memory'] is None
  assert found['program_flops'] > 0


def test_json_has_the_keys_for_both_programs(plans):
  found = json.loads(json.dumps(report.as_json('NAME', plans)))
  assert set(KEYS) <= set(found)
  assert set(found['sampler']) == set(found) - {'sampler'}
  assert found['config'] == found['sampler']['config'] == 'NAME'
  assert set(found['seconds']) == {'compute', 'memory', 'interconnect'}
  alone = report.as_json('NAME', {'train': plans['train']})
  assert alone['sampler'] is None
  alone = report.as_json('NAME', {'sampler': plans['sampler']})
  assert alone['peak_bytes'] is None
  assert alone['sampler'] == found['sampler']


def test_the_table_has_a_column_for_each_program(plans):
  head, titles, *rows = report.table('NAME', plans).splitlines()
  assert head == 'NAME on h100:4x2, 8 chips'
  assert titles.split() == ['train', 'sampler']
  assert rows[2].split() == ['batch', '16', '8']
  assert all(len(row) <= 100 for row in rows if not row.startswith('train:'))
  assert f'{plans["train"]["bound"]} ' in report.table('NAME', plans)


def test_a_batch_of_a_sampler_that_leaves_chips_idle_is_a_warning(monkeypatch):
  monkeypatch.setattr(compiling, 'compiled', compiled)
  found = report.plan(
    task('sampler', **{'sample.batch_size': 3}), has_largest=False
  )
  assert found['warnings'][0].startswith(
    'config.sample.batch_size is 3, which 8 chips do not divide: they compute 8'
  )


def test_more_memory_than_there_is_is_a_warning(monkeypatch):
  def large(*args):
    return dataclasses.replace(compiled(*args), peak_bytes=2**37)

  monkeypatch.setattr(compiling, 'compiled', large)
  found = report.plan(task(), has_largest=False)
  assert '128.00 GiB are needed of the 74.51 GiB' in found['warnings'][0]


def test_stages_of_ladm_keep_their_shares_of_another_batch():
  fields = {'train.batch_size': 48, 'laplacian.stage_batch': '24,16,8'}
  config = configs.load('ladm_text.py:256,debug', **fields)
  found = report.with_batch(config, 'train', 24)
  assert found.train.batch_size == 24
  assert found.laplacian.stage_batch == (12, 8, 4)
  assert config.train.batch_size == 48
