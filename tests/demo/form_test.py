"""The values of a form become a request, and all others one line."""

import zlib

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.demo import form
from tests.helpers import demo_page


@pytest.fixture
def uploads(tmp_path):
  (tmp_path / 'uploads').mkdir()
  return tmp_path / 'uploads'


def save(folder, name='a.png', size=(32, 32)):
  Image.new('RGB', size, (10, 120, 200)).save(folder / name)
  return {'path': str(folder / name), 'meta': {'_type': 'gradio.FileData'}}


def read(uploads, controls=None, **changes):
  found = controls or demo_page.controls()
  return form.read(demo_page.values(**changes), found, uploads)


def test_boxes_become_a_layout(uploads):
  asked = read(uploads, count=3.0, steps='2')
  request = asked.request
  assert request.layout == [demo_page.box()]
  assert (request.count, request.seed, request.steps) == (3, 7, 2)
  assert (request.guidance, request.image, request.strength) == (2, None, None)
  assert asked.record == {
    'count': 3,
    'seed': 7,
    'steps': 2,
    'guidance': 2.0,
    'layout': [demo_page.box()],
  }


def test_the_seed_is_kept_or_new(uploads):
  assert read(uploads).request.seed == 7
  seeds = {read(uploads, is_new_seed=True).request.seed for _ in range(4)}
  assert len(seeds - {7}) > 1
  assert isinstance(read(uploads, seed=None).request.seed, int)


def test_an_image_and_a_painted_mask(uploads):
  drawn = {
    'boxes': [demo_page.box()],
    'mask': [demo_page.stroke(0, 0.5, 1, 0.5)],
  }
  asked = read(uploads, image=save(uploads, size=(64, 32)), canvas=drawn)
  request = asked.request
  assert request.image.shape == (32, 64, 3)
  assert request.mask.shape == (32, 64, 3)
  assert 0.1 < (request.mask > 0).mean() < 0.35
  assert request.strength == 0.5
  assert asked.record['image'] == '64 x 32 px'


def test_a_sketch_is_black_on_white(uploads):
  controls = demo_page.controls(
    takes=('prompt', 'sketch'),
    needs=('prompt',),
    tools=('sketch',),
    sketch=True,
  )
  given = {'canvas': {'sketch': [demo_page.stroke(0.2, 0.5, 0.8, 0.5)]}}
  asked = read(uploads, controls, prompt='a', sketch_strength=2, **given)
  assert asked.sketch == 2
  assert asked.request.sketch.dtype == np.uint8
  assert 0.8 < (asked.request.sketch == 255).mean() < 1
  nothing = read(uploads, controls, prompt='a', canvas=None, sketch_strength=2)
  assert nothing.sketch == 0  # guides nothing
  assert 'sketch' not in nothing.record


def test_an_svg_is_taken_as_it_is(uploads):
  controls = demo_page.controls(
    takes=('prompt', 'sketch'), needs=('prompt',), tools=('sketch',)
  )
  (uploads / 'a.svg').write_text('<svg/>')
  file = {'path': str(uploads / 'a.svg')}
  asked = read(uploads, controls, prompt='a', canvas=None, sketch_file=file)
  assert asked.request.sketch == str(uploads / 'a.svg')
  assert asked.record['sketch'] == 'a.svg'


def test_words_of_a_form(uploads):
  controls = demo_page.controls(
    takes=('graph', 'label', 'pitch'), needs=('graph',), tools=(), steps=()
  )
  given = {'graph': ' a, left of, b ', 'label': 'red circle', 'pitch': ''}
  asked = read(uploads, controls, **given)
  assert asked.request.graph == 'a, left of, b'
  assert asked.request.label == 'red circle'
  assert asked.request.pitch is None
  assert form.fields(controls) == (
    *('graph', 'label', 'pitch', 'guidance', 'count', 'seed', 'is_new_seed'),
  )


