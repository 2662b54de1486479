"""Resizing, crops and flips by hand."""

import hashlib
import itertools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import limits
from pyramid_jax.conditioning import hashing
from pyramid_jax.data.pixels import transforms


def gradient(height, width):
  """An image whose pixels have the colours of their positions."""
  y, x = np.mgrid[:height, :width]
  return np.stack([x, y, x + y], -1).astype(np.uint8)


def test_resize_bilinear_by_hand():
  row = np.array([[[0, 0, 0], [100, 50, 10], [201, 50, 10], [255, 0, 0]]])
  image = row.astype(np.uint8)
  # Halving without antialiasing: the mean of pixels 2i and 2i + 1, cut off.
  got = transforms.resize_bilinear(image, (2, 1), (0, 0, 2, 1))
  np.testing.assert_array_equal(got, [[[50, 25, 5], [228, 25, 5]]])
  # Doubling: weights 1/4 and 3/4, borders repeated.
  got = transforms.resize_bilinear(image[:, :2], (4, 1), (0, 0, 4, 1))
  np.testing.assert_array_equal(got[0, :, 0], [0, 25, 75, 100])
  # Of four pixels one in three: taps at 0.833 - no box filter.
  got = transforms.resize_bilinear(image, (3, 1), (0, 0, 3, 1))
  np.testing.assert_array_equal(got[0, :, 0], [16, 150, 246])


@pytest.mark.parametrize('size', [(31, 17), (9, 40), (64, 64)])
def test_resize_bilinear_is_linear_without_antialias(size):
  image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
  got = transforms.resize_bilinear(image, size, (0, 0, *size))
  want = jax.image.resize(
    jnp.asarray(image, jnp.float32),
    (size[1], size[0], 3),
    'linear',
    antialias=False,
  )
  error = np.asarray(want) - got
  assert error.min() > -1e-3
  assert error.max() < 1 + 1e-3


@pytest.mark.parametrize(
  'resize', [transforms.resize_bilinear, transforms.resize_bicubic]
)
def test_window_is_a_part_of_the_whole(resize):
  image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
  whole = resize(image, (30, 20), (0, 0, 30, 20)).astype(int)
  part = resize(image, (30, 20), (5, 3, 10, 12)).astype(int)
  assert part.shape == (12, 10, 3)
  error = np.abs(part - whole[3:15, 5:15])
  assert error.max() <= (resize is transforms.resize_bicubic)


def test_smooth_resize_averages():
  checks = np.indices((32, 32)).sum(0) % 2 * 255
  image = np.repeat(checks[..., None], 3, -1).astype(np.uint8)
  got = transforms.resize_bicubic(image, (4, 4), (0, 0, 4, 4))
  assert np.abs(got.astype(int) - 127).max() <= 12


def test_area_resize_is_the_mean():
  image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
  got = transforms.resize_area(image, (2, 2), (0, 0, 2, 2))
  want = image.reshape(2, 4, 2, 4, 3).mean((1, 3))
  assert np.abs(got - want).max() <= 1  # both passes round


def test_maps_take_their_nearest_values():
  values = np.arange(24).reshape(4, 6)
  crop = transforms.middle(values.shape)
  np.testing.assert_allclose(crop, [1 / 6, 0, 5 / 6, 1])
  np.testing.assert_allclose(transforms.middle((6, 3, 3)), [0, 0.25, 1, 0.75])
  # A part of 1 : 2 of 4 x 6 pixels has 3 rows.
  wide = transforms.middle(values.shape, (8, 16))
  np.testing.assert_allclose(wide, [0, 1 / 8, 1, 7 / 8])
  assert transforms.cut_map(values, wide, (1, 2)).tolist() == [[13, 16]]
  cut = lambda size, **kwargs: transforms.cut_map(values, crop, size, **kwargs)
  np.testing.assert_array_equal(cut(4), values[:, 1:5])
  np.testing.assert_array_equal(cut(4, flipped=True), values[:, 4:0:-1])
  assert cut(2).tolist() == [[8, 10], [20, 22]]
  assert cut(8)[:2, :2].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize('crop', transforms.CROPS)
