"""The folders of steps."""

import threading
import time

from pyramid_jax.runs import step_folders


def test_what_is_written_meanwhile_is_removed_too(tmp_path):
  """As threads of a store write, which make their folder where it is gone."""
  folder = tmp_path / '7.orbax-checkpoint-tmp' / 'state'
  begun = threading.Event()

  def write():
    for number in range(8):
      folder.mkdir(parents=True, exist_ok=True)
      (folder / str(number)).write_bytes(b'late')
      begun.set()
      time.sleep(0.03)

  thread = threading.Thread(target=write)
  thread.start()
  begun.wait()
  step_folders.remove_written(folder.parent)
  thread.join()
  assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_no_matter(tmp_path):
  step_folders.remove_written(tmp_path / 'none')
