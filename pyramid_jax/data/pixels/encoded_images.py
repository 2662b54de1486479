"""What Pillow does not check of encoded images: damage, and lengthy ones.

A decoder that is written in C is bounded by the number of pixels, unless it may
pass over them again and again; what is parsed in Python is bounded by how often
it reads.
"""

from collections.abc import Iterator
import re
from typing import BinaryIO
import zlib

from PIL import Image

from pyramid_jax import limits


_PNG = b'\x89PNG\r\n\x1a\n'
_JPEGS = (b'\xff\xd8', b'II*\0', b'MM\0*')  # alone, or in TIFF
_SCAN = b'\xff\xda'  # Entropy coding has no such bytes.
_PLAIN = re.compile(rb'P[123]\s')
# Channels of the colour types of PNG.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The first column and row of the seven passes of PNG, and their distances.
_PASSES = (
  *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
  *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


class Reads:
  """A file that can be read so and so often.

  Attributes:
    left: how many reads are left.
  """

  def __init__(self, stream: BinaryIO, left: int):
    self._stream = stream
    self.left = left
    self.seek, self.tell = stream.seek, stream.tell

  def read(self, size: int = -1) -> bytes:
    self.left -= 1
    if self.left < 0:
      raise ValueError('it has too many parts')
    return self._stream.read(size)


def check(data: bytes) -> None:
  """Raises a ValueError for what decoding would not notice, or not end."""
  if data.startswith(_PNG):
    for kind, content, crc in _chunks(data):
      # Decoders do not care about text and the like.
      if kind[:1].isupper() and zlib.crc32(content, zlib.crc32(kind)) != crc:
        raise ValueError(f'damaged: the checksum of {kind!r} does not fit')
  elif data.startswith(_JPEGS):
    scans = data.count(_SCAN)
    if scans > limits.JPEG_SCANS:
      raise ValueError(f'{scans} scans, at most {limits.JPEG_SCANS} are read')
  elif _PLAIN.match(data) and len(data) > limits.PLAIN_IMAGE_BYTES:
    raise ValueError(
      f'{len(data)} bytes of numbers in text, at most'
      f' {limits.PLAIN_IMAGE_BYTES} are read'
    )


def check_rows(image: Image.Image, data: bytes) -> None:
  """Raises a ValueError if the data of a loaded PNG end before its last row.

  Rows that are not there are zeros, so only images that end in such are looked
  at again.
  """
  if image.format != 'PNG' or not data.startswith(_PNG):
    return
  width, height = image.size
  last = image.crop((0, max(0, height - 2), width, height)).tobytes()
  row = len(last) // min(height, 2)
  if any(last[-row:]) and any(last[:row]):
    return
  need = _unpacked_bytes(data)
  unpacker, found = zlib.decompressobj(), 0
  for kind, content, _ in _chunks(data):
    if kind != b'IDAT' or found >= need:
      continue
    rest: memoryview | bytes = content
    while rest and found < need:
      found += len(unpacker.decompress(rest, 1 << 20))
      rest = unpacker.unconsumed_tail
  if found < need:
    raise ValueError(f'truncated: {found} of {need} bytes of pixels')


def _unpacked_bytes(data: bytes) -> int:
  """Returns how many bytes the pixels of a PNG have, with their filters."""
  numbers = (int.from_bytes(data[at : at + 4], 'big') for at in (16, 20))
  width, height = numbers
  bits = data[24] * _CHANNELS[data[25]]
  passes = _PASSES if data[28] else ((0, 0, 1, 1),)
  total = 0
  for x, y, dx, dy in passes:
    columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
    if columns > 0 and rows > 0:
      total += rows * (1 + -(-columns * bits // 8))
  return total


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
  """Yields the kind, the content and the checksum of the chunks of a PNG."""
  view, at = memoryview(data), len(_PNG)
  for _ in range(limits.PNG_CHUNKS):
    size = int.from_bytes(view[at : at + 4], 'big')
    end = at + 8 + size
    if end + 4 > len(data):
      return  # Decoders notice what is cut off.
    crc = int.from_bytes(view[end : end + 4], 'big')
    yield bytes(view[at + 4 : at + 8]), view[at + 8 : end], crc
    at = end + 4
  raise ValueError(f'more than {limits.PNG_CHUNKS} chunks')
