"""Foreign files that are small or strange and would take much: 10 s, 2 GiB.

Each is read by a child with so much time of a processor and memory as a reader
may take. What it does not read it refuses with one line.
"""

import base64
from collections.abc import Callable
import io
import logging
import multiprocessing
import os
import pathlib
import resource
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import sketches
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms
from pyramid_jax.files import json_text
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib
from tests.helpers import configs
from tests.helpers import mutations


SECS = 10  # of a processor
HANGS_SECS = 120  # of a clock
NAMES = ('', 'red circle', 'blue square')
READ = 'read'


def chunk(kind: bytes, data: bytes) -> bytes:
  crc = zlib.crc32(kind + data)
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)


def png(width: int, height: int, kind: int = 0, depth: int = 8) -> bytes:
  """White pixels, except for the first row."""
  bits = {0: 1, 2: 3, 4: 2, 6: 4}[kind] * depth
  size = -(-width * bits // 8)
  packer = zlib.compressobj(9)
  parts = [packer.compress(b'\0' + bytes(size))]
  row = b'\0' + b'\xff' * size
  parts += [packer.compress(row) for _ in range(height - 1)]
  parts.append(packer.flush())
  head = struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0)
  body = chunk(b'IDAT', b''.join(parts)) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + body


def noise(kind: str, side: int, **options) -> bytes:
  data = io.BytesIO()
  values = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
  Image.fromarray(values).save(data, kind, **options)
  return data.getvalue()


def flat(kind: str, side: int, mode: str = 'RGB', **options) -> bytes:
  data = io.BytesIO()
  Image.new(mode, (side, side)).save(data, kind, **options)
  return data.getvalue()


def painted_over(side: int, count: int) -> bytes:
  """A progressive JPEG with very many scans."""
  data = flat('JPEG', side, progressive=True)
  starts = [i for i in range(len(data)) if data[i : i + 2] == b'\xff\xda']
  return data[:-2] + data[starts[1] : starts[2]] * count + data[-2:]


def svg(body: str, box: str = '0 0 1000 1000') -> bytes:
  space = 'xmlns="http://www.w3.org/2000/svg"'
  return f'<svg {space} viewBox="{box}">{body}</svg>'.encode()


def points(count: int) -> str:
  places = np.random.default_rng(0).integers(0, 1000, 2 * count)
  return ' '.join(map(str, places.tolist()))


def line(body: str, width: int = 1) -> bytes:
  return svg(f'<g fill="none" stroke="#000" stroke-width="{width}">{body}</g>')


def picture(data: bytes) -> str:
  text = base64.b64encode(data).decode()
  return (
    f'<image width="1000" height="1000" href="data:image/png;base64,{text}"/>'
  )


def nested(count: int) -> str:
  groups = ''.join(
    f'<g id="a{i + 1}">' + f'<use href="#a{i}"/>' * 10 + '</g>'
    for i in range(count)
  )
  return f'<defs><g id="a0"><path d="M0 0L9 9"/></g>{groups}</defs>'


