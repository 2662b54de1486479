"""Sketches of every kind become the same white lines."""

import io

import numpy as np
from PIL import Image
from PIL import ImageDraw
import pytest
from scipy import ndimage

from pyramid_jax.conditioning import sketches
from pyramid_jax.data.synthetic import scenes
from tests.helpers import shapes_renderer


def sketch_pixels(
  ink=(0, 0, 0, 255), paper=(255, 255, 255, 255), side=200, width=6
):
  image = Image.new('RGBA', (side, side), paper)
  canvas = ImageDraw.Draw(image)
  scale = side / 200
  box = tuple(scale * v for v in (40, 50, 150, 140))
  canvas.ellipse(box, outline=ink, width=width)
  ends = tuple(scale * v for v in (20, 180, 180, 20))
  canvas.line(ends, fill=ink, width=width)
  return np.asarray(image)


def lines(pixels, size=32):
  rows = sketches.from_image(pixels, size)
  assert list(rows) == ['sketch']
  sketch = rows['sketch']
  assert sketch.shape == (1, size, size)
  assert sketch.dtype == np.uint8
  assert set(np.unique(sketch)) == {0, 255}
  return sketch[0] > 0


@pytest.mark.parametrize(
  ('ink', 'paper'),
  [
    ((255, 255, 255, 255), (0, 0, 0, 255)),  # light on dark
    ((200, 30, 30, 255), (255, 255, 255, 255)),  # a red pen
    ((250, 240, 90, 255), (30, 30, 60, 255)),
    ((90, 90, 90, 255), (200, 195, 180, 255)),  # a pencil on old paper
    ((0, 0, 0, 255), (255, 255, 255, 0)),  # on nothing
    ((255, 255, 255, 255), (0, 0, 0, 0)),
    ((40, 160, 60, 255), (40, 160, 60, 0)),
  ],
)
def test_tones_and_transparency_do_not_matter(ink, paper):
  want = lines(sketch_pixels())
  assert 0.05 < want.mean() < 0.3
  np.testing.assert_array_equal(lines(sketch_pixels(ink, paper)), want)


def test_noise_of_a_scan_does_not_matter():
  pixels = sketch_pixels().astype(np.int64)
  noise = np.random.RandomState(0).randint(-20, 21, pixels.shape)
  pixels[..., :3] += noise[..., :3]
  scan = np.clip(pixels, 0, 255).astype(np.uint8)
  np.testing.assert_array_equal(lines(scan), lines(sketch_pixels()))


@pytest.mark.parametrize(
  ('side', 'width'), [(33, 1), (64, 1), (200, 1), (500, 3), (2000, 1)]
)
def test_thin_lines_survive_any_size(side, width):
  sketch = lines(sketch_pixels(side=side, width=width))
  wanted = lines(sketch_pixels())
  # Connected, and where they belong.
  assert ndimage.label(sketch, np.ones((3, 3)))[1] == 1
  far = ndimage.distance_transform_edt(~wanted)
  assert far[sketch].max() <= 1
  near = ndimage.distance_transform_edt(~sketch)
  assert near[wanted].max() <= 2
  assert sketch.mean() < 0.2  # they do not grow either


def test_thick_lines_keep_their_width():
  bar = np.full((320, 320, 4), 255, np.uint8)
  bar[:, 83:117, :3] = 0  # 3.4 of 32 pixels
  assert (lines(bar).sum(1) == 4).all()
  bar[:] = 255
  bar[:, 88:112, :3] = 0  # 2.4, a fifth of a pixel over on both sides
  assert (lines(bar).sum(1) == 2).all()


def test_oblong_sketches_lie_in_the_middle():
  wide = np.full((20, 80, 4), 255, np.uint8)
  wide[9:11, :, :3] = 0
  sketch = lines(wide, 40)
  assert sketch.any(1).nonzero()[0].tolist() == [19, 20]
  assert sketch.all(1).sum() >= 1
  tall = lines(wide.transpose(1, 0, 2), 40)
  np.testing.assert_array_equal(tall, sketch.T)


