"""What follows from the numbers of the starts of a run."""

import dataclasses
import json

import numpy as np
import pytest

from pyramid_jax.runs import throughput
from tests.helpers import fake_store


START = throughput.Start(
  began='2026-01-01T00:00:00+00:00',
  written='2026-01-01T00:01:40+00:00',
  end=throughput.RUNNING,
  platform='gpu',
  device_kind='NVIDIA H200',
  devices=4,
  processes=2,
  dtype='bfloat16',
  batch_size=10,
  flops_per_image=2e12,
  peak_flops=1e14,
  first_step=0,
  last_step=30,
  compile_secs=25.0,
  spent_secs={
    'start': 8.0,
    'compile': 12.0,
    'step': 60.0,
    'data_stall': 4.0,
    'checkpoint': 10.0,
    'evaluation': 5.0,
    'other': 1.0,
  },
  step_secs_bins={throughput.bin_of(2.0): 28, throughput.bin_of(4.0): 2},
)


def later(**fields):
  """A start an hour after START, 50 s after its last sign."""
  times = {
    'began': '2026-01-01T00:02:30+00:00',
    'written': '2026-01-01T00:04:10+00:00',
  }
  return dataclasses.replace(START, **{**times, **fields})


def test_one_start_by_hand():
  found = throughput.summary([START])
  assert (found['steps'], found['images']) == (30, 300)
  assert found['secs'] == 100
  assert found['images_per_sec'] == 300 / 64
  assert found['images_per_sec_per_device'] == 300 / 64 / 4
  assert found['mfu'] == pytest.approx(300 * 2e12 / (64 * 4 * 1e14))
  assert found['goodput'] == pytest.approx(0.6)
  assert found['compile_secs'] == 25
  assert found['data_stall_secs'] == 4
  assert found['badput_secs'] == {
    'start': 8,
    'compile': 12,
    'data_stall': 4,
    'checkpoint': 10,
    'evaluation': 5,
    'other': 1,
    'repeated': 0,
    'idle': 0,
  }
  assert found['step_secs_p50'] == pytest.approx(2, rel=0.01)
  assert found['step_secs_p95'] == pytest.approx(4, rel=0.01)


def test_steps_that_were_lost_do_not_count():
  # It was killed after step 30; the next one begins with step 21.
  found = throughput.summary([START, later(first_step=20, last_step=50)])
  assert (found['steps'], found['repeated_steps']) == (50, 10)
  assert found['images'] == 500
  assert found['badput_secs']['repeated'] == pytest.approx(60 * 10 / 30)
  assert found['badput_secs']['idle'] == 50
  assert found['secs'] == pytest.approx(250)
  assert found['goodput'] == pytest.approx((120 - 20) / 250)
  # The devices worked on them all the same.
  assert found['images_per_sec'] == 600 / 128
  parts = sum(found['badput_secs'].values())
  assert found['goodput'] * found['secs'] + parts == pytest.approx(250)


@pytest.mark.parametrize(
  ('spans', 'lost'),
  [
    ([(0, 30), (30, 40)], [0, 0]),
    ([(0, 30), (20, 40), (20, 45)], [10, 20, 0]),
    ([(0, 30), (20, 25), (10, 45)], [20, 5, 0]),
    ([(0, 30), (20, 20), (30, 45)], [10, 0, 0]),
    ([(0, 30), (30, 40), (0, 45)], [30, 10, 0]),
  ],
)
def test_lost_steps(spans, lost):
  starts = [
    dataclasses.replace(START, first_step=a, last_step=b) for a, b in spans
  ]
  assert throughput.lost_steps(starts) == lost


def test_a_run_that_had_finished_was_not_idle():
  first = dataclasses.replace(START, end=throughput.FINISHED)
  starts = [first, later(first_step=30, last_step=60)]
  assert throughput.summary(starts)['badput_secs']['idle'] == 0


def test_a_clock_that_was_set_back_gives_no_negative_time():
  early = later(began='2025-01-01T00:00:00+00:00')
  assert throughput.idle_secs([START, early]) == 0


def test_a_chip_without_a_known_rate_has_no_mfu():
  unknown = later(peak_flops=None)
  assert throughput.summary([unknown])['mfu'] is None
  assert throughput.summary([START, unknown])['mfu'] is None


def test_a_start_without_steps():
  empty = dataclasses.replace(
    START, last_step=0, spent_secs={'start': 3.0}, step_secs_bins={}
  )
  found = throughput.summary([empty])
  assert found['goodput'] == 0
  for name in ('images_per_sec', 'step_secs_p50', 'mfu'):
    assert found[name] is None


def test_percentiles_are_within_one_percent():
  secs = np.random.default_rng(0).lognormal(size=20_001)
  bins = {}
  for x in secs:
    bins[throughput.bin_of(x)] = bins.get(throughput.bin_of(x), 0) + 1
  found = throughput.summary([dataclasses.replace(START, step_secs_bins=bins)])
  want = np.percentile(secs, [50, 95])
  got = [found['step_secs_p50'], found['step_secs_p95']]
  np.testing.assert_allclose(got, want, rtol=0.012)


def test_a_file_is_read_back(tmp_path):
  memory = [{'device': 'gpu:0', 'in_use': 3}]
  starts = [START, later(first_step=30, last_step=31)]
  throughput.write(tmp_path, starts, memory)
  assert throughput.read(tmp_path) == starts
  values = json.loads((tmp_path / throughput.FILE).read_text())
  assert values['total'] == throughput.summary(starts)
  assert values['memory'] == memory


def test_a_store_has_the_file_too():
  with fake_store.installed():
    throughput.write('gs://bucket/run', [START], [])
    assert throughput.resume('gs://bucket/run') == [START]


def test_what_killed_processes_left_is_removed(tmp_path):
  throughput.write(tmp_path, [START], [])
  left = tmp_path / f'.{throughput.FILE}.0123abcd.tmp'
  left.write_text('half')
  assert throughput.resume(tmp_path) == [START]
  assert not left.exists()


def test_no_file_is_no_start(tmp_path):
  assert throughput.read(tmp_path) == []


@pytest.mark.parametrize(
  'change',
  [
    {'spent_secs': {'step': 'x'}},
    {'spent_secs': {'step': float('nan')}},
    {'spent_secs': []},
    {'last_step': -1},
    {'first_step': 40},
    {'devices': True},
    {'began': 'yesterday'},
    {'began': '2026-01-01'},
    {'peak_flops': 'fast'},
    {'step_secs_bins': {'9999': 1}},
    {'step_secs_bins': {'x': 1}},
    {'batch_size': None},
  ],
)
def test_damage_is_a_warning(change, tmp_path, caplog):
  values = {**dataclasses.asdict(START), **change}
  text = json.dumps({'starts': [values]})
  (tmp_path / throughput.FILE).write_text(text)
  with caplog.at_level('WARNING', logger='absl'):
    assert throughput.read(tmp_path) == []
  assert 'throughput.json cannot be read and begins anew' in caplog.text


@pytest.mark.parametrize('text', ['', '[', '[]', '{}', '{"starts": 3}', '7'])
def test_other_files_are_a_warning(text, tmp_path, caplog):
  (tmp_path / throughput.FILE).write_text(text)
  with caplog.at_level('WARNING', logger='absl'):
    assert throughput.read(tmp_path) == []
  assert 'cannot be read' in caplog.text
