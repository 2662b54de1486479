"""Which pixels a mask paints, however a program wrote it."""

import logging

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFilter
import pytest

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.pixels import masks


STROKES = np.zeros((32, 32), bool)
STROKES[4:12, 4:14] = True
FULL = np.uint8(255)


def layer(strokes, clear, opacity=255):
  """Returns strokes of a colour on a transparent layer of another."""
  pixels = np.zeros((32, 32, 4), np.uint8)
  pixels[..., :3] = clear
  pixels[STROKES] = (*strokes, opacity)
  return Image.fromarray(pixels)


def palette(background, clear):
  """Returns a mask with a palette, one colour of which is transparent."""
  image = Image.fromarray(STROKES.astype(np.uint8)).convert('P')
  image.putpalette([*background, 255, 255, 255])
  image.info['transparency'] = clear
  return image


def bits(mode, white):
  return Image.fromarray((STROKES * white).astype(mode))


KINDS = {
  'white on black': bits(np.uint8, 255),
  'white on nothing': layer((255, 255, 255), (0, 0, 0)),
  'white on transparent white': layer((255, 255, 255), (255, 255, 255)),
  'black on nothing': layer((0, 0, 0), (0, 0, 0)),
  'black on transparent white': layer((0, 0, 0), (255, 255, 255)),
  'red on nothing': layer((255, 0, 0), (0, 0, 0)),
  'pale strokes': layer((255, 255, 255), (0, 0, 0), 70),
  'red on black': Image.fromarray(
    np.dstack([STROKES * FULL, *[0 * STROKES] * 2]).astype(np.uint8)
  ),
  'grey with opacity': layer((0, 0, 0), (0, 0, 0)).convert('LA'),
  'white on black and opacity': Image.fromarray(
    np.dstack(
      [
        *[STROKES * FULL] * 3,
        np.where(np.arange(32) < 20, FULL, 0) + 0 * STROKES,
      ]
    ).astype(np.uint8)
  ),
  '1 bit': Image.fromarray(STROKES),
  '1 on 0': bits(np.uint8, 1),
  '16 bits': bits(np.uint16, 65535),
  '16 bits, 1 on 0': bits(np.uint16, 1),
  '16 bits, 255 on 0': bits(np.uint16, 255),
  'float, 1 on 0': bits(np.float32, 1),
  'float, 255 on 0': bits(np.float32, 255),
  'palette': palette((255, 255, 255), 0),
  'palette of black': palette((0, 0, 0), 0),
}


@pytest.mark.parametrize('kind', KINDS)
def test_strokes_alone_are_painted(tmp_path, kind):
  image = KINDS[kind]
  np.testing.assert_array_equal(given_images.mask(image, 'mask'), STROKES)
  path = tmp_path / ('a.tif' if image.mode == 'F' else 'a.png')
  image.save(path)
  np.testing.assert_array_equal(given_images.mask(path, '--mask'), STROKES)


def test_arrays():
  for x in (
    STROKES,
    STROKES * FULL,
    STROKES.astype(np.int64),
    STROKES * 1.0,
    STROKES[..., None],
    np.asarray(KINDS['black on nothing']),
  ):
    np.testing.assert_array_equal(given_images.mask(x, 'mask'), STROKES)


def test_rims_of_strokes_do_not_hide_that_their_colour_says_nothing():
  draw = Image.new('L', (320, 320))
  ImageDraw.Draw(draw).line((40, 50, 280, 200), fill=255, width=16)
  rims = np.asarray(draw.resize((32, 32), Image.Resampling.BOX))
  want = rims >= 128
  for tone in (rims, 0 * rims, 0 * rims + 255):  # the first is premultiplied
    got = given_images.mask(np.dstack([tone] * 3 + [rims]), 'mask')
    np.testing.assert_array_equal(got, want)


def test_what_paints_nothing_is_refused():
  nothing = np.zeros((8, 8), np.uint8)
  for x in (nothing, nothing > 0, np.zeros((8, 8, 4), np.uint8), nothing + 90):
    with pytest.raises(errors.UserError, match='^mask: the mask has no hole'):
      given_images.mask(x, 'mask')


def test_photographs_are_refused():
  photo = np.random.RandomState(0).randint(0, 256, (32, 32, 4), np.uint8)
  for opacity in (255, np.where(STROKES, 0, 255)):
    photo[..., 3] = opacity
    with pytest.raises(errors.UserError, match='this is a photograph; a mask'):
      given_images.mask(photo, 'mask')


def test_the_share_and_the_threshold_are_logged(caplog):
  caplog.set_level(logging.INFO)
  given_images.mask(STROKES, 'mask')
  assert 'mask paints 7.8% of the image' in caplog.text
  assert 'grey' not in caplog.text
  given_images.mask(np.ones((4, 4)), 'mask')
  assert 'mask paints all of the image' in caplog.text
  soft = KINDS['white on black'].filter(ImageFilter.GaussianBlur(3))
  got = given_images.mask(soft, 'mask')
  np.testing.assert_array_equal(got, np.asarray(soft) >= 128)
  assert 'those of at least half of the white are painted' in caplog.text


def test_large_masks(monkeypatch):
  monkeypatch.setattr(limits, 'MASK_PIXELS', 1023)
  with pytest.raises(errors.UserError, match='32x32 px, of a mask at most 1'):
    given_images.mask(STROKES, 'mask')
  monkeypatch.setattr(limits, 'MASK_PIXELS', 1024)
  monkeypatch.setattr(masks, '_ENOUGH', 200)  # of 1,024
  np.testing.assert_array_equal(given_images.mask(STROKES, 'mask'), STROKES)
  test_photographs_are_refused()


def test_opaque_grey_with_opacity():
  grey = Image.fromarray(np.where(STROKES, np.uint8(255), np.uint8(0)))
  np.testing.assert_array_equal(
    given_images.mask(grey.convert('LA'), 'mask'), STROKES
  )
