"""Steps that are not finite: skipped, or the end of the run with a report."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import state as run_state
from pyramid_jax.runs import step_meta
from pyramid_jax.training import diverged
from pyramid_jax.training import loop
from pyramid_jax.training import optimizer
from tests.helpers import fake_run


# An update of weight decay that float32 does not hold; losses and gradients
# are as they were.
OVERFLOW = {
  'optimizer__name': 'adamw',
  'optimizer__weight_decay': 1e6,
  'train__learning_rate': 1e38,
}


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


def poison(monkeypatch, *steps):
  """Puts NaN into the batches of some steps, counting from 1."""
  read = fake_run.Reader.batch

  def batch(self, indices, draws):
    made = read(self, indices, draws)
    if len(indices) == self.config.train.batch_size:
      bad = {fake_run._draw(self.config, step - 1) for step in steps}
      made['x'] = np.where(draws[0] in bad, np.float32(np.nan), made['x'])
    return made

  monkeypatch.setattr(fake_run.Reader, 'batch', batch)


def diverges(config, workdir):
  """Returns the message of a run that ends because of what is not finite."""
  with pytest.raises(errors.UserError) as info:
    loop.run(config, workdir)
  assert info.value.code == errors.DIVERGED
  return str(info.value)


def report(workdir, step):
  path = workdir / diverged.DIRECTORY / str(step) / diverged.REPORT
  return json.loads(path.read_text())


def trees(workdir, step):
  """Returns the hashes of a checkpoint, by array."""
  path = checkpoints.directory(workdir) / str(step)
  return step_meta.read(path)['tree']


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_arrays_that_are_not_finite_are_named():
  good, bad = np.ones(3), np.array([1, np.inf], np.float32)
  tree = {'a': good, 'b': {'c': bad}, 'n': np.arange(3)}
  tree = jax.device_put(tree)
  assert run_state.not_finite(tree) == ['b/c']
  assert not jax.jit(run_state.all_finite)(tree)
  tree['b'] = {}
  assert run_state.not_finite(tree) == []
  assert jax.jit(run_state.all_finite)(tree)


@pytest.mark.parametrize('every', [1, 3, 9])
def test_the_report_names_the_batch(tmp_path, every):
  config = fake_run.config(
    network__poison=4, train__checkpoint_every=every, train__steps=9
  )
  said = diverges(config, tmp_path)
  good = {1: 4, 3: 3, 9: None}[every]
  assert 'not finite in step 5: ' in said
  assert 'loss' in said
  assert f'step {good}' if good else 'checkpoint: none' in said
  assert str(tmp_path / 'diverged' / '5' / 'report.json') in said
  assert '--config.train.skip_nonfinite' in said
  found = report(tmp_path, 5)
  names = ['loss', 'grad_norm', 'critic/loss', 'critic/grad_norm']
  assert found['not_finite'] == names
  assert found['metrics']['loss'] == 'nan'
  assert found['metrics']['learning_rate'] == pytest.approx(0.01)
  assert found['batch']['not_finite'] == {'x': 64}
  reader = fake_run.Reader(config)
  batches = batches_lib.Batches(reader, 8, config.train.seed)
  wanted = [
    {'position': int(p), 'example': int(i), 'draw': int(d)}
    for p, i, d in zip(batches.positions(4), *batches.order(4), strict=True)
  ]
  assert found['batch']['rows'] == wanted
  folder = tmp_path / 'diverged' / '5'
  with np.load(folder / found['batch']['file']) as arrays:
    assert np.isnan(arrays['x']).all()
    assert arrays['caption'].tolist() == ['a thing'] * 8
  after = found['state']['step']
  assert after >= 5
  aside = checkpoints.directory(tmp_path) / f'{after}.diverged'
  assert found['state']['folder'] == str(aside)
  assert 'state/params/generator/w' in found['state']['not_finite']
  assert (aside / 'meta').is_dir()
  steps = checkpoints.steps(tmp_path)
  assert (steps[0] if steps else None) == good


def test_an_update_that_is_not_finite_is_not_saved(tmp_path):
  said = diverges(fake_run.config(**OVERFLOW), tmp_path)
  assert 'not finite in step 1: update' in said
  assert 'last good checkpoint: none' in said
  assert checkpoints.steps(tmp_path) == []
  found = report(tmp_path, 1)
  assert found['batch']['not_finite'] == {}
  assert 'state/params/generator/w' in found['state']['not_finite']


def test_the_report_of_the_newest_step_stays(tmp_path):
  config = fake_run.config(network__poison=2)
  diverges(config, tmp_path)
  diverges(config, tmp_path)
  names = lambda: [p.name for p in (tmp_path / diverged.DIRECTORY).iterdir()]
  assert names() == ['3']
  aside = list(checkpoints.directory(tmp_path).glob('*.diverged'))
  assert len(aside) == 1
  assert lines(tmp_path)[-1]['step'] == 2


def test_a_report_that_cannot_be_written(tmp_path, caplog):
  (tmp_path / diverged.DIRECTORY).write_text('a file')
  said = diverges(fake_run.config(network__poison=2), tmp_path)
  assert 'report: none, see the log' in said
  assert 'report of step 3 is not complete' in caplog.text


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_bad_step_is_skipped(tmp_path, monkeypatch, dtype, accumulate):
  fields = {
    'train__skip_nonfinite': 1,
    'train__accumulate': accumulate,
    'mesh__data': 4,
    'mesh__fsdp': 1,
    'dtype': dtype,
  }
  devices = jax.devices()[:4]
  monkeypatch.setattr(jax, 'devices', lambda *a: devices)
  fields['train__decay_steps'] = 100
  poison(monkeypatch, 3, 5)
  loop.run(fake_run.config(train__steps=6, **fields), tmp_path)
  rows = lines(tmp_path)
  assert [row['skipped'] for row in rows] == [0, 0, 1, 1, 2, 2]
  bad = [row['step'] for row in rows if row['loss'] is None]
  assert bad == [3, 5]
  # The rate is that of the updates that were made.
  rates = [row['learning_rate'] for row in rows]
  assert rates[2] == rates[3] > rates[4] == rates[5]
  assert not (tmp_path / diverged.DIRECTORY).exists()


def test_a_skipped_step_changes_its_number_alone(tmp_path, monkeypatch):
  poison(monkeypatch, 3)
  fields = {'train__skip_nonfinite': 2, 'train__steps': 4}
  loop.run(fake_run.config(**fields), tmp_path)
  two, three, four = (trees(tmp_path, step) for step in (2, 3, 4))
  assert two['state'].pop('step') != three['state'].pop('step')
  assert two == three
  changed = {
    f'{item}/{name}'
    for item, leaves in four.items()
    for name in leaves
    if leaves[name] != three[item].get(name)
  }
  assert {'state/params/generator/w', 'ema/generator/w'} <= changed


def test_more_in_a_row_than_allowed(tmp_path, monkeypatch, caplog):
  poison(monkeypatch, 2, 3, 5, 6, 7)
  config = fake_run.config(train__skip_nonfinite=2, train__steps=9)
  said = diverges(config, tmp_path)
  assert 'step 7: loss' in said
  assert '2 of at most 2 in a row' in caplog.text
  assert report(tmp_path, 7)['state']['not_finite'] == []
  # The steps that were skipped are saved; resumed, they still count.
  assert checkpoints.steps(tmp_path)[0] == 6
  said = diverges(config, tmp_path)
  assert 'step 7: loss' in said


def test_a_resume_after_skipped_steps_is_bit_equal(tmp_path, monkeypatch):
  poison(monkeypatch, 3, 4, 6)
  fields = {'train__skip_nonfinite': 2}
  loop.run(fake_run.config(train__steps=8, **fields), tmp_path / 'whole')
  for steps in (3, 4, 6, 8):
    loop.run(fake_run.config(train__steps=steps, **fields), tmp_path / 'parts')
  assert trees(tmp_path / 'parts', 8) == trees(tmp_path / 'whole', 8)
  whole, parts = lines(tmp_path / 'whole'), lines(tmp_path / 'parts')
  times = ('secs', 'seconds', 'images_per_sec')
  steps = lambda rows: [
    {k: x for k, x in row.items() if not k.endswith(times)} for row in rows
  ]
  assert steps(parts) == steps(whole)


def test_a_run_that_diverged_goes_on_with_steps_to_skip(tmp_path, monkeypatch):
  poison(monkeypatch, 3)
  diverges(fake_run.config(train__steps=6), tmp_path / 'a')
  for name in 'ab':
    config = fake_run.config(train__steps=6, train__skip_nonfinite=1)
    loop.run(config, tmp_path / name)
  # Another program, which rounds otherwise.
  a, b = lines(tmp_path / 'a'), lines(tmp_path / 'b')
  assert [row['step'] for row in a] == [row['step'] for row in b]
  assert a[-1]['skipped'] == 1
  assert a[-1]['loss'] == pytest.approx(b[-1]['loss'], rel=1e-4)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
  """What a step does not look at, such as moments, is looked at before."""
  system = fake_run.System

  class Overflowing(system):
    def losses(self, weights, key, step, batch):
      losses, extra = super().losses(weights, key, step, batch)
      value, metrics = losses['critic']
      v = weights.params['critic']['v']
      # A square that float32 does not hold, in the moments of Adam alone.
      value += 3e19 * v[0]
      return {**losses, 'critic': (value, metrics)}, extra

  monkeypatch.setattr(fake_run, 'System', Overflowing)
  config = fake_run.config(train__clip_norm=0.0)
  said = diverges(config, tmp_path)
  assert checkpoints.steps(tmp_path) == []
  assert 'critic' in said


def test_a_spike_of_the_loss_runs_on(tmp_path, monkeypatch):
  rate = optimizer.learning_rate
  monkeypatch.setattr(
    optimizer,
    'learning_rate',
    lambda config, count: (
      rate(config, count) * jnp.where(count == 3, 100.0, 1.0)
    ),
  )
  fields = {'learning_rate': 0.1, 'clip_norm': 1.0, 'steps': 8, 'keep': 20}
  fields = {f'train__{name}': value for name, value in fields.items()}
  config = fake_run.config(**fields)
  loop.run(config, tmp_path)
  rows = lines(tmp_path)
  assert [row['step'] for row in rows] == list(range(1, 9))
  assert rows[3]['learning_rate'] == pytest.approx(100 * 0.1)
  assert rows[4]['loss'] > 3 * rows[3]['loss']
  assert rows[4]['grad_norm'] > 3 * rows[3]['grad_norm']  # before it is cut
  assert rows[4]['grad_norm'] > config.train.clip_norm
  assert all(np.isfinite(row['loss']) for row in rows)
  # Every step is saved and none is taken back.
  assert checkpoints.steps(tmp_path) == list(range(8, 0, -1))
  assert not (tmp_path / diverged.DIRECTORY).exists()


def sparse(steps, **fields):
  """A run that logs and saves after its first and its last step alone."""
  rare = {'train__log_every': 1000, 'train__checkpoint_every': 1000}
  return fake_run.config(train__steps=steps, **rare, **fields)


@pytest.mark.parametrize(('unread', 'noticed'), [(100, 9), (3, 4)])
def test_steps_are_read_later_and_the_first_bad_one_is_named(
  tmp_path, monkeypatch, unread, noticed
):
  poison(monkeypatch, 3)
  monkeypatch.setattr(diverged, '_UNREAD', unread)
  said = diverges(sparse(9), tmp_path)
  assert said.startswith('not finite in step 3:')
  assert report(tmp_path, 3)['state']['step'] == noticed
  assert not checkpoints.steps(tmp_path)


def test_rows_of_skipped_steps_are_counted_across_reads(tmp_path, monkeypatch):
  poison(monkeypatch, 3, 4, 6, 7)
  monkeypatch.setattr(diverged, '_UNREAD', 2)
  loop.run(sparse(9, train__skip_nonfinite=2), tmp_path)
  assert lines(tmp_path)[-1]['skipped'] == 4
  with pytest.raises(errors.UserError, match='not finite in step 4'):
    loop.run(sparse(9, train__skip_nonfinite=1), tmp_path / 'fewer')
