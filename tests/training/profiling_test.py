"""Traces of some steps of a run."""

import types

import jax
import jax.numpy as jnp
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.files import stores
from pyramid_jax.training import loop
from pyramid_jax.training import profiling
from pyramid_jax.training import throughput
from tests.helpers import fake_run
from tests.helpers import fake_store


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


def traced_steps(file):
  """Returns the numbers of the training steps in a trace."""
  data = jax.profiler.ProfileData.from_file(str(file))
  events = (e for p in data.planes for line in p.lines for e in line.events)
  return sorted(
    value
    for event in events
    if event.name.startswith('train')
    for name, value in event.stats
    if name == 'step_num'
  )


def test_the_steps_of_the_window_are_traced(tmp_path, caplog):
  config = fake_run.config(profile__steps='2,3', train__checkpoint_every=9)
  with caplog.at_level('INFO', logger='absl'):
    loop.run(config, tmp_path)
  files = list((tmp_path / 'profile' / 'process_0').rglob('*.xplane.pb'))
  assert len(files) == 1
  assert files[0].stat().st_size > 0
  assert traced_steps(files[0]) == [2, 3]
  assert 'the profile of the steps 2 to 3: ' in caplog.text


def test_a_resume_within_the_window_traces_the_rest(tmp_path):
  config = fake_run.config(train__steps=2)
  loop.run(config, tmp_path)
  assert not (tmp_path / 'profile').exists()
  config = fake_run.config(profile__steps='2,9', train__steps=4)
  loop.run(config, tmp_path)
  (file,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  assert traced_steps(file) == [3, 4]


def test_a_store_gets_whole_traces():
  with fake_store.installed() as store:
    setup = types.SimpleNamespace(
      workdir=stores.path('gs://bucket/run'),
      config=fake_run.config(profile__steps='1,1'),
    )
    meter = throughput.Meter(setup.config, setup.workdir)
    window = profiling.Window(setup, 0, meter)
    window.before(1, ())
    window.after(1, jnp.ones(()) + 1)
    found = [name for name in store.objects if name.endswith('.xplane.pb')]
    assert len(found) == 1
    assert found[0].startswith('bucket/run/profile/process_0/plugins/profile/')


def test_steps_that_are_over_are_a_warning(tmp_path, caplog):
  config = fake_run.config(profile__steps='6,7')
  with caplog.at_level('WARNING', logger='absl'):
    loop.run(config, tmp_path)
  assert 'config.profile.steps=6,7: no such step is left' in caplog.text
  assert not (tmp_path / 'profile').exists()


@pytest.mark.parametrize(
  ('steps', 'message'),
  [
    ('5,3', 'profile.steps .*must be FIRST,LAST with LAST at least 5'),
    ('0,3', 'profile.steps .*must be'),
    ('3,', 'profile.steps .*must be'),
  ],
)
def test_windows_that_are_none_are_refused(steps, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.validate(fake_run.config(profile__steps=steps))
