"""Who holds a lock file, and whether that process lives.

An owner holds `flock` on its file. The kernel ends that with the process,
however it ends, so within one machine it decides. Network and FUSE file systems
may keep it within a host or within a mount, or lack it: there an owner is
judged by its number, or, on another host, by its silence.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import time
from typing import Any

from pyramid_jax.files import json_text


# An owner on another host that is silent for so long has lost its lock.
STALE_SECS = 60.0
# File systems that one kernel alone writes, so that its `flock` is for all.
LOCAL = frozenset(
  (
    *('ext2', 'ext3', 'ext4', 'xfs', 'btrfs', 'zfs', 'f2fs', 'bcachefs'),
    *('tmpfs', 'ramfs', 'overlay', 'jfs', 'reiserfs', 'vfat', 'exfat', 'ntfs3'),
  )
)
MOUNTS = pathlib.Path('/proc/self/mounts')
_ENDED = ('Z', 'X', 'x')  # states in /proc
# Answers of file systems without `flock`; EBADF of a file to read only.
_NO_FLOCK = (
  *(errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK),
  *(errno.EBADF, errno.EINVAL),
)
_TRIES, _PAUSE_SECS = 100, 0.01

# The content of a lock file: host, boot, space, pid, start, token, flock.
Owner = dict[str, Any]
NOBODY: Owner = {'token': ''}  # of a file that is not there


def this_process(token: str, has_flock: bool) -> Owner:
  """Returns what a lock file of this process has."""
  return {
    'host': socket.gethostname(),
    'boot': _boot(),
    'space': _space(),
    'pid': os.getpid(),
    'start': _start(os.getpid()),
    'token': token,
    'flock': has_flock,
  }


def hold(handle: int) -> bool:
  """Takes `flock` on a file of one's own; False where there is none.

  Raises:
    OSError: another has it.
  """
  for tries in range(_TRIES):
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    except BlockingIOError:  # somebody is just looking
      if tries == _TRIES - 1:
        raise
      time.sleep(_PAUSE_SECS)
    except OSError as error:
      if error.errno not in _NO_FLOCK:
        raise
      return False
  raise AssertionError


def is_held(handle: int) -> bool:
  """Whether somebody has `flock` on an open file.

  Those who look share it, so that they do not take each other for its owner.
  """
  try:
    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    return False
  fcntl.flock(handle, fcntl.LOCK_UN)
  return False


@contextlib.contextmanager
def opened(file: pathlib.Path) -> Iterator[int | None]:
  """Opens a file to look at it; None if it is not there."""
  try:
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
  except FileNotFoundError:
    yield None
    return
  try:
    yield handle
  finally:
    os.close(handle)


def read(handle: int) -> Owner:
  """Returns the owner that an open file names.

  A file that is empty or half written has an owner without a name, whose token
  is the file's identity.
  """
  stat, owner = os.fstat(handle), None
  with contextlib.suppress(ValueError):
    owner = json_text.loads(os.pread(handle, 1 << 16, 0), 'a lock')
  if isinstance(owner, dict) and _is_name(owner.get('token')):
    return owner
  return {'token': f'{stat.st_ino:x}-{stat.st_mtime_ns:x}'}


def is_alive(
  handle: int, owner: Owner, age: float, is_local: bool, is_ours: bool
) -> bool:
  """Whether the owner of an open lock file lives.

  Args:
    handle: the file.
    owner: what it names.
    age: seconds since it was touched, on the file system's clock.
    is_local: whether the file system belongs to this machine.
    is_ours: whether this process has a lock of that token.
  """
  if is_held(handle):
    return True
  if is_local and owner.get('flock') is True:
    return False
  lives = process_lives(owner, is_ours)
  return age < STALE_SECS if lives is None else lives


def process_lives(owner: Owner, is_ours: bool) -> bool | None:
  """Whether the process of an owner lives; None if it is not on this machine.

  `is_ours` says whether this process has a lock of its token.
  """
  pid, boot = owner.get('pid'), owner.get('boot', _boot())
  is_here = (
    owner.get('host') == socket.gethostname()
    and boot == _boot()
    and owner.get('space', _space()) == _space()
  )
  if not is_here or not isinstance(pid, int):
    return None
  try:
    os.kill(pid, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass  # it is alive, and another user's
  start = _start(pid)
  if start in _ENDED or (start and owner.get('start', start) != start):
    return False
  # A container that restarts gives its processes the same numbers again.
  return pid != os.getpid() or is_ours


def is_local(folder: pathlib.Path) -> bool:
  """Whether a folder is on a file system that this kernel alone writes."""
  try:
    mounts = MOUNTS.read_bytes().splitlines()
  except OSError:
    return False
  path = os.fsencode(os.path.realpath(folder))
  kind, longest = b'', -1
  for mount in mounts:
    point = mount.split(b' ')[1].decode('unicode_escape').encode('latin-1')
    inside = point.rstrip(b'/') + b'/'
    # Of two at one place, the later one covers the other.
    if (path + b'/').startswith(inside) and len(inside) >= longest:
      kind, longest = mount.split(b' ')[2], len(inside)
  return os.fsdecode(kind) in LOCAL


def _boot() -> str | None:
  """Returns the id of the boot, by which machines of one name differ."""
  with contextlib.suppress(OSError):
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  return None


def _space() -> str | None:
  """Returns the name space of the processes' numbers, that of a container."""
  with contextlib.suppress(OSError):
    return os.readlink('/proc/self/ns/pid')
  return None


def _start(pid: int) -> str | None:
  """Returns when a process began, by which two of one number differ.

  Of one that has ended and that its parent has not noticed, one of `_ENDED`.
  """
  with contextlib.suppress(OSError, IndexError):
    text = pathlib.Path(f'/proc/{pid}/stat').read_text(errors='replace')
    state, *rest = text.rpartition(')')[2].split()
    return state if state in _ENDED else rest[18]
  return None


def _is_name(token: object) -> bool:
  return isinstance(token, str) and token.isalnum() and len(token) < 100
