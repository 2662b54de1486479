import importlib.util
import json
import subprocess
import sys

from ml_collections import ConfigDict
import pytest

from pyramid_jax import errors
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import topologies
from tests.helpers import configs


HAS_LIBTPU = importlib.util.find_spec('libtpu') is not None
# Prints the variables at the moment at which jax is first imported, and ends.
WATCH = """
import json, os, sys

class Watch:
  def find_spec(self, name, path=None, target=None):
    if name == 'jax':
      print(json.dumps(dict(os.environ)), flush=True)
      os._exit(0)

sys.meta_path.insert(0, Watch())
from pyramid_jax import main
main.run(sys.argv[1:])
"""


@pytest.mark.parametrize(
  ('name', 'slices', 'chips', 'devices'),
  [
    ('v5e:16x16', 1, 256, 256),
    ('v5e:16x16', 4, 1024, 1024),
    ('v5p:4x4x4', 1, 64, 64),
    ('v6e:1x1', 1, 1, 1),
    ('tpu7x:4x4x4', 1, 64, 128),
    ('h100:8x4', 1, 32, 32),
  ],
)
def test_chips_and_devices_of_a_name(name, slices, chips, devices):
  found = topologies.parse(name, slices)
  assert (found.chips, found.devices) == (chips, devices)


@pytest.mark.parametrize(
  ('name', 'slices', 'message'),
  [
    ('v5e', 1, 'v5e has 2 sides, such as v5e:16x16'),
    ('v5e:256', 1, 'v5e has 2 sides'),
    ('v5e:4x4x4', 1, 'v5e has 2 sides'),
    ('v5p:4x4', 1, 'v5p has 3 sides'),
    ('v5e:0x4', 1, 'v5e has 2 sides'),
    ('v5ee:4x4', 1, "must be FAMILY:SIDES, .* did you mean 'v5e'"),
    ('h100:8x4', 2, '--slices=2: h100:8x4 has none'),
  ],
)
def test_other_names_are_refused(name, slices, message):
  with pytest.raises(errors.UserError, match=message):
    topologies.parse(name, slices)


@pytest.mark.parametrize(
  ('name', 'kind'),
  [
    ('v5e:16x16', 'v5litepod-256'),
    ('v5p:4x4x4', 'v5p-128'),
    ('v6e:16x16', 'v6e-256'),
    ('tpu7x:4x4x4', 'tpu7x-128'),
  ],
)
def test_libtpu_is_given_the_type_of_the_accelerator(name, kind):
  found = topologies.environment(topologies.parse(name), {})
  assert found['TPU_ACCELERATOR_TYPE'] == kind
  assert found['JAX_PLATFORMS'] == 'cpu'


def test_cpu_devices_stand_for_gpus_beside_other_flags():
  was = {'XLA_FLAGS': '--xla_a=1 --xla_force_host_platform_device_count=2'}
  found = topologies.environment(topologies.parse('h100:8x4'), was)
  assert found == {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_a=1 --xla_force_host_platform_device_count=32',
  }


def test_variables_are_set_before_jax_is_loaded():
  config = f'--config={configs.FOLDER}/flow_shapes.py:debug'
  command = ('--mode=plan', config, '--topology=h100:8x4')
  done = subprocess.run(
    [sys.executable, '-c', WATCH, *command],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  seen = json.loads(done.stdout)
  assert seen['JAX_PLATFORMS'] == 'cpu'
  assert '_device_count=32' in seen['XLA_FLAGS']


def test_without_libtpu_the_extra_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  variables = {}
  with pytest.raises(errors.UserError, match=r"'pyramid_jax\[tpu\]'") as caught:
    topologies.prepare(topologies.parse('v5e:4x4'), variables)
  assert (caught.value.code, variables) == (errors.MISSING, {})
  topologies.prepare(topologies.parse('h100:8x1'), variables)
  assert 'XLA_FLAGS' in variables


def test_a_mesh_that_does_not_fit_is_one_line():
  config = ConfigDict({'data': 3, 'fsdp': 1, 'tensor': 1})
  with pytest.raises(errors.UserError, match=r'data=3.*the 8 devices'):
    topologies.mesh(topologies.parse('h100:8x1'), config)
  config.data = -1
  found = topologies.mesh(topologies.parse('h100:4x2'), config)
  assert dict(found.shape) == {'data': 8, 'fsdp': 1, 'tensor': 1}


def test_sides_and_their_products_are_the_sizes_of_axes(monkeypatch):
  def refuse(config, devices):
    raise NotImplementedError

  monkeypatch.setattr(topologies, 'devices', lambda topology: [])
  monkeypatch.setattr(mesh_lib, 'create', refuse)
  config = ConfigDict({'data': 8, 'fsdp': 8, 'tensor': 1})
  message = 'data=8, fsdp=8, tensor=1: on v5p:4x4x4 .* 1, 4, 16, 64,'
  with pytest.raises(errors.UserError, match=message):
    topologies.mesh(topologies.parse('v5p:4x4x4'), config)


@pytest.mark.skipif(not HAS_LIBTPU, reason='needs libtpu')
class TestLibtpu:
  def test_devices_of_every_family(self, monkeypatch):
    for name in ('v5e:1x1', 'v5e:16x16', 'v5p:4x4x4', 'v6e:4x4', 'tpu7x:2x2x1'):
      topology = topologies.parse(name)
      for key, value in topologies.environment(topology, {}).items():
        monkeypatch.setenv(key, value)
      found = topologies.devices(topology)
      kinds = {device.device_kind for device in found}
      assert (len(found), kinds) == (topology.devices, {topology.family.kind})

  def test_sides_that_no_slice_has(self):
    with pytest.raises(errors.UserError, match='v5e:3x5: no such slice'):
      topologies.devices(topologies.parse('v5e:3x5'))

  def test_an_axis_that_is_no_product_of_sides(self):
    config = ConfigDict({'data': 8, 'fsdp': 8, 'tensor': 1})
    with pytest.raises(errors.UserError, match='1, 4, 16, 64'):
      topologies.mesh(topologies.parse('v5p:4x4x4'), config)

  def test_slices_split_data_alone(self):
    config = ConfigDict({'data': -1, 'fsdp': 4, 'tensor': 1})
    topology = topologies.parse('v5e:2x4', slices=2)
    found = topologies.mesh(topology, config)
    assert dict(found.shape) == {'data': 4, 'fsdp': 4, 'tensor': 1}
    slices = [{d.slice_index for d in row.flat} for row in found.devices]
    assert slices == [{0}, {0}, {1}, {1}]
    with config.unlocked():
      config.data, config.fsdp = 1, 16
    with pytest.raises(errors.UserError, match='divisible by the 2 slices'):
      topologies.mesh(topology, config)
