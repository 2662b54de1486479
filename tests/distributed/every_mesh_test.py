"""Every system trains on any mesh as on one device, and makes its images."""

import functools
import itertools

import jax
import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.pipeline import sampler
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import setup
from pyramid_jax.training import step as step_lib
from tests.helpers import configs
from tests.helpers import system_weights


CONFIGS = {
  'ldm': 'ldm_shapes.py:text,debug',
  'frido': 'frido_shapes.py:layout,debug',
  'flow': 'flow_shapes.py:class,debug',
  'diffit': 'diffit_shapes.py:class,debug',
  'song_unet': 'edm_shapes.py:class,ve,debug',
  'latent_diffit': 'diffit_latent_shapes.py:class,debug',
  'ladm': 'ladm_shapes.py:class,debug',
  'ladm_control': 'ladm_shapes.py:none,control,debug',
  'autoencoder': 'msvqgan_shapes.py:debug',
}
MESHES = {'data 8': (8, 1), 'fsdp 8': (1, 8), 'data 2 x fsdp 4': (2, 4)}
QUICK = (('diffit', 'data 2 x fsdp 4'), ('diffit',))
STEPS = 5
FIELDS = {
  'train.batch_size': 24,  # 8 for each of the stages of LaDM
  'mesh.fsdp_min_size': 16,
  # With its own, Adam makes an update of full size of what rounding leaves of a
  # gradient that is zero.
  'optimizer.name': 'adam',
  'optimizer.eps': 1.0,
  'train.learning_rate': 0.01,
  'train.warmup_steps': 0,
}
TOLERANCE = 1e-5  # of the largest value of an array
LEAST = 1e-2  # what counts as the largest value of an array that began as zero
MOVED = 1e-4  # by the steps at least, so that other rows would be seen


class Run:
  """A system and its weights before the first step."""

  def __init__(self, name):
    self.config = config = configs.load(CONFIGS[name], **FIELDS)
    if name == 'ladm_control':  # its weights are made here
      configs.change(config, {'control.base': 'BASE'})
    self.system = workdir_lib.create_system(config)
    self.reader = data.create(config, 'train')
    self.batches = setup.batches(config, self.reader)
    self._create = functools.partial(step_lib.create, self.system, config)
    self.start = initial.evaluate(self._create)
    self.frozen = {
      part: system_weights.fill(tree, 1)
      for part, tree in system_weights.shapes_of(self.system).frozen.items()
    }

  @functools.cached_property
  def alone(self):
    """The state and the metrics after the steps on one device."""
    return self.trained(jax.devices()[:1], 1, 1)

  def trained(self, devices, rows, columns):
    """Returns the state and the metrics after the steps on a mesh."""
    config = self.config.copy_and_resolve_references()
    configs.change(config, {'mesh.data': rows, 'mesh.fsdp': columns})
    mesh = mesh_lib.create(config.mesh, devices)
    shapes = step_lib.abstract(self._create, mesh, config)
    places = jax.tree.map(lambda x: x.sharding, shapes)
    state = initial.place(self.start, places)
    places = sharding.shardings(self.frozen, mesh, config.mesh.fsdp_min_size)
    frozen = initial.place(self.frozen, places)
    place = lambda step: mesh_lib.place(mesh, self.batches.at(step))
    step = step_lib.make_step(self.system, config, self.reader.finish, mesh)
    compiled = step_lib.compile_step(step, mesh, state, frozen, place(0))
    metrics = {}
    for number in range(STEPS):
      state, metrics = compiled(state, frozen, place(number))
      jax.block_until_ready(state)
    return jax.device_get((state, metrics))

  def images(self, devices):
    """Returns images of the trained weights, made on some devices."""
    mesh = mesh_lib.pure_data(devices)
    state, _ = self.alone
    weights = system_lib.Weights(state.params, self.frozen, state.extra)
    weights = jax.device_put(weights, mesh_lib.replicated(mesh))
    model = sampler.Sampler(self.system, weights, mesh, self.config)
    settings = settings_lib.of_config(self.system, self.config, seed=3)
    rows = mesh_lib.numeric(self.batches.at(0))
    finished = jax.device_get(jax.jit(self.reader.finish)(rows))
    few = {key: x[:5] for key, x in finished.items()}
    return model.sample(few, settings, np.arange(5)).images


@pytest.fixture(scope='module')
def run():
  """Returns a function from a system to its run; one is kept at a time."""
  return functools.lru_cache(maxsize=1)(Run)


def difference(mine, theirs):
  """Returns the largest max|a-b| / max|a| of two trees, and of which array."""
  a, b = (sharding.leaves(tree) for tree in (mine, theirs))
  assert a.keys() == b.keys()
  ratios = {
    name: np.abs(x - b[name]).max(initial=0)
    / max(np.abs(b[name]).max(initial=0), LEAST)
    for name, x in a.items()
  }
  name = max(ratios, key=ratios.get)
  return ratios[name], name


def marked(*case):
  return pytest.param(*case, marks=() if case in QUICK else pytest.mark.pods)


@pytest.mark.turns(2, group='meshes')
@pytest.mark.parametrize(
  ('name', 'mesh'),
  [marked(*case) for case in itertools.product(CONFIGS, MESHES)],
)
def test_a_mesh_trains_as_one_device(run, name, mesh):
  want, metrics = run(name).alone
  moved, _ = difference(want.params, jax.device_get(run(name).start.params))
  assert moved > MOVED
  got, own_metrics = run(name).trained(jax.devices(), *MESHES[mesh])
  trees = ((x.params, x.ema, x.extra) for x in (got, want))
  found, where = difference(*trees)
  assert found <= TOLERANCE, where
  for key, value in metrics.items():
    assert own_metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@pytest.mark.turns(2, group='meshes')
@pytest.mark.parametrize(
  'name', [marked(name) for name in CONFIGS if name != 'autoencoder']
)
def test_eight_devices_make_the_images_of_one(run, name):
  one, eight = (run(name).images(jax.devices()[:n]) for n in (1, 8))
  assert one.shape[0] == 5
  assert one.std() > 1
  assert np.abs(one.astype(int) - eight).max() <= 1
