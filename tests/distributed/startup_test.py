import json
import re

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from tests.helpers import cluster


MODULE = 'tests.helpers.talking'
ABORTED = -6  # SIGABRT, which a shell calls 134


def run(what, *more, count=2, **options):
  return cluster.run(count, what, *more, module=MODULE, **options)


def config(**fields):
  made = config_lib.base('ldm').lock()
  texts = {f'distributed.{name}': str(v) for name, v in fields.items()}
  return config_lib.complete(made, texts)


def test_processes_hear_each_other():
  ended = run('hear', count=3, devices=1)
  assert [x.code for x in ended] == [0, 0, 0], cluster.report(ended)
  found = [json.loads(re.search('heard (.*)', x.text)[1]) for x in ended]
  for index, heard in enumerate(found):
    assert heard == {
      'part': [index, 3],
      'decided': {'by': 0, 'list': [1, 2]},
      'collected': [0, 10, 20],
      'any': [True, False],
      'host': [0, 2, 4, 6, 8, 10],
      'refused': ['process 0 says no', errors.DATA, True],
    }
  table = ended[0].text
  assert '3 processes with 3 devices' in table
  assert len(re.findall(r'^[012] +\S+ +\d+ +0 +1 cpu$', table, re.M)) == 3
  assert 'processes with' not in ended[1].text


LONG = pytest.mark.hosts


@pytest.mark.parametrize('index', [0, pytest.param(1, marks=LONG)])
def test_an_error_of_one_ends_all(index):
  ended = run('error', index)
  assert [x.code for x in ended] == [errors.MISSING] * 2, cluster.report(ended)
  assert 'error: no such file' in ended[index].text
  other = ended[1 - index].text
  assert re.search(rf'error: process {index} on \S+ ended: no such file', other)
  assert 'Traceback' not in other


@LONG
def test_a_bug_of_one_ends_all():
  ended = run('bug', 1)
  assert [x.code for x in ended] == [errors.BUG] * 2, cluster.report(ended)
  assert 'ValueError: a bug' in ended[1].text


@LONG
def test_a_shared_error_ends_all_by_themselves():
  ended = run('refuse', errors.USAGE)
  assert [x.code for x in ended] == [errors.USAGE] * 2, cluster.report(ended)
  for one in ended:
    assert 'error: a value is wrong' in one.text
    assert 'ended' not in one.text


@pytest.mark.parametrize('index', [pytest.param(0, marks=LONG), 1])
def test_a_killed_process_ends_all(index):
  beat = '--config.distributed.heartbeat_secs=5'
  ended = run('kill', index, beat, secs=60)
  codes = [x.code for x in ended]
  assert codes[index] == -9
  assert codes[1 - index] in (ABORTED, errors.RESTART), cluster.report(ended)


def test_one_that_stays_away_is_named():
  with cluster.Cluster(
    2,
    'hear',
    '--config.distributed.init_timeout_secs=2',
    module=MODULE,
  ) as started:
    started.processes[0].kill()
    started.processes[0].wait()
    ended = started.wait(60)
  assert ended[1].code == errors.RESTART, cluster.report(ended)
  assert 'process 1 of 2 did not find all others' in ended[1].text
  assert 'init_timeout_secs=2' in ended[1].text


class Slurm(cluster.Cluster):
  """Processes that srun would have started."""

  def variables(self, index):
    return {
      'SLURM_JOB_ID': '7',
      'SLURM_STEP_NODELIST': '127.0.0.1',
      'SLURM_NTASKS': '2',
      'SLURM_PROCID': str(index),
      'SLURM_LOCALID': str(index),
      'JAX_COORDINATOR_PORT': str(self.port),
    }


def test_auto_finds_a_cluster():
  with Slurm(2, 'hear', module=MODULE, is_explicit=False) as started:
    ended = started.wait()
  assert [x.code for x in ended] == [0, 0], cluster.report(ended)
  assert '2 processes with 2 devices' in ended[0].text
  assert '(slurm)' in ended[0].text


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'mode': 'explicit'}, 'config.distributed.coordinator'),
    ({'mode': 'explicit', 'coordinator': 'host'}, 'HOST:PORT'),
    ({'mode': 'explicit', 'coordinator': 'host:99999'}, 'HOST:PORT'),
    (
      {
        'mode': 'explicit',
        'coordinator': 'h:80',
        'processes': 2,
        'process_id': 2,
      },
      r'process_id is 2, must be in \[0, 1\]',
    ),
    ({'mode': 'pod'}, 'one of auto, off, explicit'),
    ({'processes': 0}, 'processes is 0'),
    ({'local_devices': '0,x'}, 'local_devices'),
  ],
)
def test_bad_fields(fields, words):
  with pytest.raises(errors.UserError, match=words):
    config(**fields)


def test_files_of_a_run_do_not_have_the_section():
  one = config(mode='explicit', coordinator='h:80', processes=2)
  text = config_lib.to_json(one)
  assert 'distributed' not in text
  assert text == config_lib.to_json(config())
  again = config_lib.from_json(text)
  assert again.distributed.mode == 'auto'
  assert not config_lib.resume_differences(again, one)


def test_a_config_file_may_set_the_section(tmp_path):
  file = tmp_path / 'of_test.py'
  file.write_text(
    'from pyramid_jax import config as config_lib\n'
    "def get_config(arg=''):\n"
    "  config = config_lib.base('ldm')\n"
    "  config.distributed.mode = 'off'\n"
    '  return config\n'
  )
  assert config_lib.load(str(file)).distributed.mode == 'off'
