import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pyramid_jax import errors
from pyramid_jax.runs import lock
from pyramid_jax.runs import lock_owner


def write(folder, pid, host=None, age=0.0, name=lock.NAME, **more):
  file = folder / name
  owner = {'host': host or socket.gethostname(), 'pid': pid, 'token': 'other'}
  file.write_text(json.dumps(owner | more))
  then = time.time() - age
  os.utime(file, (then, then))


def token_of(folder):
  return json.loads((folder / lock.NAME).read_text())['token']


def is_taken(folder, **options):
  """Whether a lock can be taken, and is named, from what is there."""
  was, code = token_of(folder), errors.OK
  try:
    with lock.Lock(folder, **options):
      assert token_of(folder) != was
      assert json.loads((folder / lock.NAME).read_text())['pid'] == os.getpid()
  except errors.UserError as error:
    code = error.code
  if code == errors.OK:
    assert list(folder.iterdir()) == []
    return True
  assert code == errors.OUTPUT
  assert token_of(folder) == was
  return False


@pytest.fixture
def other():
  """The number of a live process that is not this one."""
  with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1) as process:
    yield process.pid
    process.kill()


@pytest.fixture
def dead():
  """The number of a process that has ended."""
  process = subprocess.Popen([sys.executable, '-c', ''])
  process.wait()
  return process.pid


def test_taken_and_given_back(tmp_path):
  with lock.Lock(tmp_path) as held:
    owner = json.loads((tmp_path / lock.NAME).read_text())
    assert owner['pid'] == os.getpid()
    assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]
    held.check()
  assert list(tmp_path.iterdir()) == []


def test_second_owner_is_refused(tmp_path):
  with lock.Lock(tmp_path):
    first = token_of(tmp_path)
    with (
      pytest.raises(errors.UserError, match=f'process {os.getpid()} ') as info,
      lock.Lock(tmp_path),
    ):
      pass
    assert info.value.code == errors.OUTPUT
    assert token_of(tmp_path) == first
    assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]
  assert list(tmp_path.iterdir()) == []


def test_a_live_process_keeps_its_lock(tmp_path, other):
  write(tmp_path, other)
  with pytest.raises(errors.UserError, match='takeover'), lock.Lock(tmp_path):
    pass
  assert token_of(tmp_path) == 'other'
  assert is_taken(tmp_path, takeover=True)


@pytest.mark.parametrize('age', [lock_owner.STALE_SECS + 1, 10**8, -(10**8)])
def test_a_live_process_here_keeps_it_whatever_the_clock_says(
  tmp_path, other, age
):
  write(tmp_path, other, age=age)
  assert not is_taken(tmp_path)


def test_a_silent_owner_elsewhere_loses_it(tmp_path):
  write(tmp_path, 1, host='elsewhere', age=lock_owner.STALE_SECS + 5)
  assert is_taken(tmp_path)


@pytest.mark.parametrize('age', [0, -(10**8)])
def test_a_dead_owner_loses_it(tmp_path, dead, age):
  write(tmp_path, dead, age=age)
  assert is_taken(tmp_path)


def test_the_same_number_in_a_restarted_container(tmp_path):
  write(tmp_path, os.getpid())
  assert is_taken(tmp_path)


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='needs /proc')
def test_another_process_that_got_the_number(tmp_path, other):
  write(tmp_path, other, start='1')
  assert is_taken(tmp_path)


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='needs /proc')
def test_a_machine_of_the_same_name_is_another(tmp_path, dead):
  write(tmp_path, dead, boot='another')
  assert not is_taken(tmp_path)
  write(tmp_path, dead, boot='another', age=lock_owner.STALE_SECS + 5)
  assert is_taken(tmp_path)


def test_another_host_is_believed_alive(tmp_path):
  write(tmp_path, 1, host='elsewhere', age=lock_owner.STALE_SECS - 20)
  with pytest.raises(errors.UserError, match='elsewhere'), lock.Lock(tmp_path):
    pass
  assert token_of(tmp_path) == 'other'


