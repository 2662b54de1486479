"""Values that nobody means, for property tests, and how many are tried."""

import math
import os

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_lib
import numpy as np
from PIL import Image


ROUNDS = 400  # of each property; all of them try 2,000

NUMBERS = (
  *(math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, 2.0**64, -0.0),
  *(
    0,
    -1,
    1,
    2,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    10**4000,
  ),
  *(np.float32(np.nan), np.int64(3), np.float16(0.5), np.bool_(True), True),
  *(1j, np.complex64(1)),
)
TEXTS = (
  *('', ' ', '\0', '\n', '\x1b[2J', '\udc80', 'e\u0301', '\u2028', '1e400'),
  *('nan', 'inf', '-inf', '1' * 5000, 'a' * 10_000, 'red circle', '1,2,3'),
  *('(', '[1', "('a',", '\'"', '--seed=1', '../..', '~nobody', '/dev/null'),
)
DTYPES = (np.bool_, np.uint8, np.int64, np.float16, np.float32, np.float64)
DTYPES += (np.complex64, np.dtype('U2'), np.dtype('S2'), np.dtype('M8[s]'))


def texts():
  """Any text: with surrogates and control characters, empty, very long."""
  some = st.text(st.characters(exclude_categories=()), max_size=30)
  return st.sampled_from(TEXTS) | some


def numbers():
  return st.sampled_from(NUMBERS) | st.integers() | st.floats()


def things():
  """Values of JSON and of Python that are not what was asked for."""
  leaves = st.none() | st.booleans() | numbers() | texts() | st.binary()
  return st.recursive(
    leaves,
    lambda x: (
      st.lists(x, max_size=4)
      | st.tuples(x, x)
      | st.dictionaries(texts(), x, max_size=3)
    ),
    max_leaves=8,
  )


def arrays():
  """Arrays of many types and of ranks from 0 to 4, empty ones too."""
  shapes = arrays_lib.array_shapes(
    min_dims=0, max_dims=4, min_side=0, max_side=9
  )
  return st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_lib.arrays(dtype, shapes)
  )


def images():
  """Images of Pillow, arrays, names of files, and lists of them."""
  modes = st.sampled_from(['1', 'L', 'P', 'RGB', 'RGBA', 'CMYK', 'I', 'F'])
  sides = st.integers(1, 40)
  opened = st.builds(Image.new, modes, st.tuples(sides, sides))
  one = opened | arrays() | texts()
  return one | st.lists(one, max_size=3)


def examples(count, **strategies):
  """Runs a test on `count` examples, the same ones each time.

  `PYRAMID_JAX_FAULT_SEED` chooses others.
  """
  seed = os.environ.get('PYRAMID_JAX_FAULT_SEED')

  def decorate(test):
    given = hypothesis.given(**strategies)(test)
    wrapped = hypothesis.settings(
      max_examples=count,
      derandomize=seed is None,
      database=None,
      deadline=None,
      suppress_health_check=list(hypothesis.HealthCheck),
      phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )(given)
    return wrapped if seed is None else hypothesis.seed(int(seed))(wrapped)

  return decorate
