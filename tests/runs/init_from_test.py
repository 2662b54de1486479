"""Runs that begin from the weights of another run."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import init_from
from pyramid_jax.runs import workdir
from pyramid_jax.training import loop
from pyramid_jax.training import step as step_lib
from tests.helpers import configs
from tests.helpers import fake_run


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Four steps, with averages that differ from the weights."""
  workdir = tmp_path_factory.mktemp('source')
  with pytest.MonkeyPatch.context() as patch:
    fake_run.install(patch.setattr)
    loop.run(fake_run.config(train__learning_rate=0.1), workdir)
  return workdir


def read(workdir, averaged, step=None, arg='', **fields):
  system = fake_run.System(fake_run.config(arg, **fields))
  params, extra = system.init(jax.random.key(0))
  wanted = {'params': params, 'extra': extra}
  found = checkpoints.load(workdir, wanted, step, averaged)
  return jax.tree.map(np.asarray, found)


def assert_same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def start(workdir, source, arg='', **fields):
  """One step that changes no weight."""
  fields = {'train__steps': 1, 'train__learning_rate': 0.0, **fields}
  config = fake_run.config(arg, train__init_from=source, **fields)
  loop.run(config, workdir)
  return config


def test_weights_and_averages_are_taken(source, tmp_path, caplog):
  caplog.set_level('INFO')
  start(tmp_path / 'run', source)
  was = read(source, averaged=False)
  got = read(tmp_path / 'run', averaged=False)
  assert_same(got['params'], was['params'])
  w = got['params']['generator']['w']
  # One update: 2/11 of the old average, for update 1 has the decay 2/11.
  average = read(source, averaged=True)['params']['generator']['w']
  assert np.abs(average - w).max() > 0.01
  want = 2 / 11 * average + 9 / 11 * w
  now = read(tmp_path / 'run', averaged=True)['params']['generator']['w']
  np.testing.assert_allclose(now, want, rtol=1e-5)
  assert got['extra']['count'] == was['extra']['count'] + 1  # after the step
  assert 'step 4: 3 matched, 0 grown, 0 new, 0 unused' in caplog.text


def test_a_run_goes_on_without_its_source(source, tmp_path):
  copy = shutil.copytree(source, tmp_path / 'source')
  config = start(tmp_path / 'run', copy)
  shutil.rmtree(copy)
  record = checkpoints.record(tmp_path / 'run', 1)['init_from']
  assert record['path'] == str(copy)
  assert record['step'] == 4
  assert (record['matched'], record['new']) == (3, 0)
  config.train.steps = 2
  loop.run(config, tmp_path / 'run')
  assert checkpoints.record(tmp_path / 'run', 2)['init_from'] == record


def test_what_is_new_keeps_its_initial_values(source, tmp_path, caplog):
  caplog.set_level('INFO')
  start(tmp_path / 'run', source, 'attention')
  got = read(tmp_path / 'run', False, arg='attention')['params']
  was = read(source, averaged=False)['params']
  init, _ = fake_run.System(fake_run.config('attention')).init(
    jax.random.key(0)
  )
  kernel = got['generator'].pop('attention')['to_q']['kernel']
  assert_same(got, was)
  assert kernel.shape == init['generator']['attention']['to_q']['kernel'].shape
  assert kernel.std() > 0.05
  assert '3 matched, 0 grown, 1 new, 0 unused' in caplog.text
  assert 'new: generator/attention/to_q/kernel' in caplog.text


def test_other_meshes_and_a_file_of_averages(source, tmp_path):
  copy = shutil.copytree(source, tmp_path / 'source')
  average = read(copy, averaged=True)['params']
  shutil.rmtree(copy / 'checkpoints')  # weights.safetensors stays
  fields = {'mesh__fsdp': 4, 'mesh__data': 2}
  start(tmp_path / 'run', copy, **fields)
  assert_same(read(tmp_path / 'run', averaged=False)['params'], average)