def test_maps_are_cut_as_their_images(crop):
  values = np.repeat(np.repeat(np.arange(48).reshape(6, 8), 10, 0), 10, 1)
  image = np.repeat(values[..., None].astype(np.uint8), 3, -1)
  transform = transforms.Transform(
    size=24, crop=crop, flip=True, resize=transforms.resize_area
  )
  for draw in range(8):
    pixels, box, flipped = transform(image, draw)
    cut = transforms.cut_map(values, box, 24, flipped)
    # Only where two values meet does a picture have others.
    assert (pixels[..., 0] == cut).mean() > 0.5
    assert np.abs(pixels[..., 0].astype(int) - cut).max() <= 9


def test_square_crop_is_cut_before_it_is_resized():
  image = gradient(5, 12)
  transform = transforms.Transform(
    size=5, crop='square', resize=transforms.resize_bicubic
  )
  pixels, crop, _ = transform(image, 0)
  np.testing.assert_array_equal(pixels, image[:, 3:8])
  np.testing.assert_allclose(crop, [3 / 12, 0, 8 / 12, 1])


def test_random_squares_of_at_least_half_a_side():
  image = gradient(40, 60)
  transform = transforms.Transform(
    size=10, crop='random-half', resize=transforms.resize_area
  )
  sides = []
  for draw in range(60):
    pixels, crop, _ = transform(image, draw)
    left, top, right, bottom = np.round(crop * (60, 40, 60, 40)).astype(int)
    assert right - left == bottom - top
    sides.append(right - left)
    part = image[top:bottom, left:right]
    want = transforms.resize_area(part, (10, 10), (0, 0, 10, 10))
    np.testing.assert_array_equal(pixels, want)
  assert min(sides) in (20, 21)
  assert max(sides) in (39, 38)


def test_adm_crop_halves_first():
  image = np.random.default_rng(1).integers(0, 256, (70, 90, 3))
  image = image.astype(np.uint8)
  pixels, crop, _ = transforms.Transform(size=16, crop='adm')(image, 0)
  halves = Image.fromarray(image)
  for size in ((45, 35), (22, 17)):
    halves = halves.resize(size, Image.Resampling.BOX)
  whole = halves.resize((21, 16), Image.Resampling.BICUBIC)  # 22 * 16 / 17
  np.testing.assert_array_equal(pixels, np.asarray(whole)[:, 2:18])
  np.testing.assert_allclose(crop, [2 / 21, 0, 18 / 21, 1])


def test_random_adm_crop_cuts_anywhere_of_up_to_a_fourth_more():
  image = np.random.default_rng(1).integers(0, 256, (70, 90, 3))
  image = image.astype(np.uint8)
  transform = transforms.Transform(size=16, crop='adm-random')
  halves = Image.fromarray(image)
  for size in ((45, 35), (22, 17)):
    halves = halves.resize(size, Image.Resampling.BOX)
  quarter = halves
  shorts, lefts = set(), set()
  for draw in range(60):
    pixels, crop, _ = transform(image, draw)
    short = round(16 / (crop[3] - crop[1]))
    whole = Image.fromarray(image).resize((45, 35), Image.Resampling.BOX)
    if short < 18:  # 35 is twice that
      whole = quarter
    width = round(whole.width * short / whole.height)
    whole = whole.resize((width, short), Image.Resampling.BICUBIC)
    left, top = round(crop[0] * width), round(crop[1] * short)
    want = np.asarray(whole)[top : top + 16, left : left + 16]
    np.testing.assert_array_equal(pixels, want)
    shorts.add(short)
    lefts.add(left)
  assert shorts == {16, 17, 18, 19, 20}  # 16 / 0.8
  assert len(lefts) > 4


def test_center_crop():
  image = gradient(4, 8)
  transform = transforms.Transform(size=4, crop='center')
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
  pixels, crop, _ = transforms.Transform(size=8)(gradient(4, 6), 0)
  assert pixels.shape == (8, 8, 3)
  # Resized to 12x8, cut at 2: the crop is 2/12..10/12.
  np.testing.assert_allclose(crop, [1 / 6, 0, 5 / 6, 1])
  want = transforms.resize_bilinear(gradient(4, 6), (12, 8), (0, 0, 12, 8))[
    :, 2:10
  ]
  np.testing.assert_array_equal(pixels, want)


