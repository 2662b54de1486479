import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import augmentation


PIPE = augmentation.Augmentation()


def images(count=3, height=12, width=12):
  return jax.random.normal(jax.random.key(1), (count, height, width, 2))


def moves(count=3, **changes):
  """Parameters that do nothing, but for the given ones."""
  zeros = jnp.zeros((count,))
  pairs = jnp.zeros((count, 2))
  still = augmentation.AugmentParams(
    xflip=zeros.astype(int),
    yflip=zeros.astype(int),
    scale=zeros,
    angle=zeros,
    aniso=zeros,
    axis=zeros,
    translation=pairs,
  )
  return still.replace(**{k: jnp.asarray(v) for k, v in changes.items()})


@functools.partial(jax.jit, static_argnums=0)
def applied(pipe, x, m):
  return pipe.apply(x, m)


def test_probability_zero_is_the_identity():
  pipe = dataclasses.replace(PIPE, probability=0.0)
  got, labels = jax.jit(pipe)(images(), jax.random.key(0))
  np.testing.assert_array_equal(got, images())
  np.testing.assert_array_equal(labels, np.zeros((3, 9)))


def test_images_that_are_not_moved_keep_every_bit():
  got = applied(PIPE, images(), moves(angle=[0.0, 0.3, 0.0], axis=[0.0, 1, 2]))
  np.testing.assert_array_equal(got[::2], images()[::2])
  assert np.abs(got[1] - images()[1]).max() > 0.1


def test_flips_are_exact():
  x = np.asarray(images())
  got = applied(PIPE, x, moves(xflip=[1, 0, 1], yflip=[0, 1, 1]))
  want = [x[0, :, ::-1], x[1, ::-1], x[2, ::-1, ::-1]]
  np.testing.assert_array_equal(got, want)


def blob(x, y):
  """A smooth image that has no symmetry."""
  return np.exp(-(((x - 2) / 3) ** 2) - ((y + 1) / 4) ** 2)


def grid(n):
  return np.meshgrid(np.arange(n) - (n - 1) / 2, np.arange(n) - (n - 1) / 2)


@pytest.mark.parametrize(
  ('changes', 'place'),
  [
    # What the result shows at (x, y) is what the source has at `place`.
    ({'scale': [2.0]}, lambda x, y: (x / 2**0.4, y / 2**0.4)),
    (
      {'angle': [0.4]},  # against the clock on the screen
      lambda x, y: (
        np.cos(0.4) * x - np.sin(0.4) * y,
        np.sin(0.4) * x + np.cos(0.4) * y,
      ),
    ),
    ({'aniso': [1.5]}, lambda x, y: (x / 2**0.3, y * 2**0.3)),
    (
      {'aniso': [1.5], 'axis': [np.pi / 2]},
      lambda x, y: (x * 2**0.3, y / 2**0.3),
    ),
    (
      {'translation': [[0.5, -0.3]]},  # 2 to the right, 1.2 up
      lambda x, y: (x - 0.0625 * 32, y + 0.0375 * 32),
    ),
  ],
)
def test_smooth_images_move_as_they_should(changes, place):
  x, y = grid(32)
  image = jnp.asarray(blob(x, y), jnp.float32)[None, ..., None]
  got = applied(PIPE, image, moves(1, **changes))[0, ..., 0]
  np.testing.assert_allclose(got, blob(*place(x, y)), atol=0.01)


def oracle(image, inverse):
  """The official order of operations, one line at a time, in float64.

  (H, W) -> (H, W), with no margin saved and plain convolutions.
  """
  taps = np.array([float(t) for t in TAPS.split()])
  height, width = image.shape
  padded = np.pad(image, ((height - 1,) * 2, (width - 1,) * 2), mode='reflect')
  for _ in range(2):  # rows, then, transposed, columns
    spread = np.zeros((padded.shape[0], 2 * padded.shape[1]))
    spread[:, ::2] = padded
    # out[k] = sum of tap[m] z[k + 5 - m]
    full = np.stack([np.convolve(line, taps) for line in spread])
    padded = full[:, 5 : 5 + spread.shape[1]].T
  rows, columns = 2 * height + 12, 2 * width + 12
  result = np.zeros((rows, columns))
  for i in range(rows):
    for j in range(columns):
      # Half a pixel to the left of the dense grid's middle, both ways.
      p = [(j + 0.5 - columns / 2) / 2 + 0.25, (i + 0.5 - rows / 2) / 2 + 0.25]
      q = inverse @ [*p, 1.0]
      u = 2 * q[0] - 0.5 + (padded.shape[1] - 1) / 2
      v = 2 * q[1] - 0.5 + (padded.shape[0] - 1) / 2
      for a in (int(np.floor(u)), int(np.floor(u)) + 1):
        for b in (int(np.floor(v)), int(np.floor(v)) + 1):
          if 0 <= a < padded.shape[1] and 0 <= b < padded.shape[0]:
            weight = (1 - abs(u - a)) * (1 - abs(v - b))
            result[i, j] += weight * padded[b, a]
  for size in (width, height):
    # out[k] = sum of tap[m] z[2 k + m - 5], three outputs cut at either end
    full = np.stack([np.convolve(line, taps[::-1]) for line in result])
    result = full[:, 6 + 6 : 6 + 6 + 2 * size : 2].T
  return result


