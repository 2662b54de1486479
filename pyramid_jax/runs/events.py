"""TensorBoard events of a run, written in the thread that has them.

The writer of tensorboardX has a thread of its own: when that cannot write, it
dies, and whoever adds more events waits for it for ever. So only its messages
are used here, not its files.

In a store, where a file that grew is sent anew, they are several files of a
limited size.
"""

from collections.abc import Mapping
import os
import secrets
import socket
import struct
import time
from typing import Any

import numpy as np

from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import grown_file


_OBJECT_BYTES = 8 << 20  # of a file in a store


class EventFile:
  """A new file of events in a folder, which is made if it is not there."""

  def __init__(self, folder: stores.Path, first_step: int):
    """Opens the file.

    Args:
      folder: of all events of the run.
      first_step: updates that are finished; events of later ones, left from an
        interrupted run, are not shown.

    Raises:
      UserError: it cannot be written.
    """
    from tensorboardX import summary  # slow to import
    from tensorboardX.proto import event_pb2

    self._summary = summary
    self._event = event_pb2.Event
    whole_files.make_folder(folder)
    self._folder = folder
    self._file = self._next()
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write({'step': first_step + 1, 'session_log': start})

  def _next(self) -> grown_file.Grown:
    """Opens a file; TensorBoard reads them in the order of their names."""
    name = f'events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}'
    unique = f'{os.getpid()}.{secrets.token_hex(4)}'
    file = grown_file.opened(self._folder / f'{name}.{unique}', is_new=True)
    file.add(self._records({'file_version': 'brain.Event:2'}))
    return file

  def add(
    self,
    step: int,
    scalars: Mapping[str, float] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """Writes scalars, and (H, W, 3) uint8 images, of a step.

    Raises:
      UserError: they cannot be written.
    """
    found = [self._summary.scalar(*pair) for pair in (scalars or {}).items()]
    for name, image in (images or {}).items():
      found.append(self._summary.image(name, image, dataformats='HWC'))
    self._write(*({'step': step, 'summary': one} for one in found))

  def _write(self, *events: Mapping[str, Any]) -> None:
    file = self._file
    if stores.is_remote(self._folder) and file.size > _OBJECT_BYTES:
      file.close()
      self._file = file = self._next()
    file.add(self._records(*events))

  def _records(self, *events: Mapping[str, Any]) -> bytes:
    now = time.time()
    messages = (self._event(wall_time=now, **event) for event in events)
    return b''.join(_record(x.SerializeToString()) for x in messages)

  def flush(self) -> None:
    """Sends what a store does not have yet; UserError if that fails."""
    self._file.flush()

  def close(self) -> None:
    """Closes the file; one that cannot be written is a UserError."""
    self._file.close()


def _record(data: bytes) -> bytes:
  """Returns a record of the format TFRecord: sizes, checksums, data."""
  from tensorboardX import record_writer

  size = struct.pack('<Q', len(data))
  checksum = lambda x: struct.pack('<I', record_writer.masked_crc32c(x))
  return size + checksum(size) + data + checksum(data)
