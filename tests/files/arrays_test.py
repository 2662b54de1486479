"""Arrays of an .npz, whoever made it."""

import errno
import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from pyramid_jax import limits
from pyramid_jax.files import arrays
from pyramid_jax.files import zips


RNG = np.random.default_rng(0)
ARRAYS = {
  'images': RNG.integers(0, 256, (50, 3, 4), dtype=np.uint8),
  'captions': np.array([b'a', b'three', b'']),
  'names': np.array(['a', 'Zürich']),
  'boxes': RNG.normal(size=(50, 0, 4)),
  'turned': np.asfortranarray(RNG.normal(size=(50, 3, 2))),
  'one': np.float32(3),
  'text': np.array('äb'),
  'big': np.arange(5, dtype='>i4'),
}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
  path = tmp_path / 'x.npz'
  save(path, **ARRAYS)
  found = arrays.load(path)
  assert found.keys() == ARRAYS.keys()
  for name, array in found.items():
    assert array.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(array, ARRAYS[name])
    assert array.flags.writeable
  save(path)
  assert arrays.load(path) == {}


def test_one_array_is_read_without_the_others(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.arange(3), b=np.arange(4))
  raw = path.read_bytes()
  place = raw.rindex(np.arange(4).tobytes())
  path.write_bytes(raw[:place] + b'\1' + raw[place + 1 :])
  with arrays.opened(path) as archive:
    assert set(archive) == {'a', 'b'}
    assert 'c' not in archive
    with pytest.raises(KeyError):
      archive['c']
    np.testing.assert_array_equal(archive['a'], np.arange(3))
    with pytest.raises(ValueError, match='Bad CRC-32'):
      archive['b']


def test_where_the_numbers_are(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.arange(3), b=np.arange(4))
  with arrays.opened(path) as archive, archive.member('b') as (header, stream):
    assert (header.shape, header.dtype) == ((4,), np.int64)
    assert stream.read() == np.arange(4).tobytes()
  place = slice(header.place, header.place + 32)
  assert path.read_bytes()[place] == np.arange(4).tobytes()
  np.savez_compressed(path, a=np.arange(3))
  with arrays.opened(path) as archive, archive.member('a') as (header, _):
    assert header.place is None


def test_contents_change_with_the_numbers(tmp_path):
  for number in (1, 2):
    np.savez(tmp_path / f'{number}.npz', a=np.arange(number))
  one, two = (arrays.contents(tmp_path / f'{n}.npz') for n in (1, 2))
  assert one != two
  assert one.keys() == {'a'}


