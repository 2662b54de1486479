"""Results are HTML without anything that a person typed as markup."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from pyramid_jax.demo import cards
from pyramid_jax.demo import making
from tests.helpers import demo_page


def state(is_whole=True, count=2):
  image = demo_page.image()
  one = [
    making.Image(
      number=i, stages=(image, image + 1), condition=(image,), is_whole=is_whole
    )
    for i in range(count)
  ]
  return making.State(images=tuple(one), done=4, total=4, secs=1.0)


def test_a_png_has_its_request():
  record = {'model': 'boxes', 'seed': 3, 'prompt': 'é'}
  data = cards.png(demo_page.image(), record)
  image = Image.open(io.BytesIO(data))
  assert json.loads(image.text[cards.KEY]) == record
  np.testing.assert_array_equal(np.asarray(image), demo_page.image())


def test_results_show_stages_conditions_and_downloads():
  record = {'model': 'a/b run', 'seed': 5}
  text = cards.results(state(), record, ('4x4', '8x8'))
  assert text.count('<img') == 6  # condition, stage, result; twice
  assert text.count('stage 4x4') == 4  # and in the alternative text
  files = re.findall(r'download="([^"]*)" href="data:image/png;base64,', text)
  assert files == ['a-b-run-5-0.png', 'a-b-run-5-1.png']
  urls = re.findall(r'href="data:image/png;base64,([^"]*)"', text)
  last = Image.open(io.BytesIO(base64.b64decode(urls[1])))
  assert json.loads(last.text[cards.KEY]) == {**record, 'number': 1}
  assert last.getpixel((0, 0)) == (11, 121, 201)


def test_an_unfinished_image_is_not_for_download():
  text = cards.results(state(is_whole=False), {'seed': 5}, ('4x4', '8x8', '16'))
  assert 'download' not in text
  assert 'stage 8x8' in text


def test_words_are_escaped():
  bad = '<script>alert(1)</script>" onerror="x ${1+1} {{value}} `'
  for text in (
    cards.status(bad, is_error=True),
    cards.results(state(), {'prompt': bad, 'model': bad}, (bad,)),
  ):
    assert '<script' not in text
    assert '${' not in text
    assert '{{' not in text
    assert 'onerror="x' not in text
  assert cards.escaped('a{') == 'a&#123;'


def test_a_preview_is_reduced():
  url = cards.preview(demo_page.image(600, 1200))
  data = base64.b64decode(url.partition(',')[2])
  assert Image.open(io.BytesIO(data)).size == (512, 256)


def test_a_status_has_a_bar():
  assert 'width:25%' in cards.status('x', 0.25)
  assert 'pj-bar' not in cards.status('x')
  assert 'role="alert"' in cards.status('x', is_error=True)