TAPS = """
0.015404109327027373 0.0034907120842174702 -0.11799011114819057
-0.048311742585633 0.4910559419267466 0.787641141030194 0.3379294217276218
-0.07263752278646252 -0.021060292512300564 0.04472490177066578
0.0017677118642428036 -0.007800708325034148
"""


def inverse_of(pipe, m, i, size):
  """The product of the specification, for one image."""
  turn = lambda a: np.array(
    [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
  )
  scale = lambda x, y: np.diag([x, y, 1.0])
  m = jax.tree.map(lambda v: np.asarray(v[i], np.float64), m)
  s, a = 2 ** (pipe.scale_std * m.scale), 2 ** (pipe.aniso_std * m.aniso)
  shift = np.eye(3)
  shift[:2, 2] = -m.translation * pipe.translate_frac_std * np.array(size[::-1])
  inv = np.linalg.inv
  product = inv(scale(s, s)) @ inv(turn(-m.angle)) @ inv(turn(m.axis))
  return product @ inv(scale(a, 1 / a)) @ inv(turn(-m.axis)) @ shift


def test_random_moves_equal_the_oracle():
  pipe = dataclasses.replace(PIPE, probability=1.0, xflip=0.0, yflip=0.0)
  x = images(3, 8, 10)
  m = pipe.draw(jax.random.key(2), 3)
  got = applied(pipe, x, m)
  for i in range(3):
    for c in range(2):
      want = oracle(
        np.asarray(x[i, ..., c], np.float64), inverse_of(pipe, m, i, (8, 10))
      )
      np.testing.assert_allclose(got[i, ..., c], want, atol=2e-4)


def test_labels_of_all_moves():
  m = moves(
    1,
    xflip=[1],
    yflip=[1],
    scale=[0.7],
    angle=[0.3],
    aniso=[-1.2],
    axis=[0.8],
    translation=[[0.2, -0.4]],
  )
  shared = [0.7, np.cos(0.3) - 1, np.sin(0.3)]
  shared += [-1.2 * np.cos(0.8), -1.2 * np.sin(0.8), 0.2, -0.4]
  assert PIPE.label_size == 9
  np.testing.assert_allclose(PIPE.labels(m), [[1, 1, *shared]], rtol=1e-6)
  none = augmentation.Augmentation(
    **dict.fromkeys(
      ('xflip', 'yflip', 'scale', 'rotate_frac', 'aniso', 'translate_frac'), 0
    )
  )
  got, labels = none(images(), jax.random.key(0))
  assert labels.shape == (3, none.label_size) == (3, 0)
  np.testing.assert_array_equal(got, images())


def test_how_often_and_how_far():
  pipe = dataclasses.replace(PIPE, probability=0.2, rotate_frac_max=0.5)
  m = pipe.draw(jax.random.key(0), 20_000)
  often = lambda x: float((np.asarray(x) != 0).mean())
  assert often(m.xflip) == pytest.approx(0.5, abs=0.02)  # every image
  assert often(m.yflip) == pytest.approx(0.1, abs=0.01)
  for x in (m.scale, m.angle, m.aniso, m.translation[:, 0]):
    assert often(x) == pytest.approx(0.2, abs=0.015)
  assert often(m.axis) == pytest.approx(0.5, abs=0.02)
  x = m.translation  # both or neither
  np.testing.assert_array_equal(x[:, 0] == 0, x[:, 1] == 0)
  for x in (m.scale, m.aniso, m.translation):
    values = np.asarray(x)[np.asarray(x) != 0]
    assert values.std() == pytest.approx(1, abs=0.05)
    assert values.mean() == pytest.approx(0, abs=0.06)
  assert np.abs(m.angle).max() == pytest.approx(np.pi / 2, abs=0.01)
  assert np.abs(m.axis).max() == pytest.approx(np.pi, abs=0.01)
  # Which moves befall an image is independent.
  both = (np.asarray(m.scale) != 0) & (np.asarray(m.angle) != 0)
  assert both.mean() == pytest.approx(0.04, abs=0.006)


def test_a_batch_is_a_function_of_its_key():
  pipe = dataclasses.replace(PIPE, probability=0.7)
  run = jax.jit(pipe)
  one, again, other = (run(images(), jax.random.key(i)) for i in (0, 0, 1))
  for got, want in zip(one, again, strict=True):
    np.testing.assert_array_equal(got, want)
  assert np.abs(one[1] - other[1]).max() > 0.01
  assert one[0].dtype == one[1].dtype == jnp.float32


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'probability': 1.2}, r'probability is 1.2, must be in \[0, 1\]'),
    ({'aniso_rotate_prob': -1}, 'aniso_rotate_prob is -1, must be in'),
    ({'scale': -1}, 'scale is -1, must be at least 0'),
    ({'aniso_std': -0.5}, 'aniso_std is -0.5, must be at least 0'),
  ],
)
def test_bad_options_are_told(options, message):
  with pytest.raises(ValueError, match=message):
    augmentation.Augmentation(**options)
