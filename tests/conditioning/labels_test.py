import jax
import numpy as np

from pyramid_jax.conditioning import layout


COCO = layout.Vocabulary(no_tokens=1024, n_classes=171)
OPEN = layout.Vocabulary(no_tokens=8192, n_classes=601)


def test_official_row_and_padding_in_between():
  ids = np.array([6, 0, 18])
  want = [5, 17, 1023, 1023, 1023, 1023, 1023, 1023]
  got = layout.label_tokens(ids, 8, COCO)
  np.testing.assert_array_equal(got, want)
  traced = jax.jit(lambda x: layout.label_tokens(x, 8, COCO))(ids)
  np.testing.assert_array_equal(traced, want)
  assert traced.dtype == got.dtype == np.int32


def test_flags_batch_and_cut():
  got = layout.label_tokens(
    np.array([[1, 2], [0, 3]]), 1, OPEN, np.array([[1, 0], [0, 2]])
  )
  np.testing.assert_array_equal(got, [[601], [2 + 2 * 601]])
