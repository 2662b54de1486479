"""Inception-v3 against a plain NumPy forward pass written from its tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import inception
from tests.helpers import inception_weights


DIVISOR = 16
SIDE = 107  # every map keeps two pixels


class Reference:
  """The forward pass, one layer after the other."""

  def __init__(self, variables):
    self.params, self.stats = variables['params'], variables['batch_stats']

  def conv(self, x, *names, stride=1, pad=(0, 0)):
    params, stats = self.params, self.stats
    for name in names:
      params, stats = params[name], stats[name]
    kernel = np.float64(params['conv']['kernel'])
    kh, kw, _, _ = kernel.shape
    x = np.pad(x, ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)))
    h = (x.shape[1] - kh) // stride + 1
    w = (x.shape[2] - kw) // stride + 1
    y = 0
    for i in range(kh):
      for j in range(kw):
        rows = slice(i, i + stride * (h - 1) + 1, stride)
        columns = slice(j, j + stride * (w - 1) + 1, stride)
        y = y + x[:, rows, columns] @ kernel[i, j]
    norm = params['bn']
    y = (y - stats['bn']['mean']) / np.sqrt(stats['bn']['var'] + 1e-3)
    return np.maximum(y * norm['scale'] + norm['bias'], 0)

  def windows(self, x, stride, value):
    """All 3 x 3 windows, padded by `value` at stride 1."""
    if stride == 1:
      x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)
    h, w = ((n - 3) // stride + 1 for n in x.shape[1:3])
    return np.stack(
      [
        x[:, i:, j:][:, ::stride, ::stride][:, :h, :w]
        for i in range(3)
        for j in range(3)
      ]
    )

  def largest(self, x, stride):
    return self.windows(x, stride, -np.inf).max(0)

  def average(self, x):
    ones = self.windows(np.ones_like(x), 1, 0).sum(0)
    return self.windows(x, 1, 0).sum(0) / ones

  def block_a(self, x, name):
    c = functools.partial(self.chain, name)
    return [
      c(x, ('branch1x1', 0)),
      c(x, ('branch5x5_1', 0), ('branch5x5_2', 2)),
      c(x, ('branch3x3dbl_1', 0), ('branch3x3dbl_2', 1), ('branch3x3dbl_3', 1)),
      c(self.average(x), ('branch_pool', 0)),
    ]

  def chain(self, block, x, *steps):
    for name, pad in steps:
      pad = pad if isinstance(pad, tuple) else (pad, pad)
      x = self.conv(x, block, name, pad=pad)
    return x

  def block_c(self, x, name):
    c = functools.partial(self.chain, name)
    tall, wide = (3, 0), (0, 3)
    return [
      c(x, ('branch1x1', 0)),
      c(x, ('branch7x7_1', 0), ('branch7x7_2', wide), ('branch7x7_3', tall)),
      c(
        x,
        ('branch7x7dbl_1', 0),
        ('branch7x7dbl_2', tall),
        ('branch7x7dbl_3', wide),
        ('branch7x7dbl_4', tall),
        ('branch7x7dbl_5', wide),
      ),
      c(self.average(x), ('branch_pool', 0)),
    ]

  def block_e(self, x, name, pool):
    c = functools.partial(self.chain, name)
    tall, wide = (1, 0), (0, 1)
    one = c(x, ('branch3x3_1', 0))
    two = c(x, ('branch3x3dbl_1', 0), ('branch3x3dbl_2', 1))
    return [
      c(x, ('branch1x1', 0)),
      c(one, ('branch3x3_2a', wide)),
      c(one, ('branch3x3_2b', tall)),
      c(two, ('branch3x3dbl_3a', wide)),
      c(two, ('branch3x3dbl_3b', tall)),
      c(pool(x), ('branch_pool', 0)),
    ]

  def __call__(self, x):
    join = lambda parts: np.concatenate(parts, -1)
    x = self.conv(np.float64(x), 'Conv2d_1a_3x3', stride=2)
    x = self.conv(x, 'Conv2d_2a_3x3')
    x = self.largest(self.conv(x, 'Conv2d_2b_3x3', pad=(1, 1)), 2)
    x = self.conv(x, 'Conv2d_3b_1x1')
    x = self.largest(self.conv(x, 'Conv2d_4a_3x3'), 2)
    for name in ('Mixed_5b', 'Mixed_5c', 'Mixed_5d'):
      x = join(self.block_a(x, name))
    y = self.chain('Mixed_6a', x, ('branch3x3dbl_1', 0), ('branch3x3dbl_2', 1))
    x = join(
      [
        self.conv(x, 'Mixed_6a', 'branch3x3', stride=2),
        self.conv(y, 'Mixed_6a', 'branch3x3dbl_3', stride=2),
        self.largest(x, 2),
      ]
    )
    for name in ('Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e'):
      parts = self.block_c(x, name)
      if name == 'Mixed_6d':
        spatial = parts[0][..., :7].reshape(len(x), -1)
      x = join(parts)
    y = self.chain('Mixed_7a', x, ('branch3x3_1', 0))
    z = self.chain(
      'Mixed_7a',
      x,
      ('branch7x7x3_1', 0),
      ('branch7x7x3_2', (0, 3)),
      ('branch7x7x3_3', (3, 0)),
    )
    x = join(
      [
        self.conv(y, 'Mixed_7a', 'branch3x3_2', stride=2),
        self.conv(z, 'Mixed_7a', 'branch7x7x3_4', stride=2),
        self.largest(x, 2),
      ]
    )
    x = join(self.block_e(x, 'Mixed_7b', self.average))
    x = join(
      self.block_e(x, 'Mixed_7c', functools.partial(self.largest, stride=1))
    )
    pool = x.mean((1, 2))
    unbiased = pool @ np.float64(self.params['fc']['kernel'])
    return pool, spatial, unbiased + self.params['fc']['bias'], unbiased


def test_parameters_of_the_published_network():
  image = jnp.zeros((1, 299, 299, 3))
  network = inception.InceptionV3()
  outputs, variables = jax.eval_shape(
    lambda: network.init_with_output(jax.random.key(0), image)
  )
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert count(variables['params']) == 23_850_960
  assert count(variables['params']['fc']) == 23_850_960 - 21_785_568
  assert outputs.pool.shape == (1, 2048)
  assert outputs.spatial.shape == (1, 2023)
  assert outputs.logits.shape == outputs.logits_unbiased.shape == (1, 1008)


def test_shapes_of_the_table():
  network = inception.InceptionV3()

  def shapes():
    _, taken = network.init_with_output(
      jax.random.key(0),
      jnp.zeros((1, 299, 299, 3)),
      capture_intermediates=lambda module, _: len(module.path) == 1,
      mutable=['params', 'batch_stats', 'intermediates'],
    )
    return taken['intermediates']

  got = {
    name: jax.tree.leaves(value['__call__'])[0].shape[1:]
    for name, value in jax.eval_shape(shapes).items()
  }
  want = {
    'Conv2d_1a_3x3': (149, 149, 32),
    'Conv2d_2a_3x3': (147, 147, 32),
    'Conv2d_2b_3x3': (147, 147, 64),
    'Conv2d_3b_1x1': (73, 73, 80),
    'Conv2d_4a_3x3': (71, 71, 192),
    'Mixed_5b': (35, 35, 256),
    'Mixed_5d': (35, 35, 288),
    'Mixed_6a': (17, 17, 768),
    'Mixed_6e': (17, 17, 768),
    'Mixed_7a': (8, 8, 1280),
    'Mixed_7b': (8, 8, 2048),
    'Mixed_7c': (8, 8, 2048),
  }
  assert {name: got.get(name) for name in want} == want


def test_equals_the_numpy_forward():
  rng = np.random.default_rng(1)
  x = rng.uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
  network = inception.InceptionV3(DIVISOR)
  variables = inception_weights.variables(network)
  got = jax.jit(network.apply)(variables, x)
  names = ('pool', 'spatial', 'logits', 'logits_unbiased')
  for name, want in zip(names, Reference(variables)(x), strict=True):
    value = getattr(got, name)
    assert value.shape == want.shape, name
    np.testing.assert_allclose(
      value, want, atol=1e-5 * np.abs(want).max(), err_msg=name
    )
  e = np.exp(np.float64(got.logits))
  np.testing.assert_allclose(
    got.probabilities, e / e.sum(1, keepdims=True), rtol=1e-4
  )


def test_averages_leave_padding_out_and_the_last_block_takes_maxima():
  x = np.full((1, 4, 4, 1), 2.5, np.float32)
  np.testing.assert_allclose(inception._pooled(x, 'average'), x)
  x = np.zeros((1, 5, 5, 1), np.float32)
  x[0, 2, 2] = 1
  want = np.zeros((1, 5, 5, 1), np.float32)
  want[0, 1:4, 1:4] = 1
  np.testing.assert_array_equal(inception._pooled(x, 'max'), want)
  np.testing.assert_array_equal(inception._pooled(-want, 'max')[0, 2, 2], -1)
  pools = {name: pool for name, _, pool in inception.BLOCKS}
  assert [name for name, pool in pools.items() if pool == 'max'] == ['Mixed_7c']


@pytest.mark.parametrize('shape', [(64, 48), (299, 299), (400, 310)])
def test_resize_of_tensorflow_1(shape):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1, *shape, 3), dtype=np.uint8)
  got = np.asarray(jax.jit(inception.preprocess)(images))
  assert got.shape == (1, 299, 299, 3)
  for row, column in ((0, 0), (298, 298), (17, 200), (150, 3)):
    y, x = row * shape[0] / 299, column * shape[1] / 299
    top, left = int(y), int(x)
    below, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
    dy, dx = y - top, x - left
    corner = np.float64(images[0])
    want = (
      corner[top, left] * (1 - dy) * (1 - dx)
      + corner[top, right] * (1 - dy) * dx
      + corner[below, left] * dy * (1 - dx)
      + corner[below, right] * dy * dx
    )
    np.testing.assert_allclose(
      got[0, row, column], (want - 128) / 128, atol=1e-4
    )


@pytest.mark.parametrize('shape', [(1, 74, 80, 3), (1, 80, 80, 1), (80, 80, 3)])
def test_refuses(shape):
  network = inception.InceptionV3(DIVISOR)
  with pytest.raises(ValueError, match='at least 75, got'):
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))
