"""A run that goes on, and is sampled, on other meshes than its own."""

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import loading
from pyramid_jax.runs import state as run_state
from pyramid_jax.training import step as step_lib
from tests.helpers import fake_run


class Run:
  """The fake run on a mesh."""

  def __init__(self, **sizes):
    self.config = config = fake_run.get_config('attention')
    mesh = {f'mesh.{axis}': str(size) for axis, size in sizes.items()}
    config_lib.override(config, mesh)
    self.mesh = mesh = mesh_lib.create(config.mesh)
    system, self.reader = fake_run.System(config), fake_run.Reader(config)
    self._create = lambda: step_lib.create(system, config)
    self.abstract = step_lib.abstract(self._create, mesh, config)
    self._function = step_lib.make_step(
      system, config, self.reader.finish, mesh
    )

  def batch(self, step):
    rows = np.arange(8) + 8 * step
    host = self.reader.batch(rows, rows.astype(np.uint64))
    return mesh_lib.place(self.mesh, host)

  def start(self):
    shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
    values = initial.evaluate(self._create)
    return initial.place(values, shardings)

  def go_on(self, state, last):
    compiled = step_lib.compile_step(
      self._function, self.mesh, self.abstract, {}, self.batch(0)
    )
    for step in range(int(state.step), last):
      state, metrics = compiled(state, {}, self.batch(step))
      jax.block_until_ready(state)
    return state, jax.device_get(metrics)


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
  """Two steps on one mesh, which are saved, and four in one go."""
  workdir = tmp_path_factory.mktemp('begun')
  run = Run(data=2, fsdp=4)
  state, _ = run.go_on(run.start(), 2)
  store = checkpoints.Checkpoints(workdir, 3)
  store.save(state, run.config, run.mesh, 16)
  store.close()
  return workdir, run.go_on(state, 4)


@pytest.mark.parametrize(
  'sizes',
  [
    {'data': 8, 'fsdp': 1},
    {'data': 1, 'fsdp': 8},
    {'data': 4, 'fsdp': 1, 'tensor': 2},
    {'data': 2, 'fsdp': 2, 'tensor': 2},
  ],
)
def test_a_run_goes_on_on_another_mesh(begun, sizes):
  workdir, want = begun
  run = Run(**sizes)
  state = checkpoints.Checkpoints(workdir, 3).restore_latest(run.abstract)
  assert int(state.step) == 2
  shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract)
  assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
  spec = state.params['generator']['attention']['to_q']['kernel'].sharding.spec
  split = {axis for axis in ('fsdp', 'tensor') if sizes.get(axis, 1) > 1}
  assert split <= set(spec)
  # Adam divides by the size of the gradient, so rounding is magnified.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    run.go_on(state, 4),
    want,
  )


@pytest.mark.parametrize('devices', [1, 2, None])
def test_a_run_is_sampled_on_the_devices_that_are_here(
  begun, monkeypatch, devices
):
  workdir, _ = begun
  fake_run.install(monkeypatch.setattr)
  config = Run(data=1, fsdp=8).config  # of the training
  mesh = None
  if devices:
    sizes = Run(data=2, fsdp=4).config.mesh
    sizes.data, sizes.fsdp = devices, 1
    mesh = mesh_lib.create(sizes, jax.devices()[:devices])
  run = loading.load(config, workdir, mesh=mesh)
  assert run.step == 2
  assert run.mesh.size == (devices or len(jax.devices()))
  trained = Run(data=2, fsdp=4)
  state = checkpoints.Checkpoints(workdir, 3).restore_latest(trained.abstract)
  want = run_state.averaged(state.params, state.ema)
  for got in jax.tree.leaves(run.weights):
    assert got.sharding.is_fully_replicated
    assert got.sharding.device_set == set(run.mesh.devices.flat)
  jax.tree.map(np.testing.assert_array_equal, run.weights.params, want)
