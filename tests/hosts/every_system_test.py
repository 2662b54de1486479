"""Every system, trained and sampled by several processes as by one."""

import itertools
import shutil
import sys

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import systems
from tests.helpers import configs
from tests.helpers import control_run
from tests.helpers import forked_hosts
from tests.helpers import system_weights
from tests.hosts import resumed_hosts_test as compared


# System -> its config, and the field of the run that it builds on.
RUNS = {
  'adm': ('adm_shapes.py:class,debug', ''),
  'autoencoder': ('msvqgan_shapes.py:debug', ''),
  'classifier': ('classifier_shapes.py:images,debug', ''),
  'diffit': ('diffit_shapes.py:class,debug', ''),
  'flow': ('flow_shapes.py:class,debug', ''),
  'frido': ('frido_shapes.py:layout,debug', ''),
  'hdr': ('hdr.py:debug', ''),
  'latent_diffit': ('diffit_latent_shapes.py:class,debug', ''),
  'ladm': (control_run.BASE, ''),
  'ladm_control': (control_run.__file__, 'control.base'),
  'ldm': ('ldm_shapes.py:class,debug', ''),
  'sketch': ('sketch_shapes.py:diffit,pixels,debug', 'sketch.base'),
}
BASES = {'ladm_control': 'ladm', 'sketch': 'latent_diffit'}
UNSAMPLED = ('autoencoder', 'classifier', 'hdr', 'sketch')
STEPS = 5
FIELDS = {
  'train.steps': STEPS,
  'train.batch_size': 12,  # four rows for each of three stages
  'train.log_every': 1,
  'train.checkpoint_every': STEPS - 1,
  'train.sample_every': 0,
  'train.eval_every': 0,
  # With its own, Adam makes an update of full size of what rounding leaves of a
  # gradient that is zero, such as that of the bias of keys. With this one an
  # update is about a hundredth of the mean gradient.
  'optimizer.name': 'adam',
  'optimizer.eps': 1.0,
  'train.learning_rate': 0.01,
  'train.warmup_steps': 0,
}
# A U-Net of one level, with attention in its middle block alone: it compiles in
# less than half of the time.
SMALLER = {
  'network.channel_mult': (1,),
  'network.attention_resolutions': (),
}
# The gradients of this system's loss are sums that cancel to a relative 1e-6;
# its arrays that begin at zero hold nothing else.
RATES = {'diffit': 0.001}
FIRST_STAGES = ('flow', 'frido', 'latent_diffit', 'ldm')
# Two heads, so that an axis `tensor` of two devices divides them.
MESHED = {
  'diffit': {'network.head_dim': 8},
  'ldm': {'network.num_head_channels': 16},
}
# Of the largest value of an array. One that begins at zero holds nothing but
# gradients, whose sums differ in the sixth digit; it counts as this large.
TOLERANCE = 1e-6
MOVED = 1e-5  # by the last step at least, so that other rows would be seen
LEAST = 1e-2
SECS = 400
QUICK = (('frido', 2), ('ldm', 2))  # They run without -m hosts, by turns.
TURNS = pytest.mark.turns(len(QUICK))
CASES = [
  pytest.param(*case, marks=TURNS if case in QUICK else pytest.mark.hosts)
  for case in itertools.product(RUNS, (2, 4))
]


class Runs:
  """Runs of all systems; those of one process are made once."""

  def __init__(self, server, make_folder):
    self.server = server
    self._make_folder = make_folder
    self._alone = {}
    self._first_stages = {}

  def alone(self, system):
    """Returns the workdir of the run of one process."""
    if system not in self._alone:
      self._alone[system] = self._make_folder(system)
      self.train(system, 1, self._alone[system])
    return self._alone[system]

  def first_stage(self, system):
    """Returns the weight file of a first stage that was not trained.

    How first stages are trained is the matter of the system `autoencoder`.
    """
    if system not in self._first_stages:
      created = systems.create(configs.load(RUNS[system][0]))
      folder = self._make_folder('first_stage')
      file = system_weights.write_first_stage(created, folder)
      self._first_stages[system] = file
    return self._first_stages[system]

  def light(self):
    """Returns a folder of images of high dynamic range."""
    folder = self._make_folder('light')
    rng = np.random.default_rng(0)
    for number in range(16):
      light = rng.exponential(size=(32, 32, 3)).astype(np.float32)
      np.save(folder / f'{number}.npy', light)
    return folder

  def train(self, system, count, workdir, *flags, devices=1):
    """Trains a system in some processes."""
    name, field = RUNS[system]
    path = name if name.startswith('/') else configs.FOLDER / name
    fields = {**FIELDS, **MESHED.get(system, {})}
    if system in RATES:
      fields['train.learning_rate'] = RATES[system]
    if system in FIRST_STAGES:
      fields['first_stage.checkpoint'] = self.first_stage(system)
    if system in dict(QUICK):
      fields |= SMALLER
    if system == 'hdr':
      fields['data.root'] = self.light()
    if field:
      fields[field] = self.alone(BASES[system])
    settings = [f'--config.{k}={v}' for k, v in fields.items()]
    arguments = f'--config={path}', f'--workdir={workdir}', *settings, *flags
    run(self.server, count, *arguments, devices=devices)