def test_random_1d_crop_covers_all_places():
  image = gradient(4, 7)
  transform = transforms.Transform(size=4, crop='random-1d')
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
  transform = transforms.Transform(size=4, crop='random-2d')
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
    want = transforms.resize_bilinear(part, (4, 4), (0, 0, 4, 4))
    np.testing.assert_array_equal(pixels, want)
  assert sides == {4, 5, 6}
  assert len(places) > 12
  # Smaller than the result: the shorter side is taken whole.
  _, crop, _ = transforms.Transform(size=50, crop='random-2d')(image, 0)
  np.testing.assert_allclose(crop[3] - crop[1], 1)


def test_no_crop_squashes():
  pixels, crop, _ = transforms.Transform(size=4, crop='none')(gradient(4, 8), 0)
  np.testing.assert_array_equal(pixels[0, :, 0], [0, 2, 4, 6])
  np.testing.assert_array_equal(crop, [0, 0, 1, 1])


def test_flip():
  image = gradient(4, 4)
  transform = transforms.Transform(size=4, flip=True)
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
  pixels, crop, _ = transforms.Transform(size=256)(thin, 0)
  assert pixels.shape == (256, 256, 3)
  assert crop[2] - crop[0] == pytest.approx(1 / 60000)


def test_unknown_crop():
  with pytest.raises(ValueError, match="'centre'.*center, random-1d"):
    transforms.Transform(size=4, crop='centre')


# Of what this package cut at d477208, which made an array of every image.
RECORDED = 'aeb814d10cf6099409fb7a90d3a9298578130e4807ab538f6e8ddfbd6e4600e2'


def pattern(height, width):
  """An image with edges, by integers alone."""
  y, x, c = np.ogrid[:height, :width, :3]
  return ((x * x * 7 + y * y * 3 + (x * 31 ^ y * 17) * (c + 2)) % 256).astype(
    np.uint8
  )


@pytest.mark.parametrize('opened', [np.asarray, Image.fromarray])
def test_pixels_and_crops_are_those_of_before(opened):
  found = hashlib.sha256()
  shapes = ((48, 64), (37, 25), (300, 70), (17, 17), (9, 40), (130, 128))
  filters = [transforms.RESIZES[x] for x in ('bilinear', 'bicubic', 'area')]
  crops = [x for x in transforms.CROPS if x != 'adm-random']  # came later
  for shape, crop, resize, size in itertools.product(
    shapes, crops, filters, (16, 24, 64)
  ):
    transform = transforms.Transform(
      size=size, crop=crop, flip=True, resize=resize
    )
    for draw in (1, 7):
      pixels, box, flipped = transform(opened(pattern(*shape)), draw)
      found.update(np.ascontiguousarray(pixels).tobytes())
      found.update(box.tobytes() + bytes([flipped]))
  assert found.hexdigest() == RECORDED


@pytest.mark.parametrize('crop', transforms.CROPS)
@pytest.mark.parametrize('resize', transforms.RESIZES.values())
def test_very_oblong_images(crop, resize):
  transform = transforms.Transform(size=64, crop=crop, resize=resize)
  for shape in ((1, 60_000, 3), (60_000, 1, 3)):
    image = np.full(shape, 77, np.uint8)
    tracemalloc.start()
    pixels, box, _ = transform(image, 5)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.shape == (64, 64, 3)
    assert (pixels == 77).all()
    assert (box >= 0).all()
    assert (box <= 1).all()
    assert most < 1 << 28


def test_the_window_of_adm_is_what_is_cut(monkeypatch):
  image = np.random.default_rng(0).integers(0, 255, (12, 300, 3), np.uint8)
  transform = transforms.Transform(size=16, crop='adm')
  want, box, _ = transform(image, 0)
  monkeypatch.setattr(limits, 'IMAGE_PIXELS', 300)
  got, same, _ = transform(image, 0)
  np.testing.assert_array_equal(same, box)
  assert np.abs(got.astype(int) - want).max() <= 1


