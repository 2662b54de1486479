import shutil

import jax
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import memory
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import loading
from pyramid_jax.training import loop
from tests.helpers import fake_run


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run with a first stage, and its config."""
  workdir = tmp_path_factory.mktemp('two')
  config = fake_run.config('two')
  with pytest.MonkeyPatch.context() as patch:
    fake_run.install(patch.setattr)
    loop.run(config, workdir)
  return workdir, config


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
  """A copy of the run, to be broken."""
  fake_run.install(monkeypatch.setattr)
  shutil.copytree(trained[0], tmp_path / 'run')
  return tmp_path / 'run', trained[1]


def test_a_run_has_its_first_stage(run):
  workdir, config = run
  assert loading.load(config, workdir).step == 4
  assert loading.load(config, workdir, step=3).step == 3


def test_weights_are_split_where_a_device_has_no_room(run, monkeypatch, caplog):
  workdir, config = run
  assert loading.load(config, workdir).mesh.shape['data'] == jax.device_count()
  monkeypatch.setattr(memory, 'available', lambda mesh: 100)
  mesh = loading.load(config, workdir).mesh
  assert (mesh.shape['data'], mesh.shape['fsdp']) == (1, jax.device_count())
  assert 'are split over the devices' in caplog.text


def test_an_older_first_stage_is_refused(run, caplog):
  workdir, config = run
  newest = checkpoints.directory(workdir / 'first_stage') / '4'
  shutil.rmtree(newest / 'ema')
  shutil.rmtree(newest / 'state')
  with pytest.raises(
    errors.UserError, match='weights of first_stage are not those'
  ) as info:
    loading.load(config, workdir)
  assert info.value.code == errors.DATA
  assert f'{newest} is damaged' in caplog.text


def test_another_first_stage_is_refused(run, trained, tmp_path):
  workdir, config = run
  other = fake_run.config('two', train__seed=5, first_stage__train__seed=5)
  loop.run(other, tmp_path / 'other')
  path = str(tmp_path / 'other' / 'first_stage')
  config = config_lib.from_json(config_lib.to_json(config))
  config_lib.override(config, {'first_stage.checkpoint': path})
  with pytest.raises(errors.UserError, match='weights of first_stage are not'):
    loading.load(config, workdir)


def test_parts_of_checkpoints_without_hashes_are_not_checked(run, monkeypatch):
  workdir, config = run
  shutil.rmtree(checkpoints.directory(workdir / 'first_stage') / '4' / 'ema')
  monkeypatch.setattr(checkpoints, 'frozen', lambda folder, step: {})
  assert loading.load(config, workdir).step == 4