SHAPE = '<rect width="1000" height="1000" opacity=".5"/>'
SKETCHES: dict[str, Callable[[], bytes]] = {
  '2,000,000 x 1': lambda: png(2_000_000, 1),
  '60,000 x 1': lambda: png(60_000, 1),
  '1 x 60,000': lambda: png(1, 60_000),
  '8000 x 8000': lambda: png(8000, 8000),
  '8000 x 8000 with opacity': lambda: png(8000, 8000, 6),
  '10,000 rects': lambda: svg(SHAPE * 10_000),
  '10,000 circles': lambda: svg('<circle r="900" opacity=".5"/>' * 10_000),
  '10,000 wide strokes': lambda: line('<path d="M0 0L999 9"/>' * 10_000, 900),
  '500,000 points': lambda: line(
    f'<polyline points="{points(500_000)}"/>', 200
  ),
  '500,000 thin': lambda: line(f'<polyline points="{points(500_000)}"/>'),
  '300,000 curves': lambda: line(f'<path d="M0 0{"c9 9 9 0 0 9" * 300_000}"/>'),
  '270,000 arcs': lambda: line(f'<path d="M0 0{"a9 9 0 1 1 9 0" * 270_000}"/>'),
  '3,000,000 z': lambda: svg(f'<path d="M0 0{"z" * 3_000_000}"/>'),
  'a tiny view': lambda: svg('<path d="M0 0L1 1"/>', '0 0 1e-320 1e-320'),
  'a large colour': lambda: svg(f'<g fill="rgb({"9" * 20},0,0)">{SHAPE}</g>'),
  'an encoding': lambda: b'<?xml version="1.0" encoding="x"?>' + svg(SHAPE),
  '900,000 elements': lambda: svg('<g/>' * 900_000),
  '300,000 rules': lambda: svg(f'<style>{".a{fill:red}" * 300_000}</style>'),
  'a nested style': lambda: svg(f'<path style="fill:{"(" * 500_000}"/>'),
  'a nested sheet': lambda: svg(f'<style>{"(" * 1_000_000}</style>'),
  '1,000 filters': lambda: svg(
    '<filter id="f"><feGaussianBlur stdDeviation="300"/></filter>'
    + '<rect width="999" height="999" filter="url(#f)"/>' * 1000
  ),
  'much turbulence': lambda: svg(
    '<filter id="f"><feTurbulence baseFrequency=".5" numOctaves="1000000"/>'
    '</filter><rect width="999" height="999" filter="url(#f)"/>'
  ),
  '10^9 references': lambda: svg(nested(9) + '<use href="#a9"/>'),
  'many dashes': lambda: line(
    '<path d="M0 0L1000000000 0" stroke-dasharray="0.0001"/>'
  ),
  '5,000 layers': lambda: svg(f'<g opacity=".5">{SHAPE}</g>' * 5000),
  'an image inside': lambda: svg(picture(png(30_000, 30_000))),
}
IMAGES: dict[str, Callable[[], bytes]] = {
  'noise': lambda: noise('PNG', 8000, compress_level=1),
  'opacity': lambda: png(8000, 8000, 6),
  '16 bits': lambda: png(8000, 8000, 0, 16),
  'WebP': lambda: flat('WEBP', 8000, lossless=True, method=0),
  'AVIF': lambda: flat('AVIF', 8000, speed=10),
  'JPEG 2000': lambda: noise(
    'JPEG2000', 4000, quality_mode='rates', quality_layers=[9]
  ),
  'GIF': lambda: flat('GIF', 8000, 'P'),
  'TIFF of floats': lambda: flat('TIFF', 8000, 'F'),
  '3,000 scans': lambda: painted_over(7900, 3000),
  'PPM in text': lambda: b'P3 6000 6000 255\n' + b'1 ' * 108_000_000,
  'a long comment': lambda: b'P6\n' + b'#' * 200_000_000 + b'\n1 1 255 abc',
  'comments of a GIF': lambda: (
    b'GIF89a\1\0\1\0\0\0\0!\xfe' + (b'\xff' + b'a' * 255) * 900_000
  ),
  'segments of a JPEG': lambda: b'\xff\xd8' + b'\xff\xfe\0\2' * 60_000_000,
  'chunks of a PNG': lambda: (
    png(9, 9)[:33] + chunk(b'zzAp', b'') * 20_000_000 + png(9, 9)[33:]
  ),
  '2^31 px': lambda: png(1, 1).replace(
    b'IHDR\0\0\0\1\0\0\0\1', b'IHDR\x7f\xff\xff\xff\0\0\0\1'
  ),
}
BOX = b'{"label": "RED circle", "box": [0.1, 0.2, 0.3, 0.4]}'
LAYOUTS: dict[str, Callable[[], bytes]] = {
  '1,000,000 boxes': lambda: b'[' + (BOX + b',') * 999_999 + BOX + b']',
  '50,000 boxes': lambda: b'[' + (BOX + b',') * 49_999 + BOX + b']',
  'depth': lambda: b'[' * 4_000_000,
  'digits': lambda: b'[' + b'9' * 4_000_000 + b']',
  'numbers': lambda: b'[1, 2]',
  'null': lambda: b'[null]',
  'a number beside': lambda: b'[[' + BOX + b'], 5]',
}
TEXTS: dict[str, Callable[[], bytes]] = {
  '100,000 words': lambda: b'red ' * 100_000,
  '100,000 letters': lambda: b'a' * 100_000,
  '10,000 letters': lambda: b'a' * 10_000,
  '10,000 signs': lambda: ('\U0001f600' * 10_000).encode(),
}
VALUES: dict[str, Callable[[], bytes]] = {
  'lists': lambda: b'[' + b'[],' * 22_000_000 + b'[]]',
  'objects': lambda: b'[' + b'{"":1},' * 9_500_000 + b'{}]',
  'texts': lambda: b'[' + b'"ab",' * 13_000_000 + b'""]',
  'numbers': lambda: b'[' + b'999,' * 16_000_000 + b'9]',
  'one number': lambda: b'9' * 60_000_000,
  'one float': lambda: b'0.' + b'9' * 60_000_000,
  'the same name': lambda: b'{' + b'"a":1,' * 11_000_000 + b'"a":1}',
}


