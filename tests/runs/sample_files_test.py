"""Files of samples are the same whenever their process was killed."""

import errno
import os
import pathlib
import tracemalloc

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import array_parts
from pyramid_jax.runs import lock
from pyramid_jax.runs import sample_files
from tests.helpers import fake_store


COUNT, SIZE = 5, 2


class Killed(BaseException):
  """What a killed process does not catch."""


def batch(first, last, seed=0):
  """Returns images, conditions and scales; captions differ in width."""
  numbers = np.arange(first, last)
  images = np.zeros((last - first, 4, 4, 3), np.uint8)
  images += (numbers + 10 * seed).astype(np.uint8)[:, None, None, None]
  rows = {
    'caption': np.array([b'a' * (number + 1) for number in numbers]),
    'boxes': np.tile(numbers[:, None, None] / 8, (1, 3, 4)),
  }
  return images, rows, [numbers[:, None] * np.float32(0.5)]


def sample(folder, count=COUNT, seed=0, size=SIZE):
  """Does what the command does; returns how many images were there."""
  files = [sample_files.SampleFiles(folder, {'seed': seed}, count)]
  done = sample_files.common(files)
  for first in range(done, count, size):
    if first == done:
      sample_files.start(files, done)
    files[0].add(batch(first, min(first + size, count), seed))
  files[0].finish(lambda images, rows: images.reshape(-1, 4, 3))
  return done