@pytest.mark.parametrize('skew', [-3600, 3600])
def test_silence_is_measured_by_the_file_system(tmp_path, monkeypatch, skew):
  now = time.time()
  monkeypatch.setattr(time, 'time', lambda: now + skew)  # this host's clock
  for age, stale in ((lock_owner.STALE_SECS - 20, False), (99, True)):
    write(tmp_path, 1, host='elsewhere')
    os.utime(tmp_path / lock.NAME, (now - age, now - age))
    assert is_taken(tmp_path) == stale


@pytest.mark.parametrize('text', ['', '{"host": "some', '[]', '{"token": "/"}'])
def test_a_file_that_names_nobody(tmp_path, text):
  file = tmp_path / lock.NAME
  file.write_text(text)  # just now: somebody may hold it
  with pytest.raises(errors.UserError, match='in use'), lock.Lock(tmp_path):
    pass
  assert file.read_text() == text
  os.utime(file, (0, 0))
  with lock.Lock(tmp_path):
    assert json.loads(file.read_text())['pid'] == os.getpid()
  assert list(tmp_path.iterdir()) == []


def test_heartbeat(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'HEARTBEAT_SECS', 0.02)
  with lock.Lock(tmp_path):
    file = tmp_path / lock.NAME
    os.utime(file, (0, 0))
    end = time.monotonic() + 10
    while file.stat().st_mtime == 0 and time.monotonic() < end:
      time.sleep(0.01)
    assert file.stat().st_mtime > 0


def lost(held):
  end = time.monotonic() + 10
  while not held._lost and time.monotonic() < end:
    time.sleep(0.01)
  with pytest.raises(errors.UserError) as info:
    held.check()
  assert info.value.code == errors.OUTPUT
  return str(info.value)


def test_the_owner_notices_that_the_lock_is_another_s(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'HEARTBEAT_SECS', 0.02)
  with lock.Lock(tmp_path) as held:
    held.check()
    write(tmp_path, 7, host='elsewhere', age=30)
    file = tmp_path / lock.NAME
    assert 'taken over by process 7 on elsewhere' in lost(held)
    assert time.time() - file.stat().st_mtime > 20  # it is not kept fresh
  assert token_of(tmp_path) == 'other'


def test_the_owner_notices_that_the_lock_is_gone(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'HEARTBEAT_SECS', 0.02)
  with lock.Lock(tmp_path) as held:
    (tmp_path / lock.NAME).unlink()
    assert 'removed' in lost(held)


def test_a_process_that_slept_looks_before_it_goes_on(tmp_path, monkeypatch):
  with lock.Lock(tmp_path) as held:
    write(tmp_path, 7, host='elsewhere')
    held.check()  # between two heartbeats
    later = time.monotonic() + 1000
    monkeypatch.setattr(time, 'monotonic', lambda: later)
    with pytest.raises(errors.UserError, match='taken over by process 7'):
      held.check()


def test_a_lock_that_was_taken_over_is_left_to_its_owner(tmp_path):
  with lock.Lock(tmp_path):
    write(tmp_path, 1, host='elsewhere')
  assert token_of(tmp_path) == 'other'


def test_no_such_folder(tmp_path):
  with pytest.raises(errors.UserError) as info, lock.Lock(tmp_path / 'none'):
    pass
  assert info.value.code == errors.OUTPUT


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
  def full(handle, data):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(lock, '_write', full)
    with pytest.raises(errors.UserError, match='No space left') as info:
      lock.Lock(tmp_path).__enter__()
  assert info.value.code == errors.OUTPUT
  assert list(tmp_path.iterdir()) == []
  with lock.Lock(tmp_path):
    assert token_of(tmp_path)


def test_file_systems_without_links(tmp_path, monkeypatch, dead):
  def link(source, target):
    raise PermissionError(errno.EPERM, 'Operation not permitted')

  monkeypatch.setattr(os, 'link', link)
  with lock.Lock(tmp_path):
    first = token_of(tmp_path)
    with pytest.raises(errors.UserError, match='in use'), lock.Lock(tmp_path):
      pass
    assert token_of(tmp_path) == first
  assert list(tmp_path.iterdir()) == []
  write(tmp_path, dead)
  assert is_taken(tmp_path)