def test_what_is_refused(source, tmp_path):
  with pytest.raises(errors.UserError, match='absent .a run with wei') as error:
    start(tmp_path / 'a', tmp_path / 'absent')
  assert error.value.code == errors.MISSING
  with pytest.raises(errors.UserError, match='whose 3 arrays none') as error:
    start(tmp_path / 'b', source, network__width=9)
  assert error.value.code == errors.DATA
  copy = shutil.copytree(source, tmp_path / 'copy')
  config = config_lib.base('flow')
  (copy / 'config.json').write_text(config_lib.to_json(config))
  words = "a run of the system 'flow'; must be one of 'ldm'"
  with pytest.raises(errors.UserError, match=words):
    start(tmp_path / 'c', copy)
  for name in 'abc':
    assert not checkpoints.steps(tmp_path / name)


@pytest.mark.parametrize(
  ('path', 'was', 'now', 'how'),
  [
    ('unet/conv_in/kernel', (3, 3, 4, 8), (3, 3, 9, 8), init_from.INPUTS),
    ('unet/conv_in/kernel', (3, 3, 4, 8), (3, 3, 9, 16), ''),
    ('unet/conv_in/kernel', (3, 3, 9, 8), (3, 3, 4, 8), ''),
    ('unet/conv_in/kernel', (1, 1, 4, 8), (3, 3, 4, 8), ''),
    ('unet/to_k/kernel', (4, 8), (9, 8), ''),
    ('labels/embedding', (5, 8), (7, 8), init_from.ROWS),
    ('labels/embedding', (11, 8), (21, 8), init_from.CLASSES),
    ('labels/embedding', (5, 8), (5, 9), ''),
    ('labels/embedding', (5, 8), (5, 8), init_from.MATCHED),
    ('scale', (), (1,), ''),
  ],
)
def test_which_arrays_grow(path, was, now, how):
  report = init_from.compare({path: was, 'old': (2,)}, {path: now}, (11, 21))
  assert report.taken == ({path: how} if how else {})
  assert report.unused == (('old',) if how else (path, 'old'))
  assert list(report.new) == ([] if how else [path])


def test_grown_values():
  new, old = jnp.full((4, 2), 7.0), jnp.arange(6.0).reshape(3, 2)
  rows = init_from.grow(new, old, init_from.ROWS)
  assert rows.tolist() == [[0, 1], [2, 3], [4, 5], [7, 7]]
  classes = init_from.grow(new, old, init_from.CLASSES)
  assert classes.tolist() == [[0, 1], [2, 3], [7, 7], [4, 5]]
  kernel = init_from.grow(
    jnp.full((1, 1, 3, 2), 7.0), jnp.ones((1, 1, 2, 2)), init_from.INPUTS
  )
  assert kernel[0, 0].tolist() == [[1, 1], [1, 1], [0, 0]]
  report = init_from.compare({'e/embedding': (3, 2)}, {'e/embedding': (4, 2)})
  assert '0 matched, 1 grown, 0 new, 0 unused' in report.text()
  assert 'grown: e/embedding (rows)' in report.text()
  assert json.dumps(report.counts())


def test_a_system_with_more_classes_and_a_second_condition(
  tmp_path, monkeypatch
):
  monkeypatch.undo()  # the fake system
  (tmp_path / 'config.json').write_text(
    config_lib.to_json(configs.load('ldm_shapes.py:class,debug'))
  )
  config = configs.load(
    'ldm_shapes.py:class,debug',
    condition__num_classes=40,
    condition__also='superres',
    train__init_from=tmp_path,
  )
  system, mesh = workdir.create_system(config), mesh_lib.pure_data()
  create = functools.partial(step_lib.create, system, config)
  state = step_lib.abstract(create, mesh, config)
  start = init_from.plan(config, system, state, mesh)
  grown = {path: start.report.taken[path] for path in start.report.grown}
  assert grown == {
    'generator/condition/first/embedding/embedding': init_from.CLASSES,
    'generator/unet/input_blocks_0_0/kernel': init_from.INPUTS,
  }
  counts = start.report.counts()
  assert (counts['new'], counts['unused']) == (0, 0)
  assert counts['matched'] > 200
