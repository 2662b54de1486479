"""The weights of a run that has ended, as one file."""

import hashlib
import shutil

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.interop import safetensors_file
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import compact
from pyramid_jax.runs import hashes
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.training import loop
from tests.helpers import fake_run


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


def weights_of(workdir):
  run = loading.load(workdir_lib.read_config(workdir), workdir)
  return hashes.tree((run.weights.params, run.weights.extra)), run.step


def test_it_is_what_the_last_checkpoint_holds(tmp_path):
  loop.run(fake_run.config(), tmp_path)
  tensors = safetensors_file.Tensors(tmp_path / compact.FILE)
  text = config_lib.to_json(workdir_lib.read_config(tmp_path))
  about = tensors.metadata()
  assert about['step'] == '4'
  assert about['config_sha256'] == hashlib.sha256(text.encode()).hexdigest()
  assert about['version']
  assert {name.split('/')[0] for name in tensors} == {'params', 'extra', 'step'}
  assert tensors['params/generator/w'].dtype == np.float32
  with_checkpoints = weights_of(tmp_path)
  shutil.rmtree(checkpoints.directory(tmp_path))
  assert weights_of(tmp_path) == with_checkpoints
  assert with_checkpoints[1] == 4
  # A change is noticed.
  with (tmp_path / compact.FILE).open('r+b') as file:
    file.seek(-5, 2)
    file.write(b'\x7f')
  with pytest.raises(errors.UserError, match='was changed'):
    weights_of(tmp_path)
  # What is left of the run is not trained over.
  with pytest.raises(errors.UserError, match='no state of a training run'):
    loop.run(fake_run.config(), tmp_path)


def test_raw_weights_where_nothing_is_averaged(tmp_path):
  loop.run(fake_run.config(ema__decay=0.0), tmp_path)
  system = fake_run.System(fake_run.config())
  params, extra = system.init(jax.random.key(0))
  tree = checkpoints.load(tmp_path, {'params': params, 'extra': extra})
  tensors = safetensors_file.Tensors(tmp_path / compact.FILE)
  w = tree['params']['generator']['w']
  np.testing.assert_array_equal(tensors['params/generator/w'], w)


def test_a_first_stage_is_in_it_unless_it_is_elsewhere(tmp_path):
  loop.run(fake_run.config('two', train__steps=1), tmp_path / 'run')
  names = set(safetensors_file.Tensors(tmp_path / 'run' / compact.FILE))
  assert 'frozen/first_stage/w' in names
  for name in ('checkpoints', 'first_stage'):
    shutil.rmtree(tmp_path / 'run' / name)
  run = loading.load(
    workdir_lib.read_config(tmp_path / 'run'), tmp_path / 'run'
  )
  assert run.weights.frozen['first_stage']['w'].shape == (8, 8)
  loop.run(fake_run.config(train__steps=1), tmp_path / 'first')
  given = {'first_stage__checkpoint': tmp_path / 'first', 'train__steps': 1}
  loop.run(fake_run.config('two', **given), tmp_path / 'given')
  names = set(safetensors_file.Tensors(tmp_path / 'given' / compact.FILE))
  assert not [name for name in names if name.startswith('frozen')]


def test_it_can_be_switched_off(tmp_path):
  loop.run(fake_run.config(train__export=False, train__steps=1), tmp_path)
  assert not (tmp_path / compact.FILE).exists()


def test_a_longer_run_replaces_it(tmp_path):
  for steps in (2, 3):
    loop.run(fake_run.config(train__steps=steps), tmp_path)
  about = safetensors_file.Tensors(tmp_path / compact.FILE).metadata()
  assert about['step'] == '3'


def test_a_run_that_was_killed_before_it_writes_it_next_time(tmp_path):
  loop.run(fake_run.config(), tmp_path)

  def content():
    tensors = safetensors_file.Tensors(tmp_path / compact.FILE)
    arrays = {name: array.tobytes() for name, array in tensors.items()}
    return arrays, tensors.metadata()

  before = content()
  (tmp_path / compact.FILE).unlink()
  loop.run(fake_run.config(), tmp_path)
  assert content() == before


def test_a_file_that_cannot_be_written_costs_no_step(tmp_path):
  (tmp_path / compact.FILE).mkdir()
  with pytest.raises(errors.UserError, match=compact.FILE) as info:
    loop.run(fake_run.config(), tmp_path)
  assert info.value.code == errors.OUTPUT
  assert checkpoints.steps(tmp_path)[0] == 4
  (tmp_path / compact.FILE).rmdir()
  loop.run(fake_run.config(), tmp_path)
  assert compact.is_there(tmp_path)
