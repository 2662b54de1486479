"""The report of whole runs with a tiny system, and its clock."""

import json
import re
import types

import jax
import pytest

from pyramid_jax.distributed import chips
from pyramid_jax.runs import stopping
from pyramid_jax.runs import throughput as record
from pyramid_jax.runs import writers
from pyramid_jax.training import loop
from pyramid_jax.training import throughput
from tests.helpers import fake_run


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
  fake_run.install(monkeypatch.setattr)


def report(workdir):
  return json.loads((workdir / 'throughput.json').read_text())


class Clock:
  """A clock that is set by hand."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    fake = types.SimpleNamespace(monotonic=lambda: self.now)
    monkeypatch.setattr(throughput, 'time', fake)

  def tick(self, secs):
    self.now += secs


def test_every_second_is_of_one_kind(monkeypatch, tmp_path):
  clock = Clock(monkeypatch)
  meter = throughput.Meter(fake_run.config(), tmp_path)
  clock.tick(2)
  with meter.spending('compile'):
    clock.tick(3)

  def batches():
    for secs in (0.5, 0.25):
      clock.tick(secs)
      yield secs

  with meter.training(0):
    for step, _ in enumerate(meter.fed(batches()), 1):
      clock.tick(1)
      meter.done(step)
      with meter.spending('evaluation'):
        clock.tick(10)
        with meter.spending('checkpoint'):
          clock.tick(20)
        clock.tick(5)
  meter.write(now=True)
  start = record.read(tmp_path)[0]
  assert start.spent_secs == {
    'start': 2,
    'compile': 3,
    'step': 2,
    'data_stall': 0.75,
    'evaluation': 30,
    'checkpoint': 40,
    'other': 0,
  }
  assert start.step_secs_bins == {
    record.bin_of(1.5): 1,
    record.bin_of(1.25): 1,
  }
  assert report(tmp_path)['total']['images_per_sec'] == 16 / 2.75


def test_lines_of_metrics_write_seldom(monkeypatch, tmp_path):
  clock = Clock(monkeypatch)
  meter = throughput.Meter(fake_run.config(), tmp_path)
  written = []
  monkeypatch.setattr(record, 'write', lambda *a: written.append(clock.now))
  with meter.training(0):
    for _ in range(5):
      clock.tick(4)
      meter.write()
  assert written == [100, 112]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Two starts, each of which finishes."""
  workdir = tmp_path_factory.mktemp('run')
  with pytest.MonkeyPatch.context() as patch:
    fake_run.install(patch.setattr)
    for steps in (3, 5):
      loop.run(fake_run.config(train__steps=steps), workdir)
  return workdir


def test_the_report_of_a_run(run):
  values = report(run)
  first, second = values['starts']
  assert (first['first_step'], first['last_step']) == (0, 3)
  assert (second['first_step'], second['last_step']) == (3, 5)
  for start in (first, second):
    assert start['end'] == 'finished'
    assert (start['platform'], start['device_kind']) == ('cpu', 'cpu')
    assert start['devices'] == jax.device_count()
    assert start['processes'] == 1
    assert start['flops_per_image'] is None  # of a CPU
    assert start['peak_flops'] is None
    assert start['compile_secs'] > 0
    assert start['secs'] == pytest.approx(sum(start['spent_secs'].values()))
    assert sum(start['step_secs_bins'].values()) == start['steps']
    assert all(start['spent_secs'][name] > 0 for name in ('start', 'step'))
  total = values['total']
  assert (total['steps'], total['images']) == (5, 40)
  assert total['mfu'] is None
  assert total['secs'] == pytest.approx(first['secs'] + second['secs'])
  assert total['badput_secs']['idle'] == 0
  assert values['memory'] == []  # CPUs do not tell


def test_a_known_chip_has_an_mfu(monkeypatch, tmp_path, caplog):
  chip = chips.Chip(
    bfloat16=2e6, float32=1e6, memory_bytes=1e9, bandwidth=1e9, links=None
  )
  monkeypatch.setattr(chips, 'CHIPS', {'cpu': chip})
  with caplog.at_level('INFO', logger='absl'):
    loop.run(fake_run.config(train__steps=2), tmp_path)
  start = report(tmp_path)['starts'][0]
  assert start['peak_flops'] == 1e6  # the fake trains in float32
  done = 320 * start['images_per_sec'] / jax.device_count()
  assert start['mfu'] == pytest.approx(done / 1e6)
  assert re.search(
    r'throughput: \S+ images/s \(\S+ per device\), MFU \S+%, goodput \S+%',
    caplog.text,
  )


def test_an_unknown_chip_is_named(monkeypatch, tmp_path, caplog):
  device = types.SimpleNamespace(platform='tpu', device_kind='TPU v99')
  monkeypatch.setattr(jax, 'devices', lambda: [device])
  meter = throughput.Meter(fake_run.config(), tmp_path)
  with caplog.at_level('WARNING', logger='absl'), meter.training(0):
    pass
  assert "no peak rate is known of 'TPU v99'" in caplog.text
  assert report(tmp_path)['starts'][0]['device_kind'] == 'TPU v99'


def test_a_run_that_ends_badly_has_lost_its_last_steps(monkeypatch, tmp_path):
  monkeypatch.setattr(throughput, '_WRITE_SECS', 0.0)
  config = fake_run.config(train__checkpoint_every=3, train__steps=6)
  write = writers.MetricWriter.write_scalars

  def broken(self, step, scalars):
    write(self, step, scalars)
    if step == 6:
      raise RuntimeError('a bug')

  with monkeypatch.context() as patch:
    patch.setattr(writers.MetricWriter, 'write_scalars', broken)
    with pytest.raises(RuntimeError):
      loop.run(config, tmp_path)
  assert report(tmp_path)['starts'][0]['end'] == 'running'
  loop.run(config, tmp_path)
  values = report(tmp_path)
  assert [start['end'] for start in values['starts']] == ['running', 'finished']
  # Step 6 was made, but its line was not written.
  assert values['total']['repeated_steps'] == 5 - 3
  assert values['total']['steps'] == 6
  assert values['total']['badput_secs']['repeated'] > 0


def test_a_run_that_is_stopped_says_so(monkeypatch, tmp_path):
  check = throughput.Meter.done

  def done(self, step):
    check(self, step)
    if step == 2:
      monkeypatch.setattr(stopping._state, 'signal', 'SIGTERM')

  monkeypatch.setattr(throughput.Meter, 'done', done)
  with pytest.raises(stopping.Stopped):
    loop.run(fake_run.config(), tmp_path)
  start = report(tmp_path)['starts'][0]
  assert (start['end'], start['last_step']) == ('stopped', 2)


def test_a_damaged_report_does_not_stop_a_run(tmp_path):
  (tmp_path / 'throughput.json').write_text('{"starts": [7]}')
  loop.run(fake_run.config(train__steps=1), tmp_path)
  assert len(report(tmp_path)['starts']) == 1