def npz(path, members, method=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', method) as archive:
    for name, content in members:
      archive.writestr(name, content)
  return path


def npy(header, data=b'', version=b'\1\0'):
  text = header.encode()
  size = struct.pack('<H' if version == b'\1\0' else '<I', len(text))
  return b'\x93NUMPY' + version + size + text + data


def header(shape='(3,)', descr="'|u1'", order='False'):
  return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def saved(array):
  stream = io.BytesIO()
  np.save(stream, array)
  return stream.getvalue()


# content of the member -> what the error says
BAD_ARRAYS = {
  'raw bytes': (b'raw bytes', 'no array'),
  'empty': (b'', 'no array'),
  'version 3': (npy(header(), b'abc', b'\3\0'), 'no array'),
  'cut in the length': (b'\x93NUMPY\1\0\1', 'requires a buffer of 2 bytes'),
  'no header': (npy('{'), 'Cannot parse header|damaged'),
  'deep header': (npy('(' * 5000), 'nested|memory|damaged'),
  'deep dictionary': (npy("{'a': " + '[' * 4000), 'damaged|memory'),
  'odd token': (npy('{"""'), 'damaged|Cannot'),
  'long header': (npy(' ' * 20_000), 'header of 20000 bytes; limit: 10000'),
  'longer header': (
    b'\x93NUMPY\2\0' + struct.pack('<I', 1 << 31),
    'header of 2147483648 bytes',
  ),
  'code': (npy(header(descr='print(1)')), 'malformed|damaged'),
  'objects': (npy(header(descr="'|O'"), b'abc'), 'Python objects'),
  'real objects': (
    b'\x93NUMPY\1\0' + b'\x76\0' + header(descr="'O'").encode().ljust(0x76),
    'Python objects',
  ),
  'hidden objects': (
    npy(header(descr="[('a', '|O')]"), b'abc'),
    'Python objects',
  ),
  'records': (npy(header(descr="[('a', '<f4')]"), b'abc'), 'is of type'),
  'huge item': (npy(header(descr="'|V2000000000'")), 'is of type'),
  'huge text': (npy(header(descr="'<U500000000'")), 'needs 6000000000 bytes'),
  'no bytes an item': (npy(header(f'({10**15},)', "'|S0'")), 'is of type'),
  'dates': (npy(header(descr="'<M8[s]'"), bytes(24)), 'is of type'),
  'no type': (npy(header(descr="'zz'"), b'abc'), 'descr|damaged'),
  '10 TB': (npy(header('(10, 1000000000000)'), b'abc'), 'needs 10000000000000'),
  '2**70': (npy(header(f'({1 << 70},)'), b'abc'), 'bytes, the archive has 3'),
  '4000 digits': (npy(header(f'({10**4000},)'), b'abc'), '.'),
  '5000 digits': (npy(header('(1' + '0' * 5000 + ',)'), b'abc'), '.'),
  'negative': (npy(header('(-3, -1)'), b'abc'), 'has the shape'),
  '40 axes': (npy(header('(' + '1, ' * 40 + ')'), b'a'), 'has the shape'),
  'nothing of much': (npy(header(f'(0, {1 << 70})')), '.'),
  'no tuple': (npy(header('3'), b'abc'), 'shape is not valid'),
  'too few': (npy(header(), b'ab'), 'needs 3 bytes, the archive has 2'),
  'too many': (npy(header(), b'abcd'), 'needs 3 bytes, the archive has 4'),
}


def refused(path, match):
  """Says that a file costs no memory, and returns the line of its error."""
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match=match) as info:
      arrays.load(path)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
  finally:
    tracemalloc.stop()
  text = str(info.value)
  assert text
  assert '\n' not in text
  assert len(text) < 400
  assert 'pickle' not in text
  return text


@pytest.mark.parametrize('name', BAD_ARRAYS)
@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_that_is_none(tmp_path, name, method):
  content, match = BAD_ARRAYS[name]
  refused(npz(tmp_path / 'x.npz', [('a.npy', content)], method), match)


def test_members_that_are_none(tmp_path):
  path = tmp_path / 'x.npz'
  whole = saved(np.arange(3))
  refused(npz(path, [('a', whole)]), "'a' is no array")
  refused(npz(path, [('a.npy', whole), ('b.txt', b'text')]), "'b.txt' is no")
  refused(npz(path, [('a' * 600 + '.npy', whole)]), "a' is no array")
  with pytest.warns(UserWarning, match='Duplicate name'):
    npz(path, [('a.npy', whole), ('a.npy', whole)])
  refused(path, 'two members have one name')
  for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
    npz(path, [('a.npy', whole)], method)
    refused(path, f'by method {method}; read are deflated')


def test_files_that_are_none(tmp_path):
  path = tmp_path / 'x.npz'
  np.save(path.with_suffix('.npy'), np.arange(3))
  path.with_suffix('.npy').rename(path)
  refused(path, r'a single array \(.npy\); needed is an .npz')
  for content in (b'', b'P', b'not an archive', b'PK\3\4', b'PK\5\6' * 30):
    path.write_bytes(content)
    refused(path, 'not an .npz|damaged')
  with pytest.raises(FileNotFoundError):
    arrays.load(tmp_path / 'y.npz')
  refused(tmp_path, 'a folder, must be a file')
  os.mkfifo(tmp_path / 'pipe')
  refused(tmp_path / 'pipe', 'a pipe, must be a file')


def test_storage_that_fails_is_no_damage(tmp_path, monkeypatch):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.arange(3))

  def fails(*_):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(zips._Bounded, 'read', fails)
  with pytest.raises(OSError, match='Input/output error'):
    arrays.load(path)


