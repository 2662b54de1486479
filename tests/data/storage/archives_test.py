"""Archives in place: members by position, in all forms, and what is refused."""

from concurrent import futures
import gzip
import io
import os
import pickle
import tarfile
import zipfile

import pytest

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import archives
from tests.helpers import archives as made


FILES = {'b/2.png': b'two' * 400, './a/1.png': b'one', 'c.png': b''}
NAMES = ('a/1.png', 'b/2.png', 'c.png')
CONTENTS = [b'one', b'two' * 400, b'']
WRITERS = {
  'x.tar': made.tarred,
  'x.zip': made.zipped,
  'deflated.zip': lambda files: made.zipped(files, zipfile.ZIP_DEFLATED),
}


def opened(path):
  return archives.Archives([path], 'the archive')


def contents(found):
  return [found.load(row) for row in range(len(found))]


@pytest.mark.parametrize('name', WRITERS)
def test_members_are_read_in_place_in_the_order_of_their_names(tmp_path, name):
  (tmp_path / name).write_bytes(WRITERS[name](FILES))
  found = opened(tmp_path / name)
  assert found.names == NAMES
  assert contents(found) == CONTENTS
  assert found.sizes([1, 0]) == {'b/2.png': 1200, 'a/1.png': 3}
  assert found.where(1) == f'{tmp_path / name}/b/2.png'


def test_tars_in_a_tar_and_tars_beside_each_other_have_the_same_files(tmp_path):
  tars = {
    'n2.tar': made.tarred({'n2_1.JPEG': b'x'}),
    'n1.tar': made.tarred({'n1_7.JPEG': b'yy', 'n1_5.JPEG': b'z'}),
  }
  (tmp_path / 'all.tar').write_bytes(made.tarred(tars))
  made.written(tmp_path / 'train', tars)
  beside = archives.Archives(sorted((tmp_path / 'train').iterdir()), 'train')
  for found in (opened(tmp_path / 'all.tar'), beside):
    assert found.names == ('n1/n1_5.JPEG', 'n1/n1_7.JPEG', 'n2/n2_1.JPEG')
    assert contents(found) == [b'z', b'yy', b'x']


def test_long_names_of_both_formats_of_tar(tmp_path):
  long = 'd' * 120 + '/' + 'ü' * 90
  for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    path = tmp_path / f'{kind}.tar'
    with tarfile.open(path, 'w', format=kind) as tar:
      info = tarfile.TarInfo(long)
      info.size = 2
      tar.addfile(info, io.BytesIO(b'ab'))
    assert opened(path).names == (long,)
    assert opened(path).load(0) == b'ab'


def test_threads_forks_and_pickled_copies_read_the_same(tmp_path):
  files = {f'{i:03d}': bytes([i]) * (i + 1) for i in range(100)}
  (tmp_path / 'x.tar').write_bytes(made.tarred(files))
  found = opened(tmp_path / 'x.tar')
  want = list(files.values())
  assert contents(found) == want
  with futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(found.load, range(100))) == want
  assert contents(pickle.loads(pickle.dumps(found))) == want
  assert made.forked(lambda: contents(found) == want)
  assert not made.forked(lambda: contents(found) == want[1:])


def test_many_archives_take_no_descriptors(tmp_path):
  for i in range(40):
    data = made.tarred({'x': bytes([i])})
    (tmp_path / f'{i:02d}.tar').write_bytes(data)
  before = len(os.listdir('/proc/self/fd'))
  found = archives.Archives(sorted(tmp_path.iterdir()), 'many')
  assert contents(found) == [bytes([i]) for i in range(40)]
  assert len(os.listdir('/proc/self/fd')) <= before + 1


def _open_files():
  """The paths of this process's descriptors."""
  folder = '/proc/self/fd'
  links = [f'{folder}/{x}' for x in os.listdir(folder)]
  return [os.readlink(x) for x in links if os.path.islink(x)]


def test_a_descriptor_is_closed_with_its_archive(tmp_path):
  path = tmp_path / 'x.tar'
  path.write_bytes(made.tarred(FILES))
  found = opened(path)
  found.load(0)
  assert _open_files().count(str(path)) == 1
  del found
  assert str(path) not in _open_files()


def test_headers_are_read_once_for_a_size_and_a_time(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 0)
  path = tmp_path / 'x.tar'
  path.write_bytes(made.tarred(FILES))
  assert opened(path).names == NAMES
  with monkeypatch.context() as patch:
    patch.setattr(archives, '_table', None)  # A call would be an error.
    assert opened(path).names == NAMES
    assert contents(opened(path)) == CONTENTS
  path.write_bytes(made.tarred({'new': b'n'}))
  assert contents(opened(path)) == [b'n']


def _with(change):
  """Returns the bytes of a tar whose second member is changed."""
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w') as tar:
    tar.addfile(tarfile.TarInfo('good'))
    info = tarfile.TarInfo('bad')
    change(info)
    tar.addfile(info, io.BytesIO(b'x' * info.size))
  return stream.getvalue()


def _named(name):
  return _with(lambda info: setattr(info, 'name', name))


def _of_type(kind, link=''):
  def change(info):
    info.type, info.linkname = kind, link

  return _with(change)


