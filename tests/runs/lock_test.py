import json
import os
import socket
import subprocess
import sys
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import lock


def write(folder, pid, host=None, age=0.0):
  file = folder / lock.NAME
  owner = {'host': host or socket.gethostname(), 'pid': pid, 'token': 'other'}
  file.write_text(json.dumps(owner))
  then = time.time() - age
  os.utime(file, (then, then))


@pytest.fixture
def other():
  """The number of a live process that is not this one."""
  with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1) as process:
    yield process.pid
    process.kill()


def test_taken_and_given_back(tmp_path):
  with lock.Lock(tmp_path):
    owner = json.loads((tmp_path / lock.NAME).read_text())
    assert owner['pid'] == os.getpid()
  assert list(tmp_path.iterdir()) == []


def test_second_owner_is_refused(tmp_path):
  with (
    lock.Lock(tmp_path),
    pytest.raises(errors.UserError, match=f'process {os.getpid()} ') as info,
    lock.Lock(tmp_path),
  ):
    pass
  assert info.value.code == errors.OUTPUT
  assert not (tmp_path / lock.NAME).exists()


def test_a_live_process_keeps_its_lock(tmp_path, other):
  write(tmp_path, other)
  with pytest.raises(errors.UserError, match='takeover'), lock.Lock(tmp_path):
    pass
  with lock.Lock(tmp_path, takeover=True):
    pass


def test_a_silent_owner_loses_it(tmp_path, other):
  write(tmp_path, other, age=lock.STALE_SECS + 1)
  with lock.Lock(tmp_path):
    pass


def test_a_dead_owner_loses_it(tmp_path):
  process = subprocess.Popen([sys.executable, '-c', ''])
  process.wait()
  write(tmp_path, process.pid)
  with lock.Lock(tmp_path):
    pass


def test_the_same_number_in_a_restarted_container(tmp_path):
  write(tmp_path, os.getpid())
  with lock.Lock(tmp_path):
    pass


def test_another_host_is_believed_alive(tmp_path):
  write(tmp_path, 1, host='elsewhere', age=lock.STALE_SECS - 20)
  with pytest.raises(errors.UserError, match='elsewhere'), lock.Lock(tmp_path):
    pass


def test_heartbeat(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'HEARTBEAT_SECS', 0.02)
  with lock.Lock(tmp_path):
    file = tmp_path / lock.NAME
    os.utime(file, (0, 0))
    end = time.monotonic() + 10
    while file.stat().st_mtime == 0 and time.monotonic() < end:
      time.sleep(0.01)
    assert file.stat().st_mtime > 0


def test_a_lock_that_was_taken_over_is_left_to_its_owner(tmp_path):
  with lock.Lock(tmp_path):
    write(tmp_path, 1, host='elsewhere')
  assert (tmp_path / lock.NAME).exists()


def test_no_such_folder(tmp_path):
  with pytest.raises(errors.UserError) as info, lock.Lock(tmp_path / 'none'):
    pass
  assert info.value.code == errors.OUTPUT
