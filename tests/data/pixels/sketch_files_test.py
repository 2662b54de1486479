import numpy as np
from PIL import Image
import pytest

from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import sketch_files


def test_the_content_decides_how_a_drawing_is_read(tmp_path):
  clear = np.zeros((3, 5, 4), np.uint8)
  clear[1, 2] = (9, 8, 7, 255)
  Image.fromarray(clear).save(tmp_path / 'a.svg', format='PNG')
  np.testing.assert_array_equal(sketch_files.read(tmp_path / 'a.svg'), clear)

  body = b'<svg viewBox="0 0 40 20"><path d="M0 0h20v20h-20z"/></svg>'
  (tmp_path / 'b.png').write_bytes(b'\xef\xbb\xbf\n ' + body)
  picture = sketch_files.read(tmp_path / 'b.png')
  assert picture.shape == (512, 1024, 4)
  assert picture[:, :510, 3].all()
  assert not picture[:, 515:, 3].any()


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'CMYK', 'I;16', 'LA'])
def test_pictures_of_every_mode_are_opaque(tmp_path, mode):
  suffix = 'jpg' if mode == 'CMYK' else 'png'
  path = tmp_path / f'a.{suffix}'
  if mode == 'I;16':
    Image.fromarray(np.full((4, 6), 0xFFFF, np.uint16)).save(path)
  else:
    Image.new('RGB', (6, 4), 'white').convert(mode).save(path)
  pixels = sketch_files.read(path)
  assert pixels.shape == (4, 6, 4)
  assert pixels.dtype == np.uint8
  assert (pixels >= 254).all()


def test_the_camera_was_turned(tmp_path):
  image = Image.new('RGB', (6, 4))
  exif = image.getexif()
  exif[0x0112] = 6  # a quarter
  image.save(tmp_path / 'a.jpg', exif=exif)
  assert sketch_files.read(tmp_path / 'a.jpg').shape == (6, 4, 4)


def test_what_cannot_be_read(tmp_path):
  path = tmp_path / 'a.svg'
  with pytest.raises(images.BrokenImage, match=r'a\.svg: No such file'):
    sketch_files.read(path)
  for data, words in (
    (b'', 'not one of JPEG, PNG, WEBP'),
    (b'<svg viewBox="0 0 1 1"><text/></svg>', r'a\.svg: the element <text> is'),
  ):
    path.write_bytes(data)
    with pytest.raises(images.BrokenImage, match=words):
      sketch_files.read(path)