def test_small_sketches_are_enlarged():
  small = np.full((8, 8, 4), 255, np.uint8)
  small[3, 2:6, :3] = 0
  want = np.zeros((32, 32), bool)
  want[12:16, 8:24] = True
  np.testing.assert_array_equal(lines(small), want)


def test_paper_goes_on_where_there_is_none():
  card = np.zeros((100, 100, 4), np.uint8)
  card[5:95, 5:95] = (230, 220, 200, 255)
  card[50:52, 20:80] = (0, 0, 90, 255)
  sketch = lines(card, 50)
  assert sketch[25].sum() == 30
  assert sketch.sum() == 30
  card[5:95, 5:95] = (150, 120, 90, 255)  # as dark as it may be
  card[50:52, 20:80] = (0, 0, 40, 255)
  np.testing.assert_array_equal(lines(card, 50), sketch)
  # Two tones on nothing, for instance a filled shape with an outline.
  both = np.zeros((100, 100, 4), np.uint8)
  both[30:70, 30:70] = (255, 255, 255, 255)
  both[30:32, 30:70] = (0, 0, 0, 255)
  sketch = lines(both, 50)
  assert sketch[15].sum() == 20
  assert sketch.sum() == 20


SIDE = 256


def photographed(shade=1.0, noise=0.01, quality=85, pixels=None):
  """Returns a photograph (H, W, 4) of a sheet under a light (H, W, C)."""
  if pixels is None:
    pixels = sketch_pixels((38, 38, 38, 255), side=SIDE)
  sheet = pixels[..., :3] / 255 * shade
  sheet = sheet + np.random.RandomState(0).normal(0, noise, sheet.shape)
  data = io.BytesIO()
  image = Image.fromarray(np.rint(255 * sheet.clip(0, 1)).astype(np.uint8))
  image.save(data, 'JPEG', quality=quality)
  return np.asarray(Image.open(data).convert('RGBA'))


def agree(pixels, wanted):
  """Whether a sketch has the wanted lines, up to a pixel."""
  got = lines(pixels)
  grown = ndimage.binary_dilation(got, np.ones((3, 3)))
  far = got & ~ndimage.binary_dilation(wanted, np.ones((3, 3)))
  return (wanted & ~grown).sum() <= 1 and far.sum() <= 2


Y, X = np.mgrid[:SIDE, :SIDE][..., None] / SIDE
SHADES = {
  'a hand over a third': np.where(X > 0.7, 0.5, 1),
  'a hand over half': np.where(X > 0.45, 0.5, 1),
  'a dark one': np.where(X > 0.7, 0.3, 1),
  'a round one': 1
  - 0.5 / (1 + np.exp(80 * ((X - 0.9) ** 2 + (Y - 1) ** 2 - 0.3))),
  'a soft one': 1 - 0.5 / (1 + np.exp(-20 * (X - 0.6))),
  'a lamp at the side': 0.4 + 0.6 * X,
  'a warm lamp': np.array([1, 0.9, 0.7]) * (0.6 + 0.4 * Y),
}


@pytest.mark.parametrize('kind', SHADES)
@pytest.mark.parametrize('is_dark', [False, True])
def test_shadows_do_not_matter(kind, is_dark):
  shade = SHADES[kind]
  pixels = None
  if is_dark:
    shade = np.clip(shade, 0.5, 1)
    pixels = sketch_pixels((230, 230, 230, 255), (30, 30, 30, 255), SIDE)
  photo = photographed(shade, pixels=pixels)
  assert agree(photo, lines(sketch_pixels(side=SIDE)))


DESKS = {
  'dark': (0.1, 0.09, 0.08),
  'wood': (0.5, 0.33, 0.2),
  'grey': (0.45,) * 3,
}


@pytest.mark.parametrize('kind', DESKS)
def test_desks_around_a_sheet_do_not_matter(kind):
  whole = np.empty((340, 340, 3))
  whole[:] = DESKS[kind]
  whole *= 1 + 0.1 * np.sin(np.mgrid[:340, :340][0] / 3)[..., None]
  sheet = sketch_pixels((38, 38, 38, 255), side=SIDE)[..., :3] / 255
  whole[40:296, 44:300] = 0.9 * sheet
  clean = np.full((340, 340, 4), 255)
  clean[40:296, 44:300, :3] = 255 * sheet
  photo = photographed(pixels=255 * whole)
  assert agree(photo, lines(clean.astype(np.uint8)))


