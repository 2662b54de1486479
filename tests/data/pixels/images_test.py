import errno
import io
import os

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import limits
from pyramid_jax.data.pixels import images
from pyramid_jax.files import bounded
from pyramid_jax.files import retries


def gradient(height, width):
  """An image whose pixels have the colours of their positions."""
  y, x = np.mgrid[:height, :width]
  return np.stack([x, y, x + y], -1).astype(np.uint8)


def test_read_png_is_exact(tmp_path):
  want = gradient(5, 7)
  Image.fromarray(want).save(tmp_path / 'a.png')
  np.testing.assert_array_equal(images.read(tmp_path / 'a.png'), want)


def test_read_grey_alpha_palette_16_bit_and_cmyk(tmp_path):
  grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
  Image.fromarray(grey).save(tmp_path / 'grey.png')
  three = np.repeat(grey[..., None], 3, -1)
  np.testing.assert_array_equal(images.read(tmp_path / 'grey.png'), three)

  clear = np.zeros((1, 3, 4), np.uint8)
  clear[0, :, 3] = (0, 255, 51)  # 51 of 255 black on white = 204
  Image.fromarray(clear).save(tmp_path / 'clear.png')
  got = images.read(tmp_path / 'clear.png')
  np.testing.assert_array_equal(got[0, :, 0], [255, 0, 204])

  palette = Image.new('P', (2, 1))
  palette.putpalette([10, 20, 30, 40, 50, 60])
  palette.putpixel((1, 0), 1)
  palette.save(tmp_path / 'palette.png')
  got = images.read(tmp_path / 'palette.png')
  np.testing.assert_array_equal(got, [[[10, 20, 30], [40, 50, 60]]])
  palette.save(tmp_path / 'hole.png', transparency=1)
  got = images.read(tmp_path / 'hole.png')
  np.testing.assert_array_equal(got, [[[10, 20, 30], [255, 255, 255]]])

  deep = np.array([[0, 257 * 100 + 90, 65535]], np.uint16)
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  got = images.read(tmp_path / 'deep.png')
  np.testing.assert_array_equal(got[0, :, 1], [0, 100, 255])

  cmyk = Image.new('CMYK', (8, 8), (0, 255, 255, 0))
  cmyk.save(tmp_path / 'cmyk.jpg', quality=95)
  red = images.read(tmp_path / 'cmyk.jpg')
  assert red[4, 4, 0] > 240
  assert red[4, 4, 1:].max() < 15


def test_read_turns_by_exif_only_when_asked(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # to be shown turned by 90 degrees
  picture = Image.fromarray(gradient(4, 8))
  picture.save(tmp_path / 'a.png', exif=exif)
  assert images.read(tmp_path / 'a.png').shape == (4, 8, 3)
  assert images.read(tmp_path / 'a.png', upright=True).shape == (8, 4, 3)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif', 'avif'])
def test_every_orientation(tmp_path, suffix):
  stored = np.zeros((16, 24, 3), np.uint8)
  stored[:8, :12] = 255  # where the first row meets the first column
  corners = {  # value of EXIF: where that corner is shown
    **{1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)},
    **{5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)},
    **{0: (0, 0), 9: (0, 0), 255: (0, 0), 65535: (0, 0)},
  }
  for value, corner in corners.items():
    exif = Image.Exif()
    exif[0x0112] = value
    path = tmp_path / f'{value}.{suffix}'
    Image.fromarray(stored).save(path, exif=exif)
    got = images.read(path, upright=True)
    assert got.shape == ((24, 16, 3) if 5 <= value <= 8 else (16, 24, 3))
    assert got[corner].min() > 200, value
    assert (got > 128).mean() == pytest.approx(0.25, abs=0.03)
    assert images.size(path) == got.shape[:2]


