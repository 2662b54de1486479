"""Records: their bytes, their checksums, and what is read of many shards."""

import os
import struct
import threading
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.data.caches import fixed_records


def rows(count, first=0):
  number = np.arange(first, first + count)
  return {
    'a': (number[:, None] + np.array([0.5, -1.0])).astype(np.float16),
    'n': number.astype(np.int32),
    'b': number[:, None].astype(jnp.bfloat16),
  }


def written(folder, count=10, size=4):
  layout = fixed_records.Layout.of(rows(1))
  shards = fixed_records.Shards(folder, 'train', layout, size, count)
  for index in range(len(shards.names)):
    numbers = shards.numbers(index)
    shards.write(index, rows(len(numbers), numbers.start))
  return shards


def test_the_bytes_of_a_record(tmp_path):
  written(tmp_path)
  body = struct.pack('<eeHi', 5.5, 4.0, 0x40A0, 5)  # bfloat16 5.0 is 0x40A0
  want = body + struct.pack('<I', zlib.crc32(body, 5))
  found = (tmp_path / 'train-00001.records').read_bytes()
  assert len(found) == 4 * len(want)
  assert found[len(want) : 2 * len(want)] == want


def test_records_in_any_order(tmp_path):
  shards = written(tmp_path)
  numbers = np.array([9, 0, 4, 3, 9, 5])
  found, want = shards.read(numbers), rows(10)
  assert found.keys() == want.keys()
  for name, array in found.items():
    assert array.dtype == want[name].dtype
    np.testing.assert_array_equal(array, want[name][numbers])
  assert shards.read(np.zeros(0, np.int64))['a'].shape == (0, 2)


def test_a_layout_survives_json():
  layout = fixed_records.Layout.of(rows(1))
  assert fixed_records.Layout.of_json(layout.json()) == layout
  other = {**rows(3), 'n': np.zeros(3, np.int64)}
  with pytest.raises(ValueError, match='must be of'):
    layout.pack(other, 0)


@pytest.mark.parametrize('at', [0, 3, 13])  # a value, the next, the checksum
def test_a_changed_byte_is_noticed(tmp_path, at):
  shards = written(tmp_path)
  file = shards.path(1)
  content = bytearray(file.read_bytes())
  content[2 * shards.layout.size + at] ^= 1
  file.write_bytes(content)
  shards.read(np.array([4, 5, 7]))
  words = r'00001\.records has a wrong CRC-32 in its record 2'
  with pytest.raises(errors.UserError, match=words) as error:
    shards.read(np.array([4, 6]))
  assert error.value.code == errors.DATA
  assert [shards.is_whole(i) for i in range(3)] == [True, False, True]


def test_a_record_in_the_place_of_another_is_noticed(tmp_path):
  shards = written(tmp_path)
  shards.path(0).write_bytes(shards.path(1).read_bytes())
  with pytest.raises(errors.UserError, match='in its record 1'):
    shards.read(np.array([1]))


def test_shards_that_are_short_or_gone(tmp_path):
  shards = written(tmp_path)
  assert list(shards.check().values()) == [56, 56, 28]
  shards.path(2).write_bytes(shards.path(2).read_bytes()[:-1])
  with pytest.raises(errors.UserError, match='00002.* 27 bytes, must have 28'):
    shards.check()
  with pytest.raises(errors.UserError, match='ends at byte 27'):
    shards.read(np.array([9]))
  shards.path(1).unlink()
  with pytest.raises(
    errors.UserError, match='lacks 1 of its 3 shards'
  ) as error:
    shards.check()
  assert error.value.code == errors.MISSING


def test_many_shards_take_few_descriptors(tmp_path):
  before = len(os.listdir('/proc/self/fd'))
  shards = written(tmp_path, count=600, size=2)
  found, most = {}, []

  def read(seed):
    numbers = np.random.default_rng(seed).integers(0, 600, 300)
    found[seed] = numbers, shards.read(numbers)['n']
    most.append(len(os.listdir('/proc/self/fd')))

  threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 4
  for numbers, got in found.values():
    np.testing.assert_array_equal(got, numbers)
  assert max(most) - before < 60