def test_a_repeated_request_of_a_network_file_system(tmp_path, monkeypatch):
  real = os.link

  def link(source, target):  # the answer to the first one was lost
    real(source, target)
    raise FileExistsError(errno.EEXIST, 'File exists')

  monkeypatch.setattr(os, 'link', link)
  with lock.Lock(tmp_path):
    assert json.loads((tmp_path / lock.NAME).read_text())['pid'] == os.getpid()
  assert list(tmp_path.iterdir()) == []


def test_a_claim_of_one_that_died_is_claimed_in_turn(
  tmp_path, dead, other, monkeypatch
):
  monkeypatch.setattr(lock, 'PATIENCE_SECS', 0.1)
  write(tmp_path, dead)
  claim = f'{lock.NAME}.other.next'
  write(tmp_path, other, name=claim, token='living')
  with pytest.raises(errors.UserError, match='just now'), lock.Lock(tmp_path):
    pass
  assert token_of(tmp_path) == 'other'
  write(tmp_path, dead, name=claim, token='died')
  assert is_taken(tmp_path)


def test_an_owner_that_died_as_it_gave_the_lock_back(tmp_path, dead):
  write(tmp_path, dead)
  write(tmp_path, dead, name=f'{lock.NAME}.other.next')
  assert is_taken(tmp_path)


def test_a_claim_that_was_made_anew_meanwhile_counts(
  tmp_path, dead, other, monkeypatch
):
  write(tmp_path, dead)
  claim = f'{lock.NAME}.other.next'
  write(tmp_path, dead, name=claim, token='died')
  real = os.link

  def link(source, target):  # the claim of the dead is gone, one alive is there
    if 'died' in os.fspath(target):
      write(tmp_path, other, name=claim, token='living')
    real(source, target)

  monkeypatch.setattr(os, 'link', link)
  monkeypatch.setattr(lock, 'PATIENCE_SECS', 0.1)
  with pytest.raises(errors.UserError, match='just now'), lock.Lock(tmp_path):
    pass
  assert token_of(tmp_path) == 'other'


def test_what_killed_processes_left_is_removed(tmp_path, dead, other):
  token = 'feedfeedfeedfeed'
  write(tmp_path, dead, name=f'lock.{token}', token=token)
  write(tmp_path, other, name=f'lock.{token[::-1]}', token=token[::-1])
  with lock.Lock(tmp_path):
    assert not (tmp_path / f'lock.{token}').exists()
    assert (tmp_path / f'lock.{token[::-1]}').exists()  # its process is alive


def test_two_threads(tmp_path):
  with lock.Lock(tmp_path):
    results = []

    def take():
      try:
        lock.Lock(tmp_path).__enter__()
      except errors.UserError as error:
        results.append(error.code)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert results == [errors.OUTPUT]


def test_processes_that_leave_the_lock_to_another(tmp_path):
  with lock.Lock(tmp_path, is_owner=False) as held:
    assert list(tmp_path.iterdir()) == []
    held.check(now=True)


def test_a_forked_child_has_no_part_in_it(tmp_path):
  told, tell = os.pipe()
  with lock.Lock(tmp_path) as held:
    pid = os.fork()
    if not pid:
      with contextlib.suppress(BaseException):
        with pytest.raises(errors.UserError, match='parent'):
          held.check()
        held.__exit__()
        os.write(tell, b'1')
      signal.pause()
    try:
      assert os.read(told, 1) == b'1'
      held.check(now=True)
    except BaseException:
      os.kill(pid, signal.SIGKILL)
      raise
  try:
    with lock.Lock(tmp_path) as held:  # although the child lives
      held.check(now=True)
  finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_program_that_was_started_does_not_keep_it(tmp_path):
  with lock.Lock(tmp_path):
    child = subprocess.Popen(['sleep', '60'], close_fds=False)
  with child, lock.Lock(tmp_path):
    child.kill()
