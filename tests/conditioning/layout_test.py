import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.conditioning import layout


# Golden rows of the official builder (shuffle off): boxes A, B, C with
# categories 5, 17, 2; C lies outside of the crop; B is a group.
BOXES = np.array(
  [[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 1.0, 1.0], [0.0, 0.9, 0.05, 1.0]]
)
LABELS = np.array([6, 18, 3])
GROUP = np.array([0, 1, 0])
COCO = layout.Vocabulary(no_tokens=1024, n_classes=171)
CROP = np.array([0.125, 0.0, 0.875, 1.0])
ROWS = {
  'coco': (None, 8, 1024, 171, 0, False, [5, 195, 620, 17, 528, 1023]),
  'mirror': (None, 8, 1024, 171, 0, True, [5, 211, 636, 17, 512, 1008]),
  'open': (GROUP, 30, 8192, 601, 0, False, [5, 1629, 4806, 618, 4004, 8099]),
  'vg': (None, 30, 1024, 179, 179, False, [5, 374, 799, 17, 707, 1202]),
}
EXTRA = {
  'coco': [4, 1019],
  'mirror': [4, 1019],
  'open': [11, 8088],
  'vg': [183, 1198],
}


@pytest.mark.parametrize('name', ROWS)
@pytest.mark.parametrize('traced', [False, True])
def test_official_rows(name, traced):
  flags, n_max, no_tokens, n_classes, shift, flipped, head = ROWS[name]
  vocabulary = layout.Vocabulary(
    no_tokens=no_tokens, n_classes=n_classes, shift=shift
  )
  want = head + [no_tokens - 1] * (3 * n_max - 6) + EXTRA[name]

  def build(boxes, labels, flags, crop, flipped):
    return layout.layout_tokens(
      boxes, labels, flags, n_max, vocabulary, crop, flipped
    )

  if traced:
    f32 = BOXES.astype(np.float32)
    got = jax.jit(build)(f32, LABELS, flags, CROP.astype(np.float32), flipped)
    assert isinstance(got, jax.Array)
  else:
    got = build(BOXES, LABELS, flags, CROP, flipped)
    assert isinstance(got, np.ndarray)
  assert got.dtype == np.int32
  np.testing.assert_array_equal(got, want)


def test_without_crop_boxes_stay_and_no_crop_tokens_follow():
  got = layout.layout_tokens(BOXES, LABELS, None, 4, COCO)
  # C: (0, .9) -> round(27.9) = 28, cell 896; (.05, 1) -> round(1.55) = 2.
  want = [5, 195, 620, 17, 528, 1023, 2, 896, 994, 1023, 1023, 1023]
  np.testing.assert_array_equal(got, want)


def test_halves_round_to_even():
  # .25 * 31 = 7.75 -> 8; .5 * 31 = 15.5 -> 16, and 14.5 -> 14.
  points = np.array([[0.5, 0.25], [14.5 / 31, 0.0]])
  for xy in (points, jnp.asarray(points)):
    np.testing.assert_array_equal(COCO.positions(xy), [272, 14])


def test_padding_and_empty_boxes_are_dropped_and_the_rest_moves_up():
  boxes = np.array(
    [
      [np.nan] * 4,
      [0.2, 0.2, 0.2, 0.6],  # no width
      [0.0, 0.0, 1.0, 1.0],
      [0.9, 0.0, 1.0, 1.0],  # touches the crop's side only
    ]
  )
  got = layout.layout_tokens(
    boxes,
    np.array([0, 4, 9, 2]),
    None,
    2,
    COCO,
    crop=np.array([0.0, 0.0, 0.9, 1.0]),
  )
  # The crop ends at round(.9 * 31) = 28 -> 31 * 32 + 28.
  np.testing.assert_array_equal(got, [8, 0, 1023, 1023, 1023, 1023, 0, 1020])


def test_label_zero_is_padding_whatever_its_box():
  got = layout.layout_tokens(BOXES, np.array([0, 18, 0]), None, 1, COCO)
  np.testing.assert_array_equal(got, [17, 528, 1023])


def test_more_boxes_than_places_are_cut_off():
  got = layout.layout_tokens(BOXES, LABELS, None, 1, COCO)
  np.testing.assert_array_equal(got, [5, 195, 620])


def test_box_that_begins_outside_keeps_its_size():
  boxes = np.array([[-0.2, 0.5, 0.3, 1.5]])
  got = layout.layout_tokens(boxes, np.array([1]), None, 1, COCO)
  # x: 0..0.5, y: .5..1.
  np.testing.assert_array_equal(got, [0, 512, 1008])


def test_batch_equals_single_examples_and_vmap():
  rng = np.random.default_rng(0)
  corner = rng.uniform(0, 0.7, (5, 6, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(0, 0.3, (5, 6, 2))], -1)
  boxes = boxes.astype(np.float32)
  labels = rng.integers(0, 4, (5, 6))
  crop = np.tile(np.array([0.1, 0.0, 0.8, 1.0], np.float32), (5, 1))
  flipped = rng.integers(0, 2, 5).astype(bool)

  vocabulary = layout.Vocabulary(no_tokens=1024, n_classes=3)

  def one(boxes, labels, crop, flipped):
    return layout.layout_tokens(
      boxes, labels, None, 6, vocabulary, crop, flipped
    )

  batched = one(boxes, labels, crop, flipped)
  single = [one(*row) for row in zip(boxes, labels, crop, flipped, strict=True)]
  np.testing.assert_array_equal(batched, single)
  mapped = jax.jit(jax.vmap(one))(boxes, labels, crop, flipped)
  np.testing.assert_array_equal(batched, mapped)


def test_too_many_categories_are_refused():
  with pytest.raises(ValueError, match='2000 categories .* no_tokens=1024'):
    layout.Vocabulary(no_tokens=1024, n_classes=2000)
