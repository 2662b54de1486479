"""The cases of tests/cases: what a person types, and what must come of it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import processes
from tests.helpers import written_run


CASES = pathlib.Path(__file__).parent / 'cases'
NAMES = sorted(path.parent.name for path in CASES.glob('*/run.sh'))
# Case -> why it fails; it takes a minute and is not run.
FAILING = {
  '21-fine-tune-converted': 'finding B12: converted weights are not trained on',
}
# Cases that use a run.
TRAINED = [
  name
  for name in NAMES
  if re.search(r'own_run|\$RUN', (CASES / name / 'run.sh').read_text())
]


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """The folder of a `frido_shapes:debug` run of random weights."""
  folder = tmp_path_factory.mktemp('cases') / 'run'
  config = config_lib.load('configs/frido_shapes.py:debug')
  first_stage = config_lib.first_stage(config)
  label_names = data.create(config, 'train').label_names
  for path, part in ((folder, config), (folder / 'first_stage', first_stage)):
    written_run.write(path, part)
    workdir_lib.write_record(path, part, label_names)
  return folder


def verdict(name, folder):
  """Runs a case; returns its exit code and what it says."""
  done = subprocess.run(
    ['bash', CASES / name / 'run.sh'],
    env={
      **processes.environment(),
      'PY': sys.executable,
      'PROJECT': os.fspath(processes.ROOT),
      'RUN': os.fspath(folder),
    },
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  return done.returncode, done.stdout + done.stderr


def marked(name):
  reason = FAILING.get(name)
  marks = [pytest.mark.slow]
  if reason:
    marks.append(pytest.mark.xfail(run=False, reason=reason))
  return pytest.param(name, marks=marks)


@pytest.mark.turns(4)
@pytest.mark.parametrize('name', [*map(marked, NAMES)])
def test_case(name, request):
  folder = request.getfixturevalue('run') if name in TRAINED else 'none'
  code, text = verdict(name, folder)
  assert (code, 'PASS' in text) == (0, True), text