def test_resize_linear_by_hand():
  row = np.array([[[0, 0, 0], [100, 50, 10], [201, 50, 10], [255, 0, 0]]])
  image = row.astype(np.uint8)
  # Halving without antialiasing: the mean of pixels 2i and 2i + 1.
  got = transforms.resize_linear(image, (2, 1), (0, 0, 2, 1))
  np.testing.assert_array_equal(got, [[[50, 25, 5], [228, 25, 5]]])
  # A quarter, of faces: the pixels 1 and 2 of both directions.
  face = np.zeros((4, 4, 3), np.uint8)
  face[1:3, 1:3] = np.array([[10, 11], [12, 13]])[..., None]
  got = transforms.resize_linear(face, (1, 1), (0, 0, 1, 1))
  np.testing.assert_array_equal(got, np.full((1, 1, 3), 12))  # of 11.5


# Of OpenCV 4.11.0, cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).
OPENCV = {
  ((37, 50), (31, 17)): '00fc22cdd7e1f0eb',
  ((37, 50), (120, 90)): 'bf75cd78c32936b5',
  ((64, 48), (24, 32)): 'fe426f3e8bec00d7',
}


@pytest.mark.parametrize(('shape', 'size'), OPENCV)
def test_resize_linear_has_the_pixels_of_opencv(shape, size):
  count = 3 * shape[0] * shape[1]
  image = (np.arange(count) * 7919 % 65_537 % 256).astype(np.uint8)
  image = image.reshape(*shape, 3)
  got = transforms.resize_linear(image, size, (0, 0, *size))
  found = hashlib.sha256(got.tobytes()).hexdigest()[:16]
  assert found == OPENCV[shape, size]
  part = transforms.resize_linear(image, size, (5, 3, 10, 12))
  np.testing.assert_array_equal(part, got[3:15, 5:15])


def test_crops_of_linear_are_those_of_albumentations():
  # 5 x 4 at 2 px of the shorter side is 2.5 x 2, which rounds to 2 x 2;
  # 7 x 4 is 3.5 x 2, which rounds to 4 x 2.
  for width, whole in ((5, 2), (7, 4)):
    image = gradient(4, width)
    fit = transforms.Transform(size=2, resize=transforms.resize_linear)
    got, _, _ = fit(image, 0)
    left = (whole - 2) // 2
    window = (left, 0, 2, 2)
    want = transforms.resize_linear(image, (whole, 2), window)
    np.testing.assert_array_equal(got, want)
  # The middle of 5 in 2: 1.5 begins at 1, with other filters at 2.
  fit = transforms.Transform(size=2, resize=transforms.resize_linear)
  pixels, crop, _ = fit(gradient(2, 5), 0)
  np.testing.assert_array_equal(pixels[..., 0], [[1, 2], [1, 2]])
  box = fit.pixel_crop((2, 5), crop)
  np.testing.assert_allclose(box, [0.2, 0, 0.6, 1])


def test_short_side_cuts_out_of_a_larger_image():
  image = gradient(6, 9)
  fit = transforms.Transform(size=2, crop='random-1d', short_side=6)
  places = set()
  for draw in range(200):
    pixels, crop, _ = fit(image, draw)
    left, top = int(pixels[0, 0, 0]), int(pixels[0, 0, 1])
    np.testing.assert_array_equal(pixels, image[top : top + 2, left : left + 2])
    want = [left / 9, top / 6, (left + 2) / 9, (top + 2) / 6]
    np.testing.assert_allclose(crop, want)
    places.add((left, top))
  assert {x for x, _ in places} == set(range(8))
  assert {y for _, y in places} == set(range(5))
  pixels, _, _ = transforms.Transform(size=2, short_side=6)(image, 0)
  # 3.5 rounds to 4.
  np.testing.assert_array_equal(pixels, image[2:4, 4:6])
  with pytest.raises(ValueError, match='short_side is 3, must be 0 or at'):
    transforms.Transform(size=4, short_side=3)
  with pytest.raises(ValueError, match="crop is one of center.*'square'"):
    transforms.Transform(size=4, short_side=8, crop='square')


def test_lanczos_is_that_of_pillow():
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  fit = transforms.Transform(
    size=16, crop='square', resize=transforms.resize_lanczos
  )
  want = Image.fromarray(image).resize((16, 16), Image.Resampling.LANCZOS)
  np.testing.assert_array_equal(fit(image, 0)[0], np.asarray(want))


def test_mirrored_moves_whole_pixels():
  pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  for given in (pixels, np.asfortranarray(pixels), pixels[:, ::2]):
    got = transforms.mirrored(given)
    np.testing.assert_array_equal(got, given[:, ::-1])
    assert got.shape == given.shape