REFUSED = {
  'parent': (_named('a/../../x'), "'../x' is a name outside"),
  'absolute': (_named('/etc/passwd'), "'/etc/passwd' is a name outside"),
  'drive': (_named('c:\\x'), 'is a name outside'),
  'long': (_named('n' * 501), 'a name of 501 characters; limit: 500'),
  'symlink': (_of_type(tarfile.SYMTYPE, 'good'), "'bad' is a link"),
  'hard link': (_of_type(tarfile.LNKTYPE, 'good'), "'bad' is a link"),
  'device': (_of_type(tarfile.CHRTYPE), "'bad' is a link or another thing"),
  'pipe': (_of_type(tarfile.FIFOTYPE), "'bad' is a link or another thing"),
  'twice': (_named('good'), "two members of the name 'good'"),
  'empty': (made.tarred({}), 'has no files'),
  'text': (b'not an archive' * 100, 'file could not be opened|invalid'),
  'nothing': (b'', 'empty file'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_tars_with_what_is_never_read_are_refused(tmp_path, name):
  data, reason = REFUSED[name]
  (tmp_path / 'x.tar').write_bytes(data)
  with pytest.raises(errors.UserError, match=reason) as found:
    opened(tmp_path / 'x.tar')
  assert found.value.code == errors.DATA


def test_zips_with_links_or_names_outside_are_refused(tmp_path):
  link = zipfile.ZipInfo('bad')
  link.external_attr = 0o120777 << 16
  for info, reason in ((link, "'bad' is a link"), ('../x', 'name outside')):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
      archive.writestr(info, 'target')
    with pytest.raises(errors.UserError, match=reason):
      opened(tmp_path / 'x.zip')


@pytest.mark.parametrize('keep', [3000, 1600, 1536, 700])
def test_tars_that_are_cut_off_are_refused(tmp_path, keep):
  whole = made.tarred({'a': b'1' * 600, 'b': b'2' * 900})
  (tmp_path / 'x.tar').write_bytes(whole[:keep])
  with pytest.raises(errors.UserError, match='cut off|beyond the end|end of'):
    opened(tmp_path / 'x.tar')


def test_tars_with_damage_between_members_are_refused(tmp_path):
  data = bytearray(made.tarred({'a': b'1', 'b': b'2', 'c': b'3'}))
  data[1024 + 150] ^= 0xFF  # the checksum in the second header
  (tmp_path / 'x.tar').write_bytes(data)
  with pytest.raises(errors.UserError, match='cut off, or no tar'):
    opened(tmp_path / 'x.tar')


def test_headers_that_would_fill_the_memory_are_refused(tmp_path):
  header = tarfile.TarInfo('pax')
  header.type, header.size = tarfile.XHDTYPE, 1 << 30
  path = tmp_path / 'x.tar'
  path.write_bytes(header.tobuf())
  os.truncate(path, 2 << 30)
  with pytest.raises(errors.UserError, match='a header of 1073741824 bytes'):
    opened(path)


def test_deflated_bombs_and_flipped_bytes_are_noticed(tmp_path, monkeypatch):
  path = tmp_path / 'x.zip'
  bomb = {'a': b'\0' * (1 << 20)}
  path.write_bytes(made.zipped(bomb, zipfile.ZIP_DEFLATED))
  monkeypatch.setattr(limits, 'INFLATED_BYTES', 1000)
  with pytest.raises(errors.UserError, match='bytes that unpack to 1048576'):
    opened(path)
  monkeypatch.undo()
  data = bytearray(made.zipped(FILES))
  at = data.index(b'twotwo')
  data[at] ^= 1
  path.write_bytes(data)
  found = opened(path)
  assert found.load(0) == b'one'
  with pytest.raises(images.BrokenImage, match='checksum of the archive'):
    found.load(1)


def test_a_large_member_is_a_broken_image(tmp_path, monkeypatch):
  (tmp_path / 'x.tar').write_bytes(made.tarred(FILES))
  monkeypatch.setattr(limits, 'IMAGE_BYTES', 1000)
  with pytest.raises(images.BrokenImage, match='1200 bytes, at most 1000'):
    opened(tmp_path / 'x.tar').load(1)


def test_an_archive_that_shrank_is_a_broken_image(tmp_path):
  path = tmp_path / 'x.tar'
  path.write_bytes(made.tarred(FILES))
  found = opened(path)
  os.truncate(path, 700)
  with pytest.raises(images.BrokenImage, match=r'ends within it \(188 of 1200'):
    found.load(1)


def test_tars_that_are_compressed_as_a_whole_say_what_to_do(tmp_path):
  with pytest.raises(errors.UserError, match=r'unpack it to a \.tar'):
    archives.is_archive(tmp_path / 'x.tar.gz')
  assert archives.is_archive(tmp_path / 'X.TAR')
  assert not archives.is_archive(tmp_path / 'x')


def test_small_archives_are_unpacked_in_memory(tmp_path):
  path = tmp_path / 'x.tar.gz'
  path.write_bytes(gzip.compress(made.tarred(FILES)))
  found = archives.unpacked(path, 20_000)
  assert found == dict(zip(NAMES, CONTENTS, strict=True))
  with pytest.raises(errors.UserError, match='unpacks to more than 9000 bytes'):
    archives.unpacked(path, 9_000)
  path.write_bytes(gzip.compress(made.tarred(FILES))[:-20])
  with pytest.raises(errors.UserError, match='x.tar.gz: '):
    archives.unpacked(path, 20_000)
