"""What two processes report of their run: one file, a trace of each."""

import json

import pytest

from tests.helpers import cluster
from tests.helpers import fork_server


@pytest.mark.hosts
def test_two_processes_write_one_report_and_two_traces(tmp_path):
  workdir = tmp_path / 'run'
  ended = cluster.run(
    2,
    f'--config={fork_server.FAKE}',
    f'--workdir={workdir}',
    '--config.profile.steps=2,3',
    module='tests.helpers.fake_run',
    devices=2,
  )
  assert [one.code for one in ended] == [0, 0], cluster.report(ended)
  values = json.loads((workdir / 'throughput.json').read_text())
  (start,) = values['starts']
  assert (start['devices'], start['processes']) == (4, 2)
  assert (start['end'], start['last_step']) == ('finished', 4)
  # The batch is that of all processes.
  assert values['total']['images'] == 4 * 8
  assert start['flops_per_image'] is None  # of a CPU
  traces = sorted((workdir / 'profile').glob('*/plugins/profile/*/*.xplane.pb'))
  folders = [path.relative_to(workdir / 'profile').parts[0] for path in traces]
  assert folders == ['process_0', 'process_1']
  assert all(path.stat().st_size for path in traces)
  assert [one.text.count('throughput: ') for one in ended] == [1, 0]