@pytest.fixture(scope='module')
def runs(server, tmp_path_factory):
  return Runs(server, tmp_path_factory.mktemp)


def run(server, count, *arguments, devices=1):
  with forked_hosts.Hosts(
    server, count, *arguments, devices=devices, before=''
  ) as hosts:
    assert hosts.codes(SECS) == [0] * count, hosts.text()


def difference(workdir, other, step=STEPS):
  """Returns the largest max|a-b| / max|a| of two runs, and of which array.

  `step` is that of the second one.
  """
  mine = compared.arrays(workdir, STEPS)
  theirs = compared.arrays(other, step)
  assert mine.keys() == theirs.keys()
  ratios = {
    name: np.abs(x - theirs[name]).max(initial=0)
    / max(np.abs(theirs[name]).max(initial=0), LEAST)
    for name, x in mine.items()
    if 'opt_state' not in name and name != "['state']['step']"
  }
  name = max(ratios, key=ratios.get)
  return ratios[name], name


def check(record, workdir, other):
  """Asserts that two runs have the same parameters, metrics and files."""
  found, name = difference(workdir, other)
  moved, _ = difference(other, other, STEPS - 1)
  record('difference', f'{found:.1e} in {name}, moved by {moved:.1e}')
  sys.stdout.write(f'{found:.1e} in {name}, moved by {moved:.1e}\n')
  assert moved >= MOVED
  assert found <= TOLERANCE, name
  assert files(workdir) == files(other)
  rows = compared.rows(workdir), compared.rows(other)
  for mine, theirs in zip(*rows, strict=True):
    assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def files(workdir):
  """Returns the files of a run whose names say no number, time or process."""
  own = {'checkpoints', 'logs', 'tensorboard'}
  names = [p.relative_to(workdir) for p in workdir.rglob('*') if p.is_file()]
  return sorted(str(p) for p in names if not own & set(p.parts))


def images(folder):
  """Returns the saved images by name, as integers."""
  paths = sorted(folder.rglob('*.png'))
  return {p.name: np.asarray(Image.open(p), int) for p in paths}


def sampled(server, count, workdir, copy):
  shutil.copytree(workdir, copy)
  asked = '--count=5', '--seed=3', '--steps=4'
  run(server, count, '--mode=sample', f'--workdir={copy}', *asked)
  return images(copy / 'samples')


def test_every_system_is_here():
  assert set(RUNS) == set(systems.SYSTEMS)


@pytest.mark.parametrize(('system', 'count'), CASES)
def test_several_processes_do_what_one_does(
  runs, tmp_path, record_property, system, count
):
  runs.train(system, count, tmp_path)
  check(record_property, tmp_path, runs.alone(system))


@pytest.mark.parametrize('system', [x for x in RUNS if x not in UNSAMPLED])
@pytest.mark.hosts
def test_two_processes_sample_what_one_does(
  runs, tmp_path, record_property, system
):
  workdir = runs.alone(system)
  one, two = (
    sampled(runs.server, count, workdir, tmp_path / str(count))
    for count in (1, 2)
  )
  assert len(one) >= 5
  assert one.keys() == two.keys()
  largest = max(int(np.abs(one[name] - two[name]).max()) for name in one)
  record_property('levels', largest)
  assert largest <= 1


@pytest.mark.parametrize('mesh', compared.MESHES)
@pytest.mark.parametrize('system', MESHED)
@pytest.mark.hosts
def test_every_mesh_of_a_system_over_two_processes(
  runs, tmp_path, record_property, system, mesh
):
  flags = *compared.MESHES[mesh], '--config.mesh.fsdp_min_size=16'
  runs.train(system, 2, tmp_path, *flags, devices=2)
  check(record_property, tmp_path, runs.alone(system))