@pytest.mark.parametrize(
  'exif', [b'Exif\0\0', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0MM\0*junk']
)
def test_damaged_exif_data_are_ignored(tmp_path, exif):
  for suffix in ('jpg', 'png', 'webp'):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(gradient(8, 12)).save(path, exif=exif)
    assert images.read(path, upright=True).shape == (8, 12, 3)
    assert images.size(path) == (8, 12)


def test_orientations_that_are_text(tmp_path):
  head = b'Exif\0\0MM\0*\0\0\0\x08\0\1'
  path = tmp_path / 'a.jpg'
  image = Image.fromarray(gradient(8, 12))
  image.save(path, exif=head + b'\x01\x12\0\2\0\0\0\0026\0\0\0' + bytes(4))
  assert images.read(path, upright=True).shape == (8, 12, 3)
  assert images.size(path) == (8, 12)


def test_read_first_picture_of_an_animation_and_one_pixel(tmp_path):
  frames = [Image.new('RGB', (4, 4), c) for c in ('red', 'blue')]
  frames[0].save(
    tmp_path / 'a.webp', save_all=True, append_images=frames[1:], lossless=True
  )
  got = images.read(tmp_path / 'a.webp')
  np.testing.assert_array_equal(got[0, 0], [255, 0, 0])
  Image.new('RGB', (1, 1), 'red').save(tmp_path / 'b.png')
  assert images.read(tmp_path / 'b.png').shape == (1, 1, 3)


def jpeg(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  data = io.BytesIO()
  Image.fromarray(noise).save(data, 'JPEG')
  return data.getvalue()


def png_header(width, height):
  """A PNG that claims a size and has no pixels."""
  import struct
  import zlib

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  body = chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + body


@pytest.mark.parametrize(
  ('make', 'reason'),
  [
    (lambda p: jpeg(p)[:-500], 'truncated'),
    (lambda p: jpeg(p)[:20], ''),
    (lambda p: b'not an image', 'not one of JPEG, PNG, WEBP'),
    (lambda p: b'', 'not one of JPEG, PNG, WEBP'),
    (lambda p: png_header(20000, 20000), ''),
    (lambda p: png_header(9000, 9000), '9000x9000 px, at most 64000000'),
    (lambda p: png_header(8, 8), ''),
  ],
)
def test_broken_files(tmp_path, make, reason):
  path = tmp_path / 'broken.jpg'
  path.write_bytes(make(tmp_path))
  with pytest.raises(images.BrokenImage) as error:
    images.read(path)
  assert error.value.path == str(path)
  assert reason in error.value.reason
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  'suffix', [s for s in images.SUFFIXES if s not in ('.pbm', '.pfm', '.mpo')]
)
def test_every_suffix_is_of_a_format_that_is_read(tmp_path, suffix):
  want = gradient(8, 9)
  path = tmp_path / f'a{suffix}'
  Image.fromarray(want).save(path)
  got = images.read(path).astype(int)
  assert got.shape == want.shape
  assert np.abs(got - want).mean() < 12
  assert images.size(path) == want.shape[:2]


@pytest.mark.parametrize('kind', ['EPS', 'PDF', 'TGA', 'ICO'])
def test_formats_that_run_programs_or_have_no_mark_are_not_read(tmp_path, kind):
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.png', kind)
  with pytest.raises(images.BrokenImage, match='not one of JPEG, PNG, WEBP, G'):
    images.read(tmp_path / 'a.png')


def test_absent_files_are_broken(tmp_path):
  with pytest.raises(images.BrokenImage, match='No such file'):
    images.read(tmp_path / 'absent.jpg')


def test_what_is_no_file_is_not_read(tmp_path):
  os.mkfifo(tmp_path / 'a.png')
  os.symlink('/dev/zero', tmp_path / 'b.png')
  for name in ('a.png', 'b.png'):
    with pytest.raises(images.BrokenImage, match=f'{name}: a .*, must be'):
      images.read(tmp_path / name)


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
  Image.fromarray(gradient(4, 8)).save(tmp_path / 'a.png')
  monkeypatch.setattr(limits, 'IMAGE_PIXELS', 31)
  with pytest.raises(images.BrokenImage, match='8x4 px, at most 31'):
    images.read(tmp_path / 'a.png')
  monkeypatch.setattr(limits, 'IMAGE_BYTES', 10)
  with pytest.raises(images.BrokenImage, match='at most 10 are read'):
    images.read(tmp_path / 'a.png')


def test_flaky_disks_are_tried_again(tmp_path, monkeypatch):
  Image.fromarray(gradient(4, 8)).save(tmp_path / 'a.png')
  monkeypatch.setattr(retries, 'WAITS_SECS', (0, 0))
  calls = []
  real = bounded.read

  def flaky(path, most):
    calls.append(path)
    if len(calls) < 3:
      raise OSError(errno.EIO, 'Input/output error')
    return real(path, most)

  monkeypatch.setattr(bounded, 'read', flaky)
  assert images.read(tmp_path / 'a.png').shape == (4, 8, 3)
  assert len(calls) == 3
  calls.clear()
  monkeypatch.setattr(retries, 'WAITS_SECS', (0,))
  with pytest.raises(images.BrokenImage, match='Input/output error'):
    images.read(tmp_path / 'a.png')


def test_maps_keep_their_values(tmp_path, monkeypatch):
  classes = np.array([[0, 3], [250, 7]], np.uint8)
  Image.fromarray(classes).save(tmp_path / 'grey.png')
  picture = Image.fromarray(classes).convert('P')
  picture.putpalette(list(range(255, -1, -1)) * 3)
  picture.putdata([0, 3, 250, 7])
  picture.save(tmp_path / 'palette.png')
  for name in ('grey', 'palette'):
    got = images.read_map(tmp_path / f'{name}.png')
    np.testing.assert_array_equal(got, classes)
  Image.fromarray(gradient(2, 2)).save(tmp_path / 'rgb.png')
  with pytest.raises(images.BrokenImage, match='mode RGB, a map of classes'):
    images.read_map(tmp_path / 'rgb.png')
  Image.fromarray(classes.astype(np.uint16)).save(tmp_path / 'deep.png')
  with pytest.raises(images.BrokenImage, match='mode I;16, a map'):
    images.read_map(tmp_path / 'deep.png')
  monkeypatch.setattr(limits, 'IMAGE_PIXELS', 3)
  with pytest.raises(images.BrokenImage, match='2x2 px, at most 3'):
    images.read_map(tmp_path / 'grey.png')


def test_finish_leaves_maps_alone():
  batch = {
    'image': jnp.full((1, 2, 2, 3), 255, jnp.uint8),
    'lr_image': jnp.zeros((1, 1, 1, 3), jnp.uint8),
    'sketch': jnp.full((1, 2, 2), 255, jnp.uint8),
    'edges': jnp.full((1, 2, 2), 51, jnp.uint8),
    'mask': jnp.full((1, 2, 2), 9, jnp.uint8),
  }
  out = jax.jit(images.finish)(batch)
  assert (out['sketch'] == 1).all()
  np.testing.assert_allclose(out['edges'], np.full((1, 2, 2), 0.2), rtol=1e-6)
  assert (out['image'] == 1).all()
  assert (out['lr_image'] == -1).all()
  assert out['mask'].dtype == jnp.uint8
  assert (out['mask'] == 9).all()


def test_to_float():
  values = np.arange(256, dtype=np.uint8)
  got = jax.jit(images.to_float)(values)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, values / 127.5 - 1, atol=2e-7)
  assert float(got.min()) == -1
  assert float(got.max()) == 1


def test_to_uint8_takes_the_nearest_value():
  x = np.array([-2.0, -1.0, 0.0, 1.0, 3.0])
  assert images.to_uint8(x).tolist() == [0, 0, 128, 255, 255]
  whole = np.arange(256, dtype=np.uint8)
  np.testing.assert_array_equal(images.to_uint8(images.to_float(whole)), whole)


@pytest.mark.parametrize(
  ('rule', 'want'),
  [
    ('round', [0, 0, 100, 101, 101, 102, 255, 255]),
    ('truncate', [0, 0, 100, 100, 100, 101, 254, 255]),
    ('half_up', [0, 0, 100, 101, 101, 102, 255, 255]),
  ],
)
def test_rules_of_uint8(rule, want):
  levels = np.array([-9, 0.4, 100.4, 100.6, 100.9, 101.6, 254.6, 300])
  got = images.to_uint8(levels / 127.5 - 1, rule)
  assert got.dtype == jnp.uint8
  assert got.tolist() == want
  # 127.5 x + 128 at x = 0, which rounding brings to the even 128, too.
  assert images.to_uint8(0.0, rule) == (127 if rule == 'truncate' else 128)
