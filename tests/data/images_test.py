import errno
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax.conditions import hashing
from pyramid_jax.data import images


def gradient(height, width):
  """A picture whose every pixel tells where it is."""
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


def test_other_formats_and_absent_files_are_broken(tmp_path):
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.gif')
  with pytest.raises(images.BrokenImage, match='not one of JPEG'):
    images.read(tmp_path / 'a.gif')
  with pytest.raises(images.BrokenImage, match='No such file'):
    images.read(tmp_path / 'absent.jpg')


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
  Image.fromarray(gradient(4, 8)).save(tmp_path / 'a.png')
  with pytest.raises(images.BrokenImage, match='8x4 px, at most 31'):
    images.read(tmp_path / 'a.png', max_pixels=31)
  monkeypatch.setattr(images, 'MAX_BYTES', 10)
  with pytest.raises(images.BrokenImage, match='at most 10 are read'):
    images.read(tmp_path / 'a.png')


def test_flaky_disks_are_tried_again(tmp_path, monkeypatch):
  Image.fromarray(gradient(4, 8)).save(tmp_path / 'a.png')
  monkeypatch.setattr(images, '_PAUSES_SECS', (0, 0))
  calls = []
  real = pathlib.Path.read_bytes

  def flaky(path):
    calls.append(path)
    if len(calls) < 3:
      raise OSError(errno.EIO, 'Input/output error')
    return real(path)

  monkeypatch.setattr(pathlib.Path, 'read_bytes', flaky)
  assert images.read(tmp_path / 'a.png').shape == (4, 8, 3)
  assert len(calls) == 3
  calls.clear()
  monkeypatch.setattr(images, '_PAUSES_SECS', (0,))
  with pytest.raises(images.BrokenImage, match='Input/output error'):
    images.read(tmp_path / 'a.png')


def test_resize_plain_by_hand():
  row = np.array([[[0, 0, 0], [100, 50, 10], [201, 50, 10], [255, 0, 0]]])
  image = row.astype(np.uint8)
  # Halving without antialiasing: the mean of pixels 2i and 2i + 1, cut off.
  got = images.resize_plain(image, (2, 1), (0, 0, 2, 1))
  np.testing.assert_array_equal(got, [[[50, 25, 5], [228, 25, 5]]])
  # Doubling: weights 1/4 and 3/4, borders repeated.
  got = images.resize_plain(image[:, :2], (4, 1), (0, 0, 4, 1))
  np.testing.assert_array_equal(got[0, :, 0], [0, 25, 75, 100])
  # Of four pixels one in three: taps at 0.833 - no box filter.
  got = images.resize_plain(image, (3, 1), (0, 0, 3, 1))
  np.testing.assert_array_equal(got[0, :, 0], [16, 150, 246])


@pytest.mark.parametrize('size', [(31, 17), (9, 40), (64, 64)])
def test_resize_plain_is_linear_without_antialias(size):
  image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
  got = images.resize_plain(image, size, (0, 0, *size))
  want = jax.image.resize(
    jnp.asarray(image, jnp.float32),
    (size[1], size[0], 3),
    'linear',
    antialias=False,
  )
  error = np.asarray(want) - got
  assert error.min() > -1e-3
  assert error.max() < 1 + 1e-3


@pytest.mark.parametrize('resize', [images.resize_plain, images.resize_smooth])
def test_window_is_a_part_of_the_whole(resize):
  image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
  whole = resize(image, (30, 20), (0, 0, 30, 20)).astype(int)
  part = resize(image, (30, 20), (5, 3, 10, 12)).astype(int)
  assert part.shape == (12, 10, 3)
  error = np.abs(part - whole[3:15, 5:15])
  assert error.max() <= (resize is images.resize_smooth)


def test_smooth_resize_averages():
  checks = np.indices((32, 32)).sum(0) % 2 * 255
  image = np.repeat(checks[..., None], 3, -1).astype(np.uint8)
  got = images.resize_smooth(image, (4, 4), (0, 0, 4, 4))
  assert np.abs(got.astype(int) - 127).max() <= 12


