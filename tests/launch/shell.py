"""Programs that stand for others on PATH, and scripts that are run with them.

A fake writes a line with its name and arguments into `calls`, then does what
its script says.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys


ROOT = pathlib.Path(__file__).resolve().parents[2]
# The exit codes of the library, and those of a shell for deaths by signals.
CODES = (0, 64, 65, 66, 70, 73, 75, 76, 130, 134, 137, 143)
# Codes after which the same command is started again.
RESTARTED = (75, 130, 134, 137, 143)


class Fakes:
  """A folder with programs, and the record of how they were called."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.bin = folder / 'bin'
    self.bin.mkdir(parents=True)
    self.record = folder / 'calls'
    self.record.touch()

  def add(self, name: str, script: str = '') -> None:
    """Adds a program: `script` is bash, with its own state in $STATE."""
    file = self.bin / name
    file.write_text(
      '#!/usr/bin/env bash\n'
      f'STATE={shlex.quote(str(self.folder))}\n'
      f'source {ROOT}/launch/restarts.sh\n'
      f'quoted {name} "$@" >> "$STATE/calls"\n'
      f'{script}\n'
    )
    file.chmod(0o755)

  def calls(self, *names: str) -> list[str]:
    """Returns the calls so far, of some programs or of all of them."""
    lines = self.record.read_text().splitlines()
    return [x for x in lines if not names or x.split(' ')[0] in names]

  def start_program(self, *command: str, **variables: str) -> subprocess.Popen:
    """Starts a program with the fakes first on PATH."""
    environment = {
      'PATH': f'{self.bin}:{os.environ["PATH"]}',
      'PAUSE_SECS': '0',
      'PLAN_SECS': '0',
      'RESTARTS': '3',
    }
    return subprocess.Popen(
      command,
      env=os.environ | environment | variables,
      cwd=self.folder,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def run_program(
    self, *command: str, **variables: str
  ) -> tuple[int, str, str]:
    """Runs a program; returns its code, what it printed, and its errors."""
    process = self.start_program(*command, **variables)
    try:
      out, err = process.communicate(timeout=120)
    finally:
      kill_all(process)
    return process.returncode, out, err

  def start(
    self, script: str, *arguments: str, **variables: str
  ) -> subprocess.Popen:
    """Starts a script of launch/ with the fakes first on PATH."""
    return self.start_program(*_script(script), *arguments, **variables)

  def run(
    self, script: str, *arguments: str, **variables: str
  ) -> tuple[int, str, str]:
    """Runs a script of launch/, see `run_program`."""
    return self.run_program(*_script(script), *arguments, **variables)


def _script(name: str) -> tuple[str, str]:
  return 'bash', str(ROOT / 'launch' / name)


def kill_all(process: subprocess.Popen) -> None:
  """Ends a script with all that it started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait(30)


def in_turn(*codes: int) -> str:
  """Returns bash that ends with the codes in turn, the last for ever."""
  return (
    'n=$(cat "$STATE/turn" 2>/dev/null || echo 0)\n'
    'echo $((n + 1)) > "$STATE/turn"\n'
    f'codes=({" ".join(map(str, codes))})\n'
    f'exit "${{codes[n < {len(codes) - 1} ? n : {len(codes) - 1}]}}"\n'
  )


# A program that says `ready`, and on a signal writes it down and ends with 75.
WAITS = (
  sys.executable,
  '-c',
  'import pathlib, signal, sys, time\n'
  'def seen(number, frame):\n'
  '  print("signal", number, flush=True)\n'
  '  sys.exit(75)\n'
  'signal.signal(signal.SIGTERM, seen)\n'
  'signal.signal(signal.SIGINT, seen)\n'
  'print("ready", flush=True)\n'
  'time.sleep(60)\n',
)
