"""HDR images: Radiance files, arrays, and the reader of both."""

import io

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import radiance
from pyramid_jax.data.readers import hdr
from pyramid_jax.networks.layers import tone_curves
from tests.helpers import configs


HEADER = b'#?RADIANCE\n# made here\nFORMAT=32-bit_rle_rgbe\nEXPOSURE=2\n\n'
# A row of ten pixels: each channel a run of 6 and four literal bytes.
RUNS = b'\x02\x02\x00\x0a' + b''.join(
  b'\x86' + bytes([c]) + b'\x04' + bytes([c + 1, c + 2, c + 3, c + 4])
  for c in (10, 50, 90, 128)
)


def array(values, dtype=np.float32):
  stream = io.BytesIO()
  np.save(stream, np.asarray(values, dtype))
  return stream.getvalue()


def test_light_is_written_and_read():
  light = np.random.default_rng(0).uniform(0, 1, (5, 11, 3)) ** 8 * 1e3
  light[0, 0] = 0
  back = radiance.decode(radiance.encode(light), 'x.hdr')
  assert (back.shape, back.dtype) == ((5, 11, 3), np.float32)
  most = light.max(-1, keepdims=True)
  assert (np.abs(back - light) <= most / 128).all()
  assert not back[0, 0].any()
  exact = np.array([[[1.0, 0.5, 0.25], [64, 96, 3]]])
  np.testing.assert_array_equal(
    radiance.decode(radiance.encode(exact), ''), exact
  )


def test_runs_are_unpacked():
  found = radiance.decode(HEADER + b'-Y 2 +X 10\n' + RUNS + RUNS, 'x.hdr')
  assert found.shape == (2, 10, 3)
  np.testing.assert_array_equal(found[0], found[1])
  # The exponent is 128 for six pixels, then 129 to 132: mantissa / 256 times 1,
  # 2, 4, 8, 16.
  np.testing.assert_array_equal(found[0, 0], np.array([10, 50, 90]) / 256)
  np.testing.assert_array_equal(found[0, 6], np.array([11, 51, 91]) / 128)
  np.testing.assert_array_equal(found[0, 9], np.array([14, 54, 94]) / 16)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\n1234', 'of RGBE'),
    (HEADER + b'+X 1 +Y 1\n1234', 'rows go down'),
    (HEADER + b'-Y 1 +X 2\n1234', '4 of 8 bytes'),
    (HEADER + b'-Y 2 +X 10\n' + RUNS, 'does not begin'),
    (HEADER + b'-Y 1 +X 10\n' + RUNS[:9], 'bytes than pixels'),
    (HEADER + b'-Y 1 +X 10\n' + RUNS[:4] + b'\x8b\x01', 'leaves its row'),
    (HEADER + b'-Y 999999 +X 999999\n', '999999 x 999999 px'),
    (b'no image', 'no array of NumPy'),
    (array(np.zeros((2, 2))), r'\(2, 2\) of float32, must be floats'),
    (array(np.zeros((2, 2, 3)), np.uint8), 'of uint8, must be floats'),
    (array(np.full((2, 2, 3), -1)), 'less than no light'),
    (array(np.full((2, 2, 3), np.inf)), 'Inf'),
    (array(np.zeros((2, 2, 3)))[:-1], '47 of 48 bytes'),
  ],
)
def test_what_is_no_light_is_refused(content, message):
  with pytest.raises(images.BrokenImage, match=message):
    radiance.decode(content, 'x')


def test_the_curves_are_inverse():
  light = np.array([0, 0.001, 0.18, 1, 10, 64])
  x = tone_curves.encoded(light, np)
  assert (x[0], x[-1]) == (0, 1)
  np.testing.assert_allclose(tone_curves.decoded(x, np), light, atol=1e-9)
  x = tone_curves.to_srgb(light, np)
  np.testing.assert_allclose(x[[0, 2, 3, 4]], [0, 0.4613561, 1, 1], atol=1e-6)
  np.testing.assert_allclose(
    tone_curves.from_srgb(x, np), np.minimum(light, 1), atol=1e-6
  )


def test_files_of_both_kinds_are_examples(tmp_path):
  light = np.full((8, 8, 3), 2.0)
  light[:4] = 0.5
  light[0, 0] = 64.0  # less than five percent
  (tmp_path / 'a.hdr').write_bytes(radiance.encode(light))
  (tmp_path / 'b.npy').write_bytes(array(7 * light))
  (tmp_path / 'c.txt').write_text('no image')
  config = configs.of_reader('hdr', tmp_path, image_size=8)
  reader = data.create(config, 'train')
  assert len(reader) == 2
  batch = reader.batch(np.arange(2), np.zeros(2, np.uint64))
  one, other = batch['image']
  np.testing.assert_array_equal(one, other)  # whatever the scale of the light
  want = np.round(255 * tone_curves.encoded(np.array([0.25, 1, 32]), np))
  assert [one[1, 0, 0], one[5, 0, 0], one[0, 0, 0]] == want.tolist()
  assert hdr.missing_inputs(config) == []
  with pytest.raises(FileNotFoundError, match=r'none \(HDR images'):
    data.create(configs.of_reader('hdr', tmp_path / 'none'), 'train')