@pytest.mark.parametrize(
  'pale', [(205, 205, 205), (250, 250, 90), (255, 180, 180), (150, 200, 255)]
)
@pytest.mark.parametrize('noise', [0, 0.01])
def test_pale_lines_beside_dark_ones_stay(pale, noise):
  pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
  pixels[20:230, 60:64, :3] = pale
  pixels[112:116, 20:230, :3] = pale
  pixels[100:104, 20:230, :3] = 10
  clean = pixels.copy()
  clean[..., :3][(clean < 255).any(-1)] = 0
  assert agree(photographed(1, noise, 95, pixels), lines(clean))


@pytest.mark.parametrize('is_squared', [False, True])
def test_rules_of_paper_are_no_lines(is_squared):
  clean = sketch_pixels((38, 38, 38, 255), side=SIDE)
  ruled = clean.astype(float)
  for i in range(10, SIDE, 24):
    ruled[i, :, :2] *= 0.75  # pale blue
    if is_squared:
      ruled[:, i, :2] *= 0.75
  assert agree(photographed(1, 0.01, 92, ruled), lines(clean))
  # Few lines from side to side are drawn, and so are dark ones.
  few = np.full((SIDE, SIDE, 4), 255, np.uint8)
  few[50:53, :, :3] = 180
  few[100:103, :, :3] = 20
  few[150:153, :, :3] = 180
  assert lines(few)[:, 16].sum() >= 3
  few[20::25, :, :3] = 20
  assert lines(few)[:, 16].sum() >= 8


def test_lines_of_little_contrast_stay():
  pixels = sketch_pixels((170, 170, 170, 255), (200, 200, 200, 255), SIDE)
  for photo in (pixels, photographed(1, 0.006, 95, pixels)):
    assert agree(photo, lines(sketch_pixels(side=SIDE)))


def test_opacity_of_lines_does_not_matter():
  pixels = np.zeros((200, 200, 4), np.uint8)
  pixels[40:44, 20:180, 3] = 255
  pixels[100:104, 20:180, 3] = 60
  pixels[150:151, 20:180, 3] = 30
  sketch = lines(pixels, 50)
  assert sketch[:, 25].nonzero()[0].tolist() == [10, 25, 37]


def test_the_share_of_lines_is_logged(caplog):
  caplog.set_level('INFO')
  pixels = np.full((100, 100, 4), 255, np.uint8)
  pixels[50:52, :, :3] = 0
  sketches.from_image(pixels, 32)
  assert '2.0 % of the sketch are lines' in caplog.text


def test_full_sheets_are_refused():
  pixels = np.full((110, 110, 4), 255, np.uint8)
  pixels[np.arange(110) % 11 < 5, :, :3] = 0
  with pytest.raises(ValueError, match='45% of the sketch are lines, at most'):
    sketches.from_image(pixels, 32)
  for noise in (0, 0.02):
    empty = photographed(1, noise, 85, np.full((64, 64, 4), 230, np.uint8))
    with pytest.raises(ValueError, match='empty|photograph'):
      sketches.from_image(empty, 32)


@pytest.mark.parametrize('tone', [0, 128, 255])
def test_empty_sketches(tone):
  blank = np.full((40, 40, 4), tone, np.uint8)
  with pytest.raises(ValueError, match='the sketch is empty'):
    sketches.from_image(blank, 32)


def test_photographs_are_refused():
  spec = scenes.sample(0, np.arange(12), 2)
  images = shapes_renderer.render(spec, 64)['image']
  opaque = np.full((64, 64), 255, np.uint8)
  for image in images:
    with pytest.raises(ValueError, match=r'% of the pixels are coloured or gr'):
      sketches.from_image(np.dstack([image, opaque]), 32)
  # Their edges are no photograph.
  for edge in shapes_renderer.render(spec, 64)['edge']:
    grey = np.dstack([edge] * 3 + [opaque])
    sketch = lines(grey, 64)
    assert (sketch == (edge >= 128)).mean() > 0.97