def tree(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def killed_at(patch, number):
  """Ends the process before the n-th change of a name in the folder."""
  changes = iter(range(10_000))

  def limited(function):
    def change(*args, **kwargs):
      if next(changes) == number:
        raise Killed
      return function(*args, **kwargs)

    return change

  patch.setattr(os, 'replace', limited(os.replace))
  patch.setattr(pathlib.Path, 'unlink', limited(pathlib.Path.unlink))


@pytest.mark.parametrize('before', ['nothing', 'all', 'some'])
def test_files_do_not_depend_on_when_it_was_killed(tmp_path, before):
  """Before it there are all or some samples of another, longer request."""
  (tmp_path / 'want').mkdir()
  sample(tmp_path / 'want')
  want, number, gone_on = tree(tmp_path / 'want'), 0, set()
  while True:
    folder = tmp_path / str(number)
    folder.mkdir()
    if before != 'nothing':
      with pytest.MonkeyPatch.context() as patch:
        if before == 'some':
          patch.setattr(sample_files.SampleFiles, 'finish', lambda *args: None)
        sample(folder, count=8, seed=1)
    with pytest.MonkeyPatch.context() as patch:
      killed_at(patch, number)
      try:
        sample(folder)
        break
      except Killed:
        pass
    gone_on.add(sample(folder))
    assert tree(folder) == want, number
    number += 1
  assert tree(folder) == want
  assert number > (10 if before == 'nothing' else 20)
  assert gone_on == {0, 2, 4, 5}


def test_archives_are_those_of_numpy(tmp_path):
  sample(tmp_path)
  images, rows, scales = batch(0, COUNT)
  with np.load(tmp_path / 'samples.npz', allow_pickle=False) as file:
    assert file.files == ['arr_0', 'caption', 'boxes']
    np.testing.assert_array_equal(file['arr_0'], images)
    for name in rows:
      np.testing.assert_array_equal(file[name], rows[name])
      assert file[name].dtype == rows[name].dtype
  with np.load(tmp_path / 'latents.npz') as file:
    np.testing.assert_array_equal(file['latent_0'], scales[0])
  assert not (tmp_path / 'parts').exists()


def test_a_finished_request_is_not_made_again(tmp_path):
  assert [sample(tmp_path), sample(tmp_path)] == [0, COUNT]
  (tmp_path / '000003.png').unlink()
  assert sample(tmp_path) == 0
  assert (tmp_path / '000003.png').is_file()


def test_another_request_replaces_it_after_its_first_images(tmp_path, caplog):
  sample(tmp_path, count=8)
  (tmp_path / 'step_00000006.png').write_bytes(b'of training')
  before = tree(tmp_path)
  files = sample_files.SampleFiles(tmp_path, {'seed': 1}, COUNT)
  assert files.done == 0
  assert tree(tmp_path) == before
  assert sample(tmp_path, seed=1) == 0
  assert 'another request (count: 8 -> 5, seed: 0 -> 1): they' in caplog.text
  pngs = sorted(path.name for path in tmp_path.glob('0*.png'))
  assert pngs == [f'{number:06d}.png' for number in range(COUNT)]
  assert (tmp_path / 'step_00000006.png').is_file()


def test_files_of_no_recorded_request_are_replaced(tmp_path, caplog):
  (tmp_path / '000009.png').write_bytes(b'old')
  (tmp_path / 'request.json').write_text('{"seed": 0, "cou')
  sample(tmp_path)
  assert 'none is recorded' in caplog.text
  assert not (tmp_path / '000009.png').exists()


def test_a_lost_or_damaged_file_is_made_again(tmp_path, caplog):
  files = [sample_files.SampleFiles(tmp_path, {'seed': 0}, COUNT)]
  sample_files.start(files, 0)
  for first in (0, 2):
    files[0].add(batch(first, first + 2))
  (tmp_path / '000000.png').write_bytes(b'')
  part = tmp_path / 'parts' / '00000002_00000004.npz'
  part.write_bytes(part.read_bytes()[:-30])
  assert sample(tmp_path) == 2
  assert 'it is made again' in caplog.text
  assert (tmp_path / '000000.png').stat().st_size > 50


def test_a_cascade_goes_on_where_both_are(tmp_path):
  (tmp_path / 'small').mkdir()
  record = {'seed': 0}
  make = lambda: [
    sample_files.SampleFiles(folder, record, COUNT)
    for folder in (tmp_path / 'small', tmp_path)
  ]
  files = make()
  sample_files.start(files, 0)
  for file in files:
    file.add(batch(0, 2))
  files[0].add(batch(2, 4))
  files = make()
  assert sample_files.common(files) == 2
  sample_files.start(files, 2)
  draw = lambda images, rows: images[0]
  for first, last in ((2, 4), (4, 5)):
    for file in files:
      file.add(batch(first, last))
  files[0].finish(draw)
  assert sample_files.common(make()) == COUNT
  (tmp_path / 'parts' / '00000002_00000004.npz').unlink()
  assert sample_files.common(make()) == 0
  # The same request without an upsampler leaves no folder of small images.
  alone = [sample_files.SampleFiles(tmp_path, {'seed': 1}, COUNT)]
  sample_files.start(alone, 0)
  assert tree(tmp_path / 'small') == {}


def test_a_full_disk_is_one_line_and_goes_on(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, 'No space left on device', str(args[0]))

  with monkeypatch.context() as patch:
    patch.setattr(whole_files.os, 'fsync', full)
    with (
      pytest.raises(errors.UserError, match='No space left') as info,
      errors.writing(tmp_path),
    ):
      sample(tmp_path)
  assert info.value.code == errors.OUTPUT
  assert 'the same command goes on' in str(info.value)
  assert not list(tmp_path.rglob('*.tmp'))
  assert sample(tmp_path) == 0


def test_a_folder_in_use_or_in_the_way_is_refused(tmp_path):
  folder = tmp_path / 'samples'

  def refused(takeover=False):
    with (
      pytest.raises(errors.UserError) as info,
      sample_files.locked([folder], takeover),
    ):
      pass
    assert info.value.code == errors.OUTPUT
    return str(info.value)

  with sample_files.locked([folder], False):
    assert folder.is_dir()
    assert 'is in use by process' in refused()
  assert not folder.exists()
  folder.write_text('')
  assert 'cannot write' in refused()
  with (
    pytest.raises(errors.UserError, match='not there') as info,
    sample_files.locked([tmp_path / 'no' / 'samples'], False),
  ):
    pass
  assert info.value.code == errors.MISSING
  assert not lock._HELD


def test_memory_does_not_grow_with_the_images(tmp_path):
  rows = {'image': np.zeros((8, 64, 64, 3), np.uint8)}
  size = rows['image'].nbytes

  def peak(count):
    parts = array_parts.ArrayParts(tmp_path / str(count))
    tracemalloc.start()
    for _ in range(count):
      parts.add(rows)
    parts.write_npz(tmp_path / 'all.npz', '')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak

  few, many = peak(10), peak(60)
  assert many < few + size  # all of them are 60 such arrays
  with np.load(tmp_path / 'all.npz') as file:
    assert file['image'].shape == (480, 64, 64, 3)


def test_a_part_that_is_damaged_inside_is_named(tmp_path):
  parts = array_parts.ArrayParts(tmp_path)
  parts.add({'x': np.arange(100)})
  path = tmp_path / '00000000_00000100.npz'
  data = bytearray(path.read_bytes())
  data[300] ^= 1
  path.write_bytes(data)
  with pytest.raises(errors.UserError, match='00000100.npz is damaged'):
    parts.write_npz(tmp_path / 'x', '')
  assert not (tmp_path / 'x').exists()


def test_the_same_files_in_a_store_whenever_it_was_killed(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('PYRAMID_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(whole_files, '_SENDERS', 1)
  folder = tmp_path / 'want'
  folder.mkdir()
  sample(folder)
  want = tree(folder)
  start = 'bucket/run/samples/'
  gone_on: set[int] = set()
  for number in range(1000):
    changes = iter(range(1000))

    def kill(what, name, changes=changes, number=number):
      if what in ('write', 'remove') and next(changes) == number:
        raise Killed

    with fake_store.installed() as store:
      remote = stores.path('gs://bucket/run/samples')
      sample(remote, count=COUNT + 2, seed=1)  # of another request
      store.fault = kill
      try:
        sample(remote)
        break
      except Killed:
        store.fault = lambda what, name: None
        gone_on.add(sample(remote))
      found = {k.removeprefix(start): x[0] for k, x in store.objects.items()}
      assert found == want
  assert gone_on == {0, 2, 4, COUNT}


def test_folders_of_samples_are_locked_in_a_store(tmp_path):
  with fake_store.installed() as store:
    folder = stores.path('gs://bucket/run/samples')
    with (
      pytest.raises(errors.UserError, match='gs://bucket/run: not there'),
      sample_files.locked([folder], takeover=False),
    ):
      pass
    stores.put(folder.parent / 'config.json', b'{}')
    with sample_files.locked([folder], takeover=False) as held:
      held.check(now=True)
      assert 'bucket/run/samples/lock/1' in store.objects
