"""`launch/restart.sh` starts a command again where that helps."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from pyramid_jax import errors


ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'launch' / 'restart.sh'
QUICK = {'PAUSE_SECS': '0', 'RESTARTS': '3'}
CODES = {
  value
  for name, value in vars(errors).items()
  if name.isupper() and name[0] != '_' and isinstance(value, int)
}


def start(*command, start_new_session=False, **variables):
  return subprocess.Popen(
    ['bash', str(SCRIPT), *command],
    env=os.environ | QUICK | variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=start_new_session,
  )


def run(*command, **variables):
  process = start(*command, **variables)
  out, err = process.communicate(timeout=60)
  return process.returncode, out, err


def counting(folder, *codes):
  """Returns a command that exits with the codes in turn, the last for ever."""
  script = folder / 'command.sh'
  script.write_text(
    f'n=$(cat {folder}/n 2>/dev/null || echo 0); echo $((n + 1)) > {folder}/n\n'
    f'codes=({" ".join(map(str, codes))})\n'
    f'i=$((n < {len(codes) - 1} ? n : {len(codes) - 1}))\n'
    'exit "${codes[$i]}"\n'
  )
  return ['bash', str(script)], lambda: int((folder / 'n').read_text())


@pytest.mark.parametrize(
  'code', sorted({*CODES, 1, 2, 127, 128, 134, 137, 255})
)
def test_which_codes_are_tried_again(tmp_path, code):
  command, runs = counting(tmp_path, code)
  found, _, text = run(*command)
  again = code == errors.RESTART or code >= 128
  assert found == code
  assert runs() == (4 if again else 1)
  assert ('giving up' in text) == again


def test_a_command_that_is_stopped_goes_on(tmp_path):
  command, runs = counting(tmp_path, 75, 137, 0)
  assert run(*command)[0] == 0
  assert runs() == 3


def test_a_healthy_run_starts_the_count_anew(tmp_path):
  command, runs = counting(tmp_path, *[75] * 9, 0)
  assert run(*command, HEALTHY_SECS='0')[0] == 0
  assert runs() == 10


def test_arguments_are_passed_as_they_are():
  assert run('printf', '<%s>', 'a b', '', '*')[1] == '<a b><><*>'
  assert run('--dry-run', 'printf', 'a b')[1].strip() == "printf 'a b'"
  assert run()[0] == errors.USAGE


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_is_the_last(tmp_path, number):
  file = tmp_path / 'seen'
  code = (
    'import pathlib, signal, sys, time\n'
    f'def seen(n, frame): pathlib.Path({str(file)!r}).write_text(str(n)); '
    'sys.exit(75)\n'
    'signal.signal(signal.SIGTERM, seen); signal.signal(signal.SIGINT, seen)\n'
    'print("ready", flush=True)\n'
    'time.sleep(60)\n'
  )
  process = start(sys.executable, '-c', code)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(number)
  assert process.wait(30) == errors.RESTART
  assert file.read_text() == str(int(number))


def test_a_signal_of_a_terminal_comes_once(tmp_path):
  # A terminal sends Ctrl-C to all processes; a second one means `at once`.
  code = (
    'import signal, time\n'
    'signal.signal(signal.SIGINT, lambda *_: print("seen", flush=True))\n'
    'print("ready", flush=True)\n'
    'time.sleep(1)\n'
  )
  process = start(sys.executable, '-c', code, start_new_session=True)
  assert process.stdout.readline() == 'ready\n'
  os.killpg(process.pid, signal.SIGINT)
  out, _ = process.communicate(timeout=60)
  assert out == 'seen\n'


def test_a_signal_ends_a_pause(tmp_path):
  command, runs = counting(tmp_path, 75)
  process = start(*command, PAUSE_SECS='60')
  while 'restart 1' not in process.stderr.readline():
    assert process.poll() is None
  time.sleep(0.2)
  process.terminate()
  assert process.wait(10) == errors.RESTART
  assert runs() == 1