def test_relations_are_added():
  text = form.with_relation('', ('a', 'left of', 'b'))
  assert text == 'a, left of, b'
  longer = form.with_relation(f'{text}; ', ('b', 'above', 'a'))
  assert longer == 'a, left of, b; b, above, a'
  with pytest.raises(errors.UserError, match='choose an object'):
    form.with_relation(text, ('a', None, 'b'))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'canvas': None}, '^draw a box on the canvas'),
    ({'canvas': {'boxes': 3}}, '^boxes: 3, must be a list'),
    ({'canvas': {'boxes': [{}] * 101}}, '^boxes: 101 are drawn'),
    ({'count': 5}, r'^count=5: must be a whole number in \[1, 4\]'),
    ({'count': 'many'}, "^count='many'"),
    ({'count': float('inf')}, '^count=inf'),
    ({'seed': -1}, '^seed=-1'),
    ({'seed': 10**400}, '^seed=10'),
    ({'seed': [1]}, r'^seed=\[1\]'),
    ({'steps': '3'}, "^steps='3': must be one of 2, 4"),
    ({'steps': ['2']}, '^steps=None: must be one of'),
    ({'guidance': float('nan')}, '^guidance=nan'),
    ({'guidance': 1e300}, '^guidance=1e'),
    ({'image': 'a.png'}, "^image: 'a.png', must be an upload"),
    ({'image': {'path': '/etc/passwd'}}, '^image: no file that was uploaded'),
    ({'image': {'path': 'http://host/a.png'}}, '^image: no file that was'),
    ({'image': {'path': 'a\0b'}}, '^image: .* must be an upload'),
    ({'image': {'path': 'a' * 100_000}}, '^image: no file that was uploaded'),
  ],
)
def test_malformed_values_are_refused_in_one_line(uploads, changes, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    read(uploads, **changes)
  assert len(str(caught.value)) < 300
  assert '\n' not in str(caught.value)


def test_a_link_out_of_the_folder_of_uploads_is_refused(uploads, tmp_path):
  save(tmp_path, 'own.png')
  (uploads / 'a.png').symlink_to(tmp_path / 'own.png')
  file = {'path': str(uploads / 'a.png')}
  with pytest.raises(errors.UserError, match='no file that was uploaded'):
    read(uploads, image=file)
  beside = {'path': str(uploads / '..' / 'own.png')}
  with pytest.raises(errors.UserError, match='no file that was uploaded'):
    read(uploads, image=beside)


def test_large_uploads_are_refused_before_they_are_decoded(uploads):
  Image.new('L', (4001, 4000)).save(uploads / 'wide.png')
  wide = {'path': str(uploads / 'wide.png')}
  with pytest.raises(errors.UserError, match='4001 x 4000 px, at most'):
    read(uploads, image=wide)
  (uploads / 'long.png').write_bytes(zlib.crc32(b'').to_bytes(4) * 1_300_000)
  long = {'path': str(uploads / 'long.png')}
  with pytest.raises(errors.UserError, match='5200000 bytes, at most'):
    read(uploads, image=long)
  (uploads / 'text.png').write_text('no image')
  text = {'path': str(uploads / 'text.png')}
  with pytest.raises(errors.UserError, match='^image: not one of'):
    read(uploads, image=text)


def test_texts_are_bounded(uploads):
  controls = demo_page.controls(takes=('prompt',), needs=('prompt',), tools=())
  with pytest.raises(errors.UserError, match='100000 characters, at most 2000'):
    read(uploads, controls, prompt='x' * 100_000)
  with pytest.raises(errors.UserError, match='^prompt: dict, must be a text'):
    read(uploads, controls, prompt={})
  with pytest.raises(errors.UserError, match='^type a caption'):
    read(uploads, controls, prompt='  ')


def test_a_mask_needs_an_image(uploads):
  drawn = {'boxes': [demo_page.box()], 'mask': [demo_page.stroke(0.5, 0.5)]}
  with pytest.raises(errors.UserError, match='there is no image'):
    read(uploads, canvas=drawn)


def test_strength_is_one_of_a_few(uploads):
  file = save(uploads)
  assert read(uploads, image=file, strength=None).request.strength == 0.75
  for value in (0.3, 'all', float('nan')):
    with pytest.raises(errors.UserError, match='^strength='):
      read(uploads, image=file, strength=value)
