"""Images that are verified by a list of sha256sum."""

import hashlib
import io
import subprocess

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.storage import checksums
from tests.helpers import archives as made
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import folder_run


def write_sums(root, where='.', name='SHA256SUMS'):
  """Writes the list as its documentation says."""
  command = f'find {where} -type f -name "*.*g" -exec sha256sum {{}} + > {name}'
  subprocess.run(command, shell=True, cwd=root, check=True)
  return str(root / name)


def make(root, split='train', **fields):
  config = configs.change(folder_run.get_config(), fields)
  config.data.root = str(root)
  return data.create(config.lock(), split)


def read(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def flip(path):
  """Flips a bit of a pixel in a file without checksums of its own."""
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


def without_crc(path):
  """Makes a BMP of a PNG; its suffix stays, the content decides."""
  with Image.open(path) as image:
    image.load()
  image.save(path, 'BMP')


def test_a_list_changes_nothing(tmp_path):
  folder_run.write_images(tmp_path, 4)
  want = read(make(tmp_path))
  got = read(make(tmp_path, data__checksums=write_sums(tmp_path)))
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize('where', ['.', '"$PWD"'])
def test_a_flipped_bit_is_a_broken_image(tmp_path, where):
  folder_run.write_images(tmp_path, 4)
  without_crc(tmp_path / 'train' / '002.png')
  sums = write_sums(tmp_path, where)
  flip(tmp_path / 'train' / '002.png')
  reader = make(tmp_path)
  read(reader)
  assert reader.report['broken_images'] == 0  # the decoder does not notice
  reader = make(tmp_path, data__checksums=sums)
  assert read(reader)['id'].tolist() == [0, 1, 3, 3]
  assert reader.report['broken_images'] == 1
  reader = make(tmp_path, data__checksums=sums, data__broken_share=0.0)
  words = '002.png: SHA-256 .*SHA256SUMS says'
  with pytest.raises(errors.UserError, match=words):
    read(reader)


def test_maps_are_verified(tmp_path):
  folder_run.write_images(tmp_path, 4)
  base = tmp_path / 'train'
  for number in range(4):
    name = base / f'{number:03d}'
    code = np.zeros((9, 10), np.uint8)
    Image.fromarray(code).save(f'{name}.map.png', 'BMP')
  fields = {'condition__task': 'map', 'condition__map_classes': 9}
  sums = write_sums(tmp_path)
  flip(base / '001.map.png')
  reader = make(tmp_path, data__checksums=sums, **fields)
  assert read(reader)['id'].tolist() == [0, 2, 2, 3]


def test_images_that_the_list_lacks(tmp_path):
  folder_run.write_images(tmp_path, 4)
  sums = write_sums(tmp_path, 'val')
  make(tmp_path, 'val', data__checksums=sums)
  words = 'lacks 4 of 4 files in .*000.png, 001.png, 002.png, ...'
  with pytest.raises(errors.UserError, match=words) as error:
    make(tmp_path, data__checksums=sums)
  assert error.value.code == errors.DATA


def test_coco(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  sums = write_sums(tmp_path)
  config = coco_files.make_config(tmp_path)
  with config.unlocked():
    config.data.checksums = sums
    config.data.broken_share = 0.5
  reader = data.create(config, 'train')
  read(reader)
  assert reader.report['broken_images'] == 0
  for path in tmp_path.rglob('train2017/000000000009.jpg'):
    path.write_bytes(path.read_bytes() + b'\0')
  read(reader)
  assert reader.report['broken_images'] == 1


def test_names_that_sha256sum_escapes(tmp_path):
  name = 'a\nb\\c\\nd.png'
  (tmp_path / name).write_bytes(b'1')
  (tmp_path / ' two.png').write_bytes(b'2')
  sums = checksums.load(tmp_path / write_sums(tmp_path))
  digest = lambda text: hashlib.sha256(text).hexdigest()
  assert sums == {name: digest(b'1'), ' two.png': digest(b'2')}


@pytest.mark.parametrize('line', ['x', f'{"0" * 63}  a', f'{"0" * 64} a', ''])
def test_other_lines_are_refused(tmp_path, line):
  path = tmp_path / 'list'
  path.write_text(f'{"0" * 64}  a.png\n{line}\n')
  if not line:
    assert len(checksums.load(path)) == 1
    return
  with pytest.raises(errors.UserError, match='line 2 must be SHA256 NAME'):
    checksums.load(path)


def test_a_list_that_is_not_there(tmp_path):
  folder_run.write_images(tmp_path, 4)
  absent = str(tmp_path / 'absent')
  with pytest.raises(FileNotFoundError, match='config.data.checksums'):
    make(tmp_path, data__checksums=absent)


def test_sets_that_have_their_own():
  config = configs.change(folder_run.get_config(), {'data__name': 'shapes'})
  config.data.checksums = 'list'
  with pytest.raises(ValueError, match="checksums is 'list', must be empty"):
    data.create(config, 'train')


@pytest.mark.parametrize('kind', ['npy', 'png'])
def test_files_of_official_sets_are_verified(tmp_path, kind):
  root = tmp_path / 'faces'
  for number in range(4):
    stream = io.BytesIO()
    if kind == 'npy':
      np.save(stream, made.pixels(number).transpose(2, 0, 1)[None])
    else:
      Image.fromarray(made.pixels(number)).save(stream, 'BMP')
    name = f'imgHQ{number:05d}.{kind}'
    made.written(root, {name: stream.getvalue()})
  subprocess.run('sha256sum * > ../sums', shell=True, cwd=root, check=True)
  flip(root / f'imgHQ00001.{kind}')
  fields = {'image_size': 4, 'checksums': str(tmp_path / 'sums')}
  config = configs.of_reader('celebahq', root, **fields)
  reader = data.create(config, 'val')
  assert read(reader)['id'].tolist() == [0, 2, 2, 3]
  assert reader.identity()['checksums']


def test_archives_are_verified_as_a_whole(tmp_path):
  root, sums = tmp_path / 'faces.zip', tmp_path / 'sums'
  image = made.encoded(made.pixels(0))
  root.write_bytes(made.zipped({'imgHQ00000.png': image}))
  sums.write_text(f'{hashlib.sha256(image).hexdigest()}  imgHQ00000.png\n')
  config = configs.of_reader('celebahq', root, checksums=str(sums))
  with pytest.raises(errors.UserError, match='sums, must be empty where .*arc'):
    data.create(config, 'val')