def patched(path, place, kind, *values):
  """Writes numbers at a place of the directory's only entry."""
  raw = bytearray(path.read_bytes())
  struct.pack_into(kind, raw, raw.rindex(b'PK\1\2') + place, *values)
  path.write_bytes(raw)
  return path


def test_a_directory_that_lies(tmp_path):
  def fresh(save=np.savez):
    save(tmp_path / 'x.npz', a=np.zeros(1000))
    return tmp_path / 'x.npz'

  refused(patched(fresh(), 6, '<H', 99), 'zip file version 9.9')
  refused(patched(fresh(), 8, '<H', 1), 'is encrypted')
  refused(patched(fresh(), 8, '<H', 1 << 5), 'compressed patched data')
  refused(patched(fresh(), 8, '<H', 1 << 6), 'strong encryption')
  refused(patched(fresh(), 10, '<H', 93), 'by method 93')
  refused(patched(fresh(), 16, '<I', 7), 'Bad CRC-32')
  huge = 0xFFFFFFF0
  refused(patched(fresh(), 20, '<II', huge, huge), 'larger than the file')
  packed = fresh(np.savez_compressed)
  refused(patched(packed, 24, '<I', huge), 'that unpack to 4294967280; limit')
  refused(patched(fresh(), 42, '<I', huge), '.')


def test_members_that_overlap(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.zeros(1000))
  raw = path.read_bytes()
  start = raw.rindex(b'PK\1\2')
  end = raw.rindex(b'PK\5\6')
  entries = b''.join(
    raw[start:end].replace(b'a.npy', b'%c.npy' % c) for c in b'abcdefgh'
  )
  tail = bytearray(raw[end:])
  struct.pack_into('<HHI', tail, 8, 8, 8, len(entries))
  path.write_bytes(raw[:start] + entries + tail)
  refused(path, 'the members are larger than the file')


def test_a_directory_that_lacks_members(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.arange(3), b=np.arange(4))
  raw = bytearray(path.read_bytes())
  end = raw.rindex(b'PK\5\6')
  first, last = raw.index(b'PK\1\2'), raw.rindex(b'PK\1\2')
  # the directory begins at its second entry: the library finds nothing wrong
  struct.pack_into('<II', raw, end + 12, end - last, last)
  path.write_bytes(raw)
  assert first < last
  with zipfile.ZipFile(path) as archive:
    assert archive.namelist() == ['b.npy']
  refused(path, 'the directory lacks members')
  path.write_bytes(bytes(raw[:end]) + b'PK\5\6' + bytes(18))
  refused(path, 'the directory lacks members')


def test_limits(tmp_path, monkeypatch):
  path = tmp_path / 'x.npz'
  np.savez_compressed(path, x=np.zeros(100_000))
  monkeypatch.setattr(limits, 'INFLATED_BYTES', 10_000)
  refused(path, 'bytes that unpack to 800128; limit: 1')
  np.savez(path, x=np.zeros(100_000), y=np.zeros(100_000))
  arrays.load(path)
  monkeypatch.setattr(limits, 'ARRAYS_BYTES', 1_000_000)
  refused(path, "'y' makes it more than 1000000 bytes in memory")
  monkeypatch.setattr(limits, 'ARRAYS', 1)
  refused(path, '2 members; limit: 1')
  monkeypatch.setattr(limits, 'ZIP_DIRECTORY_BYTES', 100)
  refused(path, 'a directory of 102 bytes; limit: 100')


def test_a_bomb_is_refused_unread(tmp_path, monkeypatch):
  monkeypatch.setattr(limits, 'INFLATED_BYTES', 32 << 20)
  whole = npy(header(f'({64 << 20},)'), bytes(64 << 20))
  npz(tmp_path / 'x.npz', [('a.npy', whole)], zipfile.ZIP_DEFLATED)
  assert (tmp_path / 'x.npz').stat().st_size < 1 << 20
  refused(tmp_path / 'x.npz', 'bytes that unpack to 67')