def read_sketch(path: pathlib.Path) -> None:
  sketches.from_image(given_images.sketch(path, 'sketch'), 64)


def read_image(path: pathlib.Path) -> None:
  images.size(path)
  images.read(path, upright=True)


def read_layout(path: pathlib.Path) -> None:
  given = request_lib.Request(layout=str(path))
  conditions.of_task('layout', given, configs.of_task('layout'), NAMES)


def read_text(path: pathlib.Path) -> None:
  vocabulary = path.with_name('vocab.txt')
  vocabulary.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##a\nred\n')
  text = path.read_text()
  for made in (
    tokenizers.words(('red',), 77),
    tokenizers.load_word_piece(str(vocabulary), 77),
  ):
    request.from_text([text], made)


def read_crops(path: pathlib.Path) -> None:
  image = images.read(path)
  for crop in transforms.CROPS:
    for resize in transforms.RESIZES.values():
      transforms.Transform(size=512, crop=crop, resize=resize)(image, 3)


CASES = {
  f'{kind}, {name}': (make, read)
  for kind, read, makers in (
    ('sketch', read_sketch, SKETCHES),
    ('image', read_image, IMAGES),
    (
      'mask',
      lambda path: given_images.mask(path, 'mask'),
      {
        '8000 x 8000': lambda: png(8000, 8000, 6),
        '5600 x 5600': lambda: png(5600, 5600, 6),
        '5600 x 5600, 16 bits': lambda: png(5600, 5600, 0, 16),
      },
    ),
    (
      'crops',
      read_crops,
      {
        '60,000 x 1': lambda: png(60_000, 1),
        '1 x 60,000': lambda: png(1, 60_000),
      },
    ),
    ('layout', read_layout, LAYOUTS),
    ('text', read_text, TEXTS),
    ('JSON', json_text.read, VALUES),
  )
  for name, make in makers.items()
}
QUICK = (
  *('sketch, 2,000,000 x 1', 'sketch, 60,000 x 1', 'sketch, 1 x 60,000'),
  *('sketch, a tiny view', 'sketch, an encoding', 'image, 2^31 px'),
  *('crops, 60,000 x 1', 'crops, 1 x 60,000', 'JSON, one number'),
  *(f'layout, {name}' for name in LAYOUTS),
  *(f'text, {name}' for name in TEXTS),
)


def _child(name: str, path: pathlib.Path, results) -> None:
  logging.disable()
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  most = pages * resource.getpagesize() + mutations.MOST_BYTES
  resource.setrlimit(resource.RLIMIT_AS, (most, most))
  used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
  resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECS,) * 2)
  try:
    CASES[name][1](path)
    results.put(READ)
  except (images.BrokenImage, ValueError) as error:
    results.put(f'refused: {error}')
  except BaseException as error:
    results.put(repr(error))
  os._exit(0)


def tried(name: str, folder: pathlib.Path) -> str:
  """Returns what became of a file, in words."""
  path = folder / 'file'
  path.write_bytes(CASES[name][0]())
  fork = multiprocessing.get_context('fork')
  results = fork.SimpleQueue()
  child = fork.Process(target=_child, args=(name, path, results))
  child.start()
  child.join(HANGS_SECS)
  if child.is_alive():
    child.kill()
    return 'hangs'
  path.unlink()
  return results.get() if not results.empty() else f'died: {child.exitcode}'


def check(name: str, folder: pathlib.Path) -> str:
  found = tried(name, folder)
  assert found.startswith((READ, 'refused: ')), f'{name}: {found:.500}'
  assert '\n' not in found
  return found


@pytest.mark.parametrize('name', QUICK)
def test_limits(tmp_path, name):
  check(name, tmp_path)


@pytest.mark.rounds
def test_all_limits(tmp_path):
  for name in CASES:
    found = check(name, tmp_path)
    print(f'{name}: {found:.120}')  # noqa: T201
  print(f'{len(CASES)} of {len(CASES)} files')  # noqa: T201
