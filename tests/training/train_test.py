"""Whole runs of the trainer with a tiny system."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.pixels import buckets
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import lock
from pyramid_jax.training import loop as train
from pyramid_jax.training import setup as setup_lib
from pyramid_jax.training import step as state_lib
from tests.helpers import fake_run


ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


def content(workdir, step=4):
  """The hash of every leaf of a checkpoint, and whether it still holds."""
  path = checkpoints.directory(workdir) / str(step)
  system = fake_run.System(fake_run.config())
  params, extra = system.init(jax.random.key(0))
  state = checkpoints.load(workdir, {'params': params, 'extra': extra}, step)
  meta = json.loads((path / 'meta' / 'metadata').read_text())
  return hashes.tree(state), meta['tree']


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """Twelve uninterrupted steps."""
  workdir = tmp_path_factory.mktemp('reference')
  with pytest.MonkeyPatch.context() as patch:
    fake_run.install(patch.setattr)
    train.run(fake_run.config(train__steps=12, train__keep=20), workdir)
  return workdir


def test_files_of_a_run(reference):
  rows = lines(reference)
  assert [row['step'] for row in rows] == list(range(1, 13))
  assert all(np.isfinite(row['loss']) for row in rows)
  assert rows[3]['critic/step'] == 3  # updates before it
  assert {'error', 'grad_norm', 'learning_rate'} <= rows[0].keys()
  assert 'finite' not in rows[0]
  grids = sorted(p.name for p in (reference / 'samples').iterdir())
  assert grids == ['step_00000012.png']
  assert list((reference / 'tensorboard').glob('events.*'))
  config = config_lib.from_json((reference / 'config.json').read_text())
  assert config.train.steps == 12
  names = json.loads((reference / 'labels.json').read_text())
  assert names == list(fake_run.Reader.label_names)
  assert not (reference / 'lock').exists()


def test_parameters_are_listed(tmp_path, caplog):
  setup = setup_lib.prepare(fake_run.config(), tmp_path)
  with caplog.at_level('INFO', logger='absl'):
    train._report(setup)
  assert re.search(r'Name +\| Shape .*\| Sharding', caplog.text)
  assert re.search(r'^Total: \d+', caplog.text, re.MULTILINE)
  assert 'replicated' in caplog.text


def test_two_and_two_steps_are_four(reference, tmp_path):
  for steps in (2, 4):
    train.run(fake_run.config(train__steps=steps), tmp_path)
  assert content(tmp_path) == content(reference)
  assert [row['step'] for row in lines(tmp_path)] == [1, 2, 3, 4]
  config = config_lib.from_json((tmp_path / 'config.json').read_text())
  assert config.train.steps == 4


def test_a_finished_run_is_left_alone(reference):
  before = sorted((p, p.stat().st_mtime_ns) for p in reference.rglob('*.png'))
  train.run(fake_run.config(train__steps=12, train__keep=20), reference)
  after = sorted((p, p.stat().st_mtime_ns) for p in reference.rglob('*.png'))
  assert before == after


def test_periods_of_lines_grids_and_scores(tmp_path):
  fields = {'log': 3, 'checkpoint': 100, 'sample': 2, 'eval': 4}
  fields = {f'train__{name}_every': n for name, n in fields.items()}
  train.run(fake_run.config(train__steps=5, **fields), tmp_path)
  rows = lines(tmp_path)
  assert [row['step'] for row in rows] == [1, 3, 4, 5]
  assert ['eval/score' in row for row in rows] == [False, False, True, False]
  grids = sorted(int(p.stem[-8:]) for p in (tmp_path / 'samples').iterdir())
  assert grids == [2, 4, 5]
  assert checkpoints.steps(tmp_path) == [5]


def test_lines_after_the_checkpoint_are_written_anew(tmp_path):
  train.run(fake_run.config(train__steps=2), tmp_path)
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 3, "loss": 9}\n{"step": 4, "lo')
  train.run(fake_run.config(train__steps=4), tmp_path)
  rows = lines(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert rows[2]['loss'] != 9


@pytest.fixture
def ahead(monkeypatch):
  """Lets the host run ahead, which it does not on several CPU devices."""
  monkeypatch.setattr(mesh_lib, 'needs_blocking', lambda mesh: False)


@pytest.mark.usefixtures('ahead')
def test_running_ahead_changes_nothing(reference, tmp_path):
  fields = {'train__log_every': 2, 'train__checkpoint_every': 5}
  train.run(fake_run.config(train__steps=4, **fields), tmp_path)
  assert content(tmp_path) == content(reference)
  rows, want = lines(tmp_path), lines(reference)
  assert [row['step'] for row in rows] == [1, 2, 4]
  assert [row['loss'] for row in rows] == [want[i]['loss'] for i in (0, 1, 3)]


@pytest.mark.usefixtures('ahead')
@pytest.mark.parametrize('every', [1, 3])
def test_nan_stops_a_run_that_is_ahead(tmp_path, every):
  test_nan_stops_the_run(tmp_path, every)


@pytest.mark.parametrize('every', [1, 3])
def test_nan_stops_the_run(tmp_path, every):
  config = fake_run.config(
    network__poison=2, train__checkpoint_every=every, train__steps=9
  )
  with pytest.raises(errors.UserError, match='step 3: ') as info:
    train.run(config, tmp_path)
  assert info.value.code == errors.DIVERGED
  good = [2, 1] if every == 1 else []
  assert checkpoints.steps(tmp_path) == good
  assert [row['step'] for row in lines(tmp_path)] == [1, 2]
  last = '2' if good else 'none'
  assert last in str(info.value)


def test_another_config_is_refused(tmp_path):
  train.run(fake_run.config(train__steps=1), tmp_path)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
  config = fake_run.config(train__steps=2, train__learning_rate=0.5)
  with pytest.raises(
    errors.UserError, match=r'train\.learning_rate: 0\.01 -> 0\.5'
  ):
    train.run(config, tmp_path)
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}


def test_missing_inputs_are_named_together(tmp_path, monkeypatch):
  monkeypatch.setattr(data, 'missing_inputs', lambda c: ['images', 'words'])
  config = fake_run.config('two', first_stage__checkpoint='/nowhere/weights')
  with pytest.raises(
    errors.UserError, match='images; words; /nowhere/weights'
  ) as info:
    train.run(config, tmp_path / 'run')
  assert info.value.code == errors.MISSING
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'train__batch_size': 12}, 'batch_size is 12, .* by 8'),
    ({'mesh__fsdp': 3}, 'fsdp=3.* 8 devices'),
    ({'network__width': 0}, 'network.width is 0'),
    ({'attention': 'flash'}, "'flash' runs on tpu, this is cpu"),
  ],
)
def test_a_config_that_does_not_fit(tmp_path, fields, message):
  with pytest.raises(errors.UserError, match=message) as info:
    train.run(fake_run.config(**fields), tmp_path)
  assert info.value.code == errors.USAGE


def test_data_that_cannot_be_read(tmp_path, monkeypatch):
  config = fake_run.config(train__steps=9)
  read, broken = fake_run.Reader.batch, fake_run._draw(config, 4)

  def batch(self, indices, draws):
    if draws[0] == broken:
      raise ValueError('too many broken images')
    return read(self, indices, draws)

  monkeypatch.setattr(fake_run.Reader, 'batch', batch)
  with pytest.raises(errors.UserError, match='broken') as info:
    train.run(config, tmp_path)
  assert info.value.code == errors.DATA
  assert [row['step'] for row in lines(tmp_path)] == [1, 2, 3, 4]


def with_validation_images(monkeypatch, count):
  """Gives the validation split so many images."""

  class Few(fake_run.Reader):
    def __len__(self):
      return count

  readers = {'train': fake_run.Reader, 'val': Few}
  create = lambda config, split: readers[split](config)
  monkeypatch.setattr(data, 'create', create)


def test_a_small_validation_split_is_known_before_the_first_step(
  tmp_path, monkeypatch, caplog
):
  config = fake_run.config(train__eval_every=2)
  with_validation_images(monkeypatch, 5)
  setup_lib.prepare(fake_run.config(train__eval_every=0), tmp_path)
  config.evaluate.count = 5
  setup_lib.prepare(config, tmp_path)
  assert not [r for r in caplog.records if 'validation' in r.getMessage()]
  config.evaluate.count = 7
  setup_lib.prepare(config, tmp_path)
  (said,) = [r for r in caplog.records if 'validation' in r.getMessage()]
  assert said.getMessage() == (
    'the validation split has 5 images: scores during training are of these,'
    ' not of 7'
  )


def test_a_validation_split_without_images_ends_no_run_late(
  tmp_path, monkeypatch
):
  with_validation_images(monkeypatch, 0)
  with pytest.raises(errors.UserError) as info:
    train.run(fake_run.config(), tmp_path)
  assert str(info.value) == 'the validation split has no images.'
  assert info.value.code == errors.DATA
  assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.fixture
def in_buckets(monkeypatch):
  """Gives the fakes images of two shapes; returns a config."""

  class Reader(fake_run.Reader):
    def __init__(self, config):
      super().__init__(config)
      sizes = np.array([[4, 8], [8, 4]] * 25)
      self.buckets = buckets.assign(sizes, [(4, 8), (8, 4)], 8)

    def batch(self, indices, draws):
      (shape,) = {self.buckets.shape(index) for index in indices}
      image = np.zeros((len(indices), *shape, 3), np.uint8)
      return super().batch(indices, draws) | {'image': image}

  readers = {'train': Reader, 'val': fake_run.Reader}
  create = lambda config, split: readers[split](config)
  monkeypatch.setattr(data, 'create', create)
  return fake_run.config(data__buckets=4, train__steps=6)


def test_a_signal_while_another_shape_is_compiled(
  tmp_path, monkeypatch, in_buckets
):
  end, compiled = threading.Event(), []
  compile_step = state_lib.compile_step

  def hanging(*arguments):
    compiled.append(arguments)
    if len(compiled) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
      end.wait()
    return compile_step(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(state_lib, 'compile_step', hanging)
    with pytest.raises(errors.UserError, match='which is saved') as info:
      train.run(in_buckets, tmp_path)
  end.set()
  assert info.value.code == errors.RESTART
  stopped = checkpoints.steps(tmp_path)[0]
  assert f'after step {stopped},' in str(info.value)
  assert 0 < stopped < 6
  train.run(in_buckets, tmp_path)
  assert [row['step'] for row in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
  train.run(in_buckets, tmp_path / 'whole')
  assert content(tmp_path, 6) == content(tmp_path / 'whole', 6)


def test_a_program_for_every_shape_of_a_bucket(
  tmp_path, monkeypatch, in_buckets
):
  compile_step, compiled = state_lib.compile_step, []

  def counted(step, mesh, state, frozen, batch, options):
    compiled.append(batch['image'].shape[1:3])
    return compile_step(step, mesh, state, frozen, batch, options)

  monkeypatch.setattr(state_lib, 'compile_step', counted)
  train.run(in_buckets, tmp_path)
  assert sorted(compiled) == [(4, 8), (8, 4)]
  rows = lines(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert all(np.isfinite(row['loss']) for row in rows)


def test_read_only_workdir(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(errors.UserError) as info:
    train.run(fake_run.config(), tmp_path / 'file' / 'run')
  assert info.value.code == errors.OUTPUT


def test_a_lock_that_is_lost_ends_the_run(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'HEARTBEAT_SECS', 0.01)
  batch = fake_run.Reader.batch
  owner = json.dumps({'host': 'elsewhere', 'pid': 7, 'token': 'other'})

  def taken_over(self, indices, draws):
    if checkpoints.steps(tmp_path):
      aside = tmp_path / f'aside{indices[0]}'
      aside.write_text(owner)
      aside.replace(tmp_path / lock.NAME)
    time.sleep(0.05)
    return batch(self, indices, draws)

  monkeypatch.setattr(fake_run.Reader, 'batch', taken_over)
  with pytest.raises(errors.UserError, match='by process 7 on else') as info:
    train.run(fake_run.config(train__steps=100), tmp_path)
  assert info.value.code == errors.OUTPUT
  assert checkpoints.steps(tmp_path)[0] < 20
  assert (tmp_path / lock.NAME).read_text() == owner


def test_first_stage_is_trained_first(tmp_path):
  config = fake_run.config('two', train__steps=2, first_stage__train__steps=3)
  train.run(config, tmp_path)
  first = tmp_path / 'first_stage'
  assert checkpoints.steps(first)[0] == 3
  assert checkpoints.steps(tmp_path)[0] == 2
  assert 'first_stage' not in json.loads((first / 'config.json').read_text())
  # Lengthening the first stage now would pull it from under the second.
  config = fake_run.config('two', train__steps=4, first_stage__train__steps=5)
  train.run(config, tmp_path)
  assert checkpoints.steps(first)[0] == 3

  # Other weights in its place are noticed.
  second = checkpoints.directory(tmp_path)
  first_folder = checkpoints.directory(first)
  shutil.rmtree(first_folder / '3')
  config = fake_run.config('two', train__steps=6)
  with pytest.raises(errors.UserError, match='weights of first_stage'):
    train.run(config, tmp_path)
  assert (second / '4').is_dir()


def test_first_stage_that_is_given(tmp_path):
  first = tmp_path / 'first'
  train.run(fake_run.config(train__steps=3), first)
  config = fake_run.config('two', train__steps=2, first_stage__train__steps=3)
  train.run(config, tmp_path / 'trained')
  # The second stage saw the averages of the first one's weights.
  given = fake_run.config('two', train__steps=2, first_stage__checkpoint=first)
  train.run(given, tmp_path / 'given')
  assert content(tmp_path / 'given', 2) == content(tmp_path / 'trained', 2)


def command(workdir, *flags):
  return [
    sys.executable,
    str(ROOT / 'tests' / 'helpers' / 'fake_run.py'),
    f'--config={ROOT / "tests" / "helpers" / "fake_run.py"}',
    f'--workdir={workdir}',
    *flags,
  ]


def environment():
  cache = jax.config.jax_compilation_cache_dir
  path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  return os.environ | {'JAX_COMPILATION_CACHE_DIR': cache, 'PYTHONPATH': path}


def start(workdir, *flags):
  return subprocess.Popen(
    command(workdir, *flags),
    env=environment(),
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for(process, condition, secs=120):
  end = time.monotonic() + secs
  while not condition() and process.poll() is None:
    assert time.monotonic() < end, 'nothing happened'
    time.sleep(0.02)


@pytest.mark.slow
def test_terminated_and_killed_and_restarted(reference, tmp_path):
  flags = ['--config.train.keep=20', '--config.train.steps=12']
  # Some time between steps, so that the signals hit the middle of the run.
  slow = ['--config.network.pause=0.2', *flags]

  first = start(tmp_path, *slow)
  wait_for(first, lambda: checkpoints.steps(tmp_path))
  first.send_signal(signal.SIGTERM)
  _, text = first.communicate(timeout=60)
  assert first.returncode == errors.RESTART, text
  assert 'Traceback' not in text
  stopped = checkpoints.steps(tmp_path)[0]
  assert f'stopped by SIGTERM after step {stopped}, which' in text
  assert stopped < 10
  assert lines(tmp_path)[-1]['step'] == stopped

  second = start(tmp_path, *slow)
  tmp = lambda: list((tmp_path / 'checkpoints').glob('*-tmp'))
  wait_for(second, tmp)
  second.kill()  # in the middle of a save
  second.communicate(timeout=60)
  assert second.returncode == -signal.SIGKILL

  third = subprocess.run(
    command(tmp_path, *slow),
    env=environment(),
    stderr=subprocess.PIPE,
    text=True,
    timeout=120,
    check=False,
  )
  assert third.returncode == errors.OK, third.stderr
  assert 'resuming after step' in third.stderr
  hashed, tree = content(tmp_path, 12)
  assert (hashed, tree) == content(reference, 12)
  assert [row['step'] for row in lines(tmp_path)] == list(range(1, 13))


def test_an_option_that_the_compiler_refuses_ends_the_run_first(tmp_path):
  config = fake_run.config(compiler__options='xla_cpu_nonsense=1')
  with pytest.raises(errors.UserError, match='xla_cpu_nonsense=1: No such'):
    train.run(config, tmp_path)
  assert not (tmp_path / 'config.json').exists()
