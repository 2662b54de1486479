"""Encoded images that are damaged or lengthy where Pillow does not look."""

import contextlib
import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import limits
from pyramid_jax.data.pixels import images


def chunk(kind, data):
  crc = zlib.crc32(kind + data)
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)


def png(size, raw, depth=8, kind=2, interlaced=0, more=b''):
  """A PNG whose filtered rows are `raw`."""
  head = struct.pack('>IIBBBBB', *size, depth, kind, 0, 0, interlaced)
  body = chunk(b'IDAT', zlib.compress(raw)) + more + chunk(b'IEND', b'')
  palette = chunk(b'PLTE', bytes(range(6))) if kind == 3 else b''
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + palette + body


def encoded(image, kind, **options):
  data = io.BytesIO()
  image.save(data, kind, **options)
  return data.getvalue()


@pytest.mark.parametrize(
  ('depth', 'kind', 'row'),
  [(8, 2, 12), (1, 0, 1), (16, 0, 8), (8, 3, 4), (8, 4, 8), (16, 6, 32)],
)
def test_rows_that_a_png_does_not_have(depth, kind, row):
  for rows in (1, 2, 3, 9, 10):
    data = png((4, 10), (b'\0' + b'\x01' * row) * rows, depth, kind)
    if rows == 10:
      assert images.decode(data, 'a').shape == (10, 4, 3)
      continue
    have, need = rows * (1 + row), 10 * (1 + row)
    words = f'a: truncated: {have} of {need} bytes of pixels'
    with pytest.raises(images.BrokenImage, match=words):
      images.decode(data, 'a')


@pytest.mark.parametrize('size', [(1, 1), (3, 1), (1, 5), (9, 13), (16, 16)])
def test_rows_that_are_black(size):
  black = Image.new('RGB', size)
  # Pillow does not write what other programs call interlaced.
  for data in (
    encoded(black, 'PNG'),
    png(size, bytes((1 + 3 * size[0]) * size[1])),
    png(size, interlaced(*size), interlaced=1),
  ):
    assert not images.decode(data, 'a').any()
  short = interlaced(*size)[:-1]
  with pytest.raises(images.BrokenImage, match='truncated'):
    images.decode(png(size, short, interlaced=1), 'a')


def interlaced(width, height):
  """The zeros of the seven passes over RGB, counted pixel by pixel."""
  passes = {}
  pattern = ['16462646', '77777777', '56565656', '77777777'] * 2
  pattern[4] = '36463646'
  for y in range(height):
    for x in range(width):
      passes.setdefault(pattern[y % 8][x % 8], []).append((y, x))
  return bytes(
    sum(3 * len(p) + len({y for y, _ in p}) for p in passes.values())
  )


def test_a_byte_of_a_png_that_changed(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
  data = encoded(Image.fromarray(noise), 'PNG', compress_level=0)
  path, same = tmp_path / 'a.png', 0
  for at in range(len(data)):
    flipped = bytearray(data)
    flipped[at] ^= 16
    path.write_bytes(flipped)
    with contextlib.suppress(images.BrokenImage):
      np.testing.assert_array_equal(images.read(path), noise)
      same += 1
  assert same < 9  # of lengths of chunks, which decoders do not need


def test_text_with_a_wrong_checksum_does_not_matter():
  text = bytearray(chunk(b'zzAp', b'hello'))
  text[-1] ^= 1
  data = png((2, 1), b'\0' + b'\x07' * 6, more=bytes(text))
  assert (images.decode(data, 'a') == 7).all()


def test_a_png_of_very_many_chunks(monkeypatch):
  monkeypatch.setattr(limits, 'PNG_CHUNKS', 50)
  data = png((2, 1), b'\0' + b'\x07' * 6, more=chunk(b'zzAp', b'') * 60)
  with pytest.raises(images.BrokenImage, match='more than 50 chunks'):
    images.decode(data, 'a')


def test_a_jpeg_that_is_painted_over_and_over():
  data = encoded(Image.new('RGB', (16, 16)), 'JPEG', progressive=True)
  starts = [i for i in range(len(data)) if data[i : i + 2] == b'\xff\xda']
  assert images.decode(data, 'a').shape == (16, 16, 3)
  scan = data[starts[1] : starts[2]]
  again = data[:-2] + scan * limits.JPEG_SCANS + data[-2:]
  with pytest.raises(images.BrokenImage, match='scans, at most 200 are read'):
    images.decode(again, 'a')


@pytest.mark.parametrize(
  'data',
  [
    pytest.param(b'\xff\xd8' + b'\xff\xfe\0\2' * 90_000, id='jpeg'),
    pytest.param(
      b'GIF89a\1\0\1\0\0\0\0!\xfe' + (b'\xff' + b'a' * 255) * 90_000, id='gif'
    ),
    pytest.param(b'P6\n#' + b' ' * 90_000 + b'\n1 1 255 abc', id='ppm'),
    pytest.param(b'P6\n' + b'#\n' * 90_000 + b'\n1 1 255 abc', id='ppm-lines'),
    pytest.param(
      b'\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 '
      + b'\0\0\0\x08free' * 90_000,
      id='jpeg2000',
    ),
  ],
)
def test_headers_of_very_many_parts(tmp_path, data):
  path = tmp_path / 'a'
  path.write_bytes(data)
  for read in (images.read, images.size):
    with pytest.raises(images.BrokenImage, match='it has too many parts'):
      read(path)


def test_pixels_in_text():
  assert (images.decode(b'P3 2 1 9 ' + b'9 ' * 6, 'a') == 255).all()
  data = b'P3 2 1 9 ' + b'9 ' * 6 + b' ' * limits.PLAIN_IMAGE_BYTES
  with pytest.raises(images.BrokenImage, match='bytes of numbers in text, at'):
    images.decode(data, 'a')


def test_sides_are_bounded_as_areas_are():
  data = png((2_000_000, 1), bytes(6_000_001))
  words = '2000000x1 px, sides of at most 65536 are read'
  with pytest.raises(images.BrokenImage, match=words):
    images.decode(data, 'a')