def test_center_crop():
  image = gradient(4, 8)
  transform = images.Transform(size=4, crop='center')
  pixels, crop, flipped = transform(image, 0)
  np.testing.assert_array_equal(pixels, image[:, 2:6])
  np.testing.assert_allclose(crop, [0.25, 0, 0.75, 1])
  assert flipped is False
  pixels, crop, _ = transform(image.transpose(1, 0, 2), 0)
  np.testing.assert_allclose(crop, [0, 0.25, 1, 0.75])
  # 5 - 4 leaves half a pixel: round(0.5) = 0, but the box is in the middle.
  pixels, crop, _ = transform(gradient(4, 5), 0)
  np.testing.assert_array_equal(pixels, gradient(4, 5)[:, :4])
  np.testing.assert_allclose(crop, [0.1, 0, 0.9, 1])


def test_center_crop_of_another_size():
  pixels, crop, _ = images.Transform(size=8)(gradient(4, 6), 0)
  assert pixels.shape == (8, 8, 3)
  # Resized to 12x8, cut at 2: the crop is 2/12..10/12.
  np.testing.assert_allclose(crop, [1 / 6, 0, 5 / 6, 1])
  want = images.resize_plain(gradient(4, 6), (12, 8), (0, 0, 12, 8))[:, 2:10]
  np.testing.assert_array_equal(pixels, want)


def test_random_1d_crop_covers_all_places():
  image = gradient(4, 7)
  transform = images.Transform(size=4, crop='random-1d')
  seen = set()
  for draw in range(60):
    pixels, crop, _ = transform(image, draw)
    left = round(crop[0] * 7)
    np.testing.assert_array_equal(pixels, image[:, left : left + 4])
    np.testing.assert_allclose(crop, [left / 7, 0, (left + 4) / 7, 1])
    seen.add(left)
  assert seen == {0, 1, 2, 3}
  again, _, _ = transform(image, 5)
  np.testing.assert_array_equal(again, transform(image, 5)[0])


def test_random_2d_crop():
  image = gradient(6, 9)
  transform = images.Transform(size=4, crop='random-2d')
  sides, places = set(), set()
  for draw in range(200):
    pixels, crop, _ = transform(image, draw)
    x0, y0, x1, y1 = np.round(crop * [9, 6, 9, 6]).astype(int)
    assert 0 <= x0 < x1 <= 9
    assert 0 <= y0 < y1 <= 6
    assert x1 - x0 == y1 - y0
    sides.add(x1 - x0)
    places.add((x0, y0))
    part = image[y0:y1, x0:x1]
    want = images.resize_plain(part, (4, 4), (0, 0, 4, 4))
    np.testing.assert_array_equal(pixels, want)
  assert sides == {4, 5, 6}
  assert len(places) > 12
  # Smaller than the result: the shorter side is taken whole.
  _, crop, _ = images.Transform(size=50, crop='random-2d')(image, 0)
  np.testing.assert_allclose(crop[3] - crop[1], 1)


def test_no_crop_squashes():
  pixels, crop, _ = images.Transform(size=4, crop='none')(gradient(4, 8), 0)
  np.testing.assert_array_equal(pixels[0, :, 0], [0, 2, 4, 6])
  np.testing.assert_array_equal(crop, [0, 0, 1, 1])


def test_flip():
  image = gradient(4, 4)
  transform = images.Transform(size=4, flip=True)
  count = 0
  for draw in range(100):
    pixels, crop, flipped = transform(image, draw)
    assert flipped == bool(hashing.uniforms(draw, 104) < 0.5)
    want = image[:, ::-1] if flipped else image
    np.testing.assert_array_equal(pixels, want)
    np.testing.assert_array_equal(crop, [0, 0, 1, 1])
    count += flipped
  assert 30 < count < 70


def test_extreme_shapes_stay_small():
  thin = np.zeros((1, 60000, 3), np.uint8)
  pixels, crop, _ = images.Transform(size=256)(thin, 0)
  assert pixels.shape == (256, 256, 3)
  assert crop[2] - crop[0] == pytest.approx(1 / 60000)


def test_unknown_crop():
  with pytest.raises(ValueError, match="'centre'.*center, random-1d"):
    images.Transform(size=4, crop='centre')


def test_to_float():
  values = np.arange(256, dtype=np.uint8)
  got = jax.jit(images.to_float)(values)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, values / 127.5 - 1, atol=2e-7)
  assert float(got.min()) == -1
  assert float(got.max()) == 1
