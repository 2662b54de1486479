import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import mesh as mesh_lib
from tests.helpers import configs
from tests.helpers import fake_run


ROOT = pathlib.Path(__file__).parents[2]
TOPOLOGIES = {
  'v5e:2x2': ['tpu', 'v5e'],
  'v5p:2x2x1': ['tpu', 'v5p'],
  'v6e:2x2': ['tpu', 'v6e'],
  'v6e:2x2@2': ['tpu', 'v6e', 'multislice'],
}
OPTIONS = [option for options in flags.TABLE.values() for option in options]


def device(kind, platform='tpu', capability='', slice_index=None):
  return types.SimpleNamespace(
    device_kind=kind,
    platform=platform,
    compute_capability=capability,
    slice_index=slice_index,
  )


def of(*options, defaults=True):
  """A config with options of the compiler."""
  config = fake_run.get_config()
  fields = {'compiler.options': ','.join(options) or '()'}
  return configs.change(config, {**fields, 'compiler.defaults': defaults})


@pytest.mark.parametrize(
  ('first', 'want'),
  [
    (device('TPU v5 lite'), ('tpu', 'v5e')),
    (device('TPU v5'), ('tpu', 'v5p')),
    (device('TPU v6 lite'), ('tpu', 'v6e')),
    (device('NVIDIA A100-SXM4-80GB', 'gpu', '8.0'), ('gpu', 'ampere')),
    (device('NVIDIA H200', 'gpu', '9.0'), ('gpu', 'hopper')),
    (device('NVIDIA B200', 'gpu', '10.0'), ('gpu', 'blackwell')),
    (device('cpu', 'cpu'), ()),
  ],
)
def test_rows_of_a_chip(first, want):
  assert flags.rows([first, first]) == want


@pytest.mark.parametrize(
  'first',
  [
    device('TPU v99'),
    device('AMD Instinct MI300X', 'gpu', '9.4'),
    device('NVIDIA Z9', 'gpu', '99.0'),
  ],
)
def test_a_chip_that_is_not_known_has_none_and_is_named_once(first, caplog):
  with caplog.at_level('WARNING'):
    assert flags.compiler_options([first] * 2) == {}
    assert flags.compiler_options([first] * 2) == {}
  assert caplog.text.count(first.device_kind) == 1


def test_devices_of_several_slices():
  slices = [device('TPU v6 lite', slice_index=i) for i in (0, 1)]
  several = flags.compiler_options(slices)
  one = flags.compiler_options(slices[:1] * 2)
  assert several['xla_tpu_enable_megascale_barrier'] is True
  assert set(several) - set(one) == {o.name for o in flags.TABLE['multislice']}


def test_one_device_has_no_options_of_collectives():
  one = flags.compiler_options([device('TPU v6 lite')])
  assert one == {'xla_tpu_scoped_vmem_limit_kib': 98304}
  assert flags.compiler_options([device('NVIDIA H200', 'gpu', '9.0')]) == {}


def test_every_row_is_for_some_device_and_every_option_has_its_reason():
  chips = {*flags._TPUS.values(), *flags._GPUS.values()}
  assert set(flags.TABLE) == {'tpu', 'gpu', 'multislice', *chips}
  for option in OPTIONS:
    assert option.why.endswith('.')
    assert option.why.count('. ') == 0
    assert ': ' in option.source


def test_the_names_and_types_of_gpu_options():
  # All builds of the compiler have the options of all platforms of XLA.
  gpu = {o.name: o.value for o in OPTIONS if o.name.startswith('xla_gpu_')}
  assert len(gpu) >= 10
  assert flags.refused(gpu, jax.devices()[0]) == {}
  wrong = {'xla_gpu_no_such_option': 1, 'xla_gpu_enable_triton_gemm': 'on'}
  assert set(flags.refused({**gpu, **wrong}, jax.devices()[0])) == set(wrong)


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)
def test_the_compiler_of_tpus_accepts_the_table_and_refuses_others():
  arguments = [sys.executable, '-m', 'tests.helpers.tpu_compiler', *TOPOLOGIES]
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
    arguments,
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert {k: v['rows'] for k, v in found.items()} == TOPOLOGIES
  assert {k: v['refused'] for k, v in found.items()} == dict.fromkeys(
    TOPOLOGIES, {}
  )
  assert all(
    list(v['unknown']) == ['xla_tpu_no_such_option'] for v in found.values()
  )
  compiled = set().union(*(v['options'] for v in found.values()))
  assert compiled == {o.name for o in OPTIONS if 'xla_gpu_' not in o.name}


def test_values_of_a_config():
  config = of('xla_cpu_a=true', 'xla_b=False', 'xla_c=-3', 'xla_d=', 'xla_e=x')
  assert flags.given(config, 'cpu') == {
    'xla_cpu_a': True,
    'xla_b': False,
    'xla_c': -3,
    'xla_d': '',
    'xla_e': 'x',
  }
  assert 'xla_cpu_a' not in flags.given(config, 'tpu')


@pytest.mark.parametrize('text', ['xla_a', '--xla_a=1', '=1', 'xla_a=1 2'])
def test_options_that_are_none(text):
  config = fake_run.get_config()
  config.compiler.options = (text,)
  with pytest.raises(errors.UserError, match="compiler.options.*'name=value'"):
    config_lib.validate(config)


def test_a_config_takes_precedence_over_the_table(monkeypatch):
  table = {'xla_gpu_autotune_level': 1, 'xla_cpu_enable_fast_math': False}
  monkeypatch.setattr(flags, 'compiler_options', lambda mesh: table)
  mesh = mesh_lib.pure_data()
  own = 'xla_cpu_enable_fast_math=true'
  assert flags.of_config(of(own), mesh) == {
    'xla_gpu_autotune_level': 1,
    'xla_cpu_enable_fast_math': True,
  }
  assert flags.of_config(of(own, defaults=False), mesh) == {
    'xla_cpu_enable_fast_math': True
  }
  assert flags.of_config(of('xla_tpu_other=1'), mesh) == table


def test_what_the_compiler_refuses(monkeypatch, caplog):
  mesh = mesh_lib.pure_data()
  with pytest.raises(errors.UserError, match='xla_cpu_nonsense=1: No such'):
    flags.of_config(of('xla_cpu_nonsense=1'), mesh)
  monkeypatch.setattr(flags, 'compiler_options', lambda mesh: {'xla_gone': 1})
  with caplog.at_level('WARNING'):
    assert flags.of_config(of(), mesh) == {}
  assert "No such compile option: 'xla_gone'" in caplog.text


def test_cpus_have_none():
  assert flags.of_config(of(), mesh_lib.pure_data()) == {}


def test_options_that_are_refused_only_together(monkeypatch):
  texts = {'ab': 'not both', 'a': '', 'b': ''}
  monkeypatch.setattr(
    flags, '_error', lambda _, options: texts[''.join(options)]
  )
  with pytest.raises(errors.UserError, match='a=1, b=2: not both'):
    flags.refused({'a': 1, 'b': 2}, jax.devices()[0])


def test_options_that_an_error_does_not_name(monkeypatch):
  says = lambda _, options: 'bad' if 'other' in options else ''
  monkeypatch.setattr(flags, '_error', says)
  found = flags.refused({'one': 1, 'other': 2}, jax.devices()[0])
  assert found == {'other': 'bad'}
