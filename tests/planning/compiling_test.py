import dataclasses
import importlib.util
import types
from unittest import mock

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.planning import compiling
from pyramid_jax.planning import program as program_lib
from pyramid_jax.planning import topologies
from tests.helpers import configs


SIZES = {'state': 200, 'frozen': 100}  # bytes on a device


def task(topology, **fields):
  values = {'train.batch_size': 16, **fields}
  config = configs.load('diffit_cifar10.py:class,vp,debug', **values)
  return compiling.Task(
    config=config, topology=topologies.parse(topology), program='train'
  )


@pytest.mark.pods
def test_programs_for_gpus_end_after_the_partitioner():
  given = task('h100:4x2')
  draft = given.draft()
  found = compiling.compiled(given, draft)
  assert found.stage == compiling.PARTITIONER
  assert (found.peak_bytes, found.temporary_bytes) == (None, None)
  here = draft.traced.lower().compile().as_text()
  read = program_lib.Program.of
  assert 'num_partitions=8' in found.text
  assert read(found.text).flops == pytest.approx(read(here).flops, rel=0.02)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('Used 20.00G of 15.48G hbm.', 20 * 2**30),
    ('for HLO temporaries (18.00G) exceeds', 18 * 2**30 + 300),
    ('no number', None),
  ],
)
def test_what_a_program_needs_that_does_not_fit(monkeypatch, text, expected):
  given = task('v5e:2x4')
  error = jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {text}')
  lowered = mock.Mock(compile=mock.Mock(side_effect=error))
  arrays = {name: np.zeros(size, np.uint8) for name, size in SIZES.items()}
  draft = mock.Mock(
    traced=mock.Mock(lower=lambda: lowered),
    options={},
    **jax.device_put(arrays, jax.devices()[0]),
  )
  part = compiling.Compiled(text='', stage=compiling.PARTITIONER, seconds=1.0)
  monkeypatch.setattr(compiling, 'partitioned', lambda task: part)
  found = compiling.compiled(given, draft)
  assert found == dataclasses.replace(part, peak_bytes=expected)


@pytest.mark.parametrize(
  ('peak', 'expected'),
  # Arguments, results that take no place of an argument, and temporaries.
  [
    ({}, 100 + 4 + 50),
    ({'peak_memory_in_bytes': 0}, 154),
    ({'peak_memory_in_bytes': 130}, 130),
    ({'peak_memory_in_bytes': 170}, 154),
  ],
)
def test_the_peak_is_that_of_xla_where_it_has_one(peak, expected):
  stats = types.SimpleNamespace(
    argument_size_in_bytes=100,
    output_size_in_bytes=64,
    alias_size_in_bytes=60,
    temp_size_in_bytes=50,
    **peak,
  )
  program = mock.Mock(memory_analysis=lambda: stats, as_text=lambda: 'TEXT')
  lowered = mock.Mock(compile=lambda options: program)
  draft = mock.Mock(traced=mock.Mock(lower=lambda: lowered), options={})
  found = compiling.compiled(task('v5e:2x4'), draft)
  assert (found.text, found.stage) == ('TEXT', compiling.END)
  assert (found.peak_bytes, found.temporary_bytes) == (expected, 50)


def test_a_compiler_that_ends_early_is_one_line(monkeypatch, tmp_path):
  class Ended:
    exitcode = 11

    def is_alive(self):
      return False

  with pytest.raises(errors.UserError, match='ended with 11') as caught:
    compiling.dumped(Ended(), tmp_path)
  assert caught.value.code == errors.BUG


@pytest.mark.pods
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu'
)
def test_programs_for_tpus_are_compiled_to_the_end(monkeypatch):
  given = task('v5e:2x4')
  for key, value in topologies.environment(given.topology, {}).items():
    monkeypatch.setenv(key, value)
  draft = given.draft()
  found = compiling.compiled(given, draft)
  assert found.stage == compiling.END
  assert found.peak_bytes > found.temporary_bytes > 0
  part = compiling.compiled(given, draft, compiling.PARTITIONER)
  read = program_lib.Program.of
  # Convolutions of few pixels are counted with more padding at the end.
  assert read(part.text).flops == pytest.approx(read(found.text).flops, rel=0.2)
