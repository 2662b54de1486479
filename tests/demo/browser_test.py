"""The page in Chromium, and what a server answers to malformed requests.

They need gradio and Playwright (extra `browser`) and Chromium on the machine.
"""

import gc
import io
import itertools
import json
import logging
import pathlib
import re
import shutil
import threading
import urllib.error
import urllib.request

import jax
from PIL import Image
import pytest

from pyramid_jax import pipeline
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.demo import cards
from pyramid_jax.demo import controls as controls_lib
from pyramid_jax.demo import form
from pyramid_jax.demo import making
from pyramid_jax.demo import page as page_lib
from pyramid_jax.demo import server
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs
from tests.helpers import demo_page
from tests.helpers import painter


pytestmark = pytest.mark.browser
REASON = "needs pip install '.[browser]'"
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
BOMB = """<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><defs>
<g id="a0"><path d="M0 0h9v9z"/></g>%s</defs><use href="#a9"/></svg>"""


# The tasks of the models, with the examples of each.
TABS = {
  'layout': ({'canvas': {'boxes': [demo_page.box()]}},),
  'text': (),
  'scene_graph': (),
}


def model(title, task):
  """Returns a model that paints noise at once, by all inputs of the page."""
  mesh = mesh_lib.pure_data(jax.devices()[:1])
  config = configs.of_task(task)
  pipe = pipeline.Pipeline(painter.make(), {}, mesh, config, scenes.LABEL_NAMES)
  return making.Model(pipe=pipe, controls=controls_lib.of(pipe, title))


@pytest.fixture(scope='module')
def served():
  """Yields (URL, requests that arrived) of a server with two models."""
  pytest.importorskip('gradio', reason=REASON)
  asked = []
  read = form.read

  def noted(*arguments):
    asked.append(read(*arguments))
    return asked[-1]

  with pytest.MonkeyPatch.context() as patch, server.folder() as uploads:
    server.check_gradio()
    patch.setattr(system_lib, 'generate', painter.paint)
    patch.setattr(form, 'read', noted)
    tabs = [
      page_lib.Tab(model=model(title, title), samples=samples, uploads=uploads)
      for title, samples in TABS.items()
    ]
    page = server.launch(tabs, port=0)
    try:
      yield page.local_url.rstrip('/'), asked
    finally:
      page.close(verbose=False)


@pytest.fixture(scope='module')
def browser():
  sync_api = pytest.importorskip('playwright.sync_api', reason=REASON)
  if CHROMIUM is None:
    pytest.skip('needs Chromium')
  with sync_api.sync_playwright() as play:
    started = play.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox']
    )
    yield started
    started.close()


@pytest.fixture
def page(served, browser):
  """Yields the open page; nothing else may be asked for."""
  url, asked = served
  asked.clear()
  opened = browser.new_page(viewport={'width': 1280, 'height': 1000})
  foreign = []
  inside = (url, 'data:', 'blob:')
  opened.on(
    'request',
    lambda x: None if x.url.startswith(inside) else foreign.append(x.url),
  )
  opened.goto(url)
  opened.wait_for_selector('#pj-canvas canvas:visible')
  yield opened
  assert foreign == []
  opened.close()


def drag(page, *places):
  """Moves the pressed mouse over places of the canvas, shares of its sides."""
  area = page.locator('#pj-canvas canvas:visible').bounding_box()
  points = [
    (area['x'] + x * area['width'], area['y'] + y * area['height'])
    for x, y in places
  ]
  page.mouse.move(*points[0])
  page.mouse.down()
  for point in points[1:]:
    page.mouse.move(*point, steps=4)
  page.mouse.up()


def choose(page, tool):
  page.click(f'#pj-canvas [data-tool={tool}]:visible')


def make(page, words='Made in'):
  page.click('#pj-make:visible')
  status = page.locator('#pj-status:visible')
  page.wait_for_function(
    "words => [...document.querySelectorAll('#pj-status')].some("
    'x => x.innerText.includes(words))',
    arg=words,
  )
  return status.inner_text()


def test_boxes_drawn_by_mouse_arrive_as_boxes(served, page):
  drag(page, (0.1, 0.2), (0.4, 0.6))
  page.select_option('#pj-canvas .pj-label:visible select', 'blue square')
  drag(page, (0.9, 0.95), (0.5, 0.7))  # from the lower right
  make(page)
  first, second = served[1][-1].request.layout
  assert first['label'] == scenes.LABEL_NAMES[1]
  assert second['label'] == 'blue square'
  assert first['box'] == pytest.approx([0.1, 0.2, 0.4, 0.6], abs=0.01)
  assert second['box'] == pytest.approx([0.5, 0.7, 0.9, 0.95], abs=0.01)
  result = page.locator('#pj-results .pj-result img:visible')
  assert result.count() == 1
  assert result.evaluate('x => [x.naturalWidth, x.naturalHeight]') == [32, 32]
  name = page.get_attribute('#pj-results a:visible', 'download')
  seed = served[1][-1].request.seed
  assert name == f'layout-{seed}-0.png'
  assert page.input_value('#pj-seed:visible input') == str(seed)


def test_boxes_are_removed_undone_and_cleared(page):
  drag(page, (0.1, 0.1), (0.3, 0.3))
  drag(page, (0.5, 0.5), (0.8, 0.8))
  boxes = page.locator('#pj-canvas .pj-list:visible li')
  assert boxes.count() == 2
  drag(page, (0.2, 0.2), (0.2, 0.2))  # a click chooses
  page.keyboard.press('Delete')
  assert boxes.count() == 1
  page.click('#pj-canvas .pj-undo:visible')
  assert boxes.count() == 2
  page.click('#pj-canvas .pj-clear:visible')
  assert boxes.count() == 0
  assert 'draw a box' in make(page, 'draw a box')


def test_a_stroke_arrives_as_a_sketch_and_paint_as_a_mask(
  served, page, tmp_path
):
  Image.new('RGB', (64, 64), (10, 120, 200)).save(tmp_path / 'a.png')
  drag(page, (0.1, 0.1), (0.9, 0.9))
  choose(page, 'sketch')
  drag(page, (0.2, 0.5), (0.8, 0.5))
  make(page)
  request = served[1][-1].request
  rows, columns = (request.sketch == 0).nonzero()
  assert abs(rows.mean() / 512 - 0.5) < 0.01
  assert columns.min() / 512 == pytest.approx(0.2, abs=0.02)
  assert columns.max() / 512 == pytest.approx(0.8, abs=0.02)
  with page.expect_file_chooser() as chooser:
    page.click('#pj-image:visible')
  chooser.value.set_files(tmp_path / 'a.png')
  page.wait_for_function(
    "[...document.querySelectorAll('#pj-status')].some("
    "x => x.innerText.includes('64 x 64 px'))"
  )
  choose(page, 'mask')
  drag(page, (0.25, 0.0), (0.25, 1.0))
  make(page)
  request = served[1][-1].request
  assert request.image.shape == (64, 64, 3)
  painted = (request.mask[..., 0] > 0).nonzero()[1]
  assert painted.mean() / 64 == pytest.approx(0.25, abs=0.02)
  assert len(set(painted)) < 10


def test_another_tab_has_the_controls_of_its_model(served, page):
  page.get_by_role('tab', name='text').click()
  page.fill('#pj-prompt:visible textarea', 'a red circle')
  page.uncheck('#pj-new-seed:visible input')
  page.fill('#pj-seed:visible input', '12')
  page.fill('#pj-count:visible input[type=number]', '3')
  make(page)
  request = served[1][-1].request
  assert (request.prompt, request.seed, request.count) == (
    'a red circle',
    12,
    3,
  )
  assert page.locator('#pj-results .pj-result img:visible').count() == 3


def test_an_example_fills_the_form_and_its_image_is_kept(served, page):
  page.get_by_role('button', name='red circle', exact=True).click()
  page.wait_for_selector('#pj-canvas .pj-list:visible li')
  make(page)
  request = served[1][-1].request
  assert [x['label'] for x in request.layout] == ['red circle']
  with page.expect_download() as kept:
    page.click('#pj-results a:visible')
  assert kept.value.suggested_filename == f'layout-{request.seed}-0.png'
  with Image.open(kept.value.path()) as image:
    assert image.size == (32, 32)
    assert json.loads(image.info[cards.KEY])['seed'] == request.seed
  before = page.get_attribute('#pj-results .pj-result img:visible', 'src')
  page.uncheck('#pj-new-seed:visible input')
  make(page, 'Made in')
  assert len(served[1]) == 2
  assert served[1][-1].request.seed == request.seed
  after = page.get_attribute('#pj-results .pj-result img:visible', 'src')
  assert after == before
  page.click('#pj-clear-all:visible')
  page.wait_for_function(
    "document.querySelectorAll('#pj-canvas .pj-list li').length == 0"
  )


def test_relations_are_put_together(served, page):
  page.get_by_role('tab', name='scene_graph').click()
  subject, predicate, other = 'red circle', 'above', 'blue square'
  fields = page.locator('input[role=combobox]:visible')
  for place, word in enumerate((subject, predicate, other)):
    fields.nth(place).fill(word)
    fields.nth(place).press('Enter')
  page.click('#pj-add:visible')
  text = page.locator('#pj-graph:visible textarea')
  page.wait_for_function(
    "[...document.querySelectorAll('#pj-graph textarea')].some(x => x.value)"
  )
  assert text.input_value() == f'{subject}, {predicate}, {other}'
  make(page)
  assert served[1][-1].request.graph == text.input_value()


def test_a_request_is_cancelled_while_it_runs(page, monkeypatch):
  made = making.make
  goes_on = threading.Event()
  stopped = threading.Event()
  done = []

  def slow(*arguments):
    try:
      for state in made(*arguments):
        done.append(state.done)
        yield state
        if state.done == 1:
          goes_on.wait(20)
    finally:
      stopped.set()

  monkeypatch.setattr(making, 'make', slow)
  drag(page, (0.1, 0.2), (0.4, 0.6))
  page.fill('#pj-count:visible input[type=number]', '3')
  make(page, '1 of 3 stages')
  page.click('#pj-cancel:visible')
  page.wait_for_function(
    "[...document.querySelectorAll('#pj-status')].some("
    "x => x.innerText.includes('Cancelled'))"
  )
  goes_on.set()
  assert stopped.wait(20)
  assert done == [0, 1, 2]  # what had begun; the third image is not made
  monkeypatch.undo()
  assert 'Made in' in make(page)  # the device is free again


# -- Malformed requests -------------------------------------------------------


def post(url, body, kind='application/json', **headers):
  """Returns (status, text) of what a server answers."""
  given = {'Content-Type': kind, **headers}
  request = urllib.request.Request(url, data=body, headers=given)
  try:
    with urllib.request.urlopen(request, timeout=60) as answer:
      return answer.status, answer.read().decode()
  except urllib.error.HTTPError as error:
    return error.code, error.read().decode()
  except (urllib.error.URLError, OSError) as error:  # it has hung up
    return 0, str(error)


def upload(url, name, content):
  """Returns (status, path or text) of an upload."""
  edge = 'edge'
  head = (
    f'--{edge}\r\nContent-Disposition: form-data; name="files";'
    f' filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
  )
  body = head.encode() + content + f'\r\n--{edge}--\r\n'.encode()
  kind = f'multipart/form-data; boundary={edge}'
  status, text = post(f'{url}/gradio_api/upload', body, kind)
  return status, json.loads(text)[0] if status == 200 else text


def of_upload(path):
  """Returns what a button sends for a file."""
  return {'path': path, 'meta': {'_type': 'gradio.FileData'}}


_SESSIONS = itertools.count()


def ask(url, place, data):
  """Returns the lines that answer a request to the function of a button."""
  session = f'test{next(_SESSIONS)}'
  body = {'data': data, 'fn_index': place, 'session_hash': session}
  status, text = post(f'{url}/gradio_api/queue/join', json.dumps(body).encode())
  if status != 200:
    return [text]
  events = f'{url}/gradio_api/queue/data?session_hash={session}'
  found = []
  with urllib.request.urlopen(events, timeout=60) as stream:
    for line in stream:
      found += re.findall(r'role=\\"alert\\">(.*?)</p>', line.decode())
      if b'process_completed' in line:
        message = json.loads(line.decode().removeprefix('data:'))
        if not message['success']:
          found.append(message['output'].get('error') or 'no words')
        break
  return found


def function(url, tab):
  """Returns (number of the function of `Make images`, names of its values)."""
  with urllib.request.urlopen(f'{url}/config', timeout=60) as answer:
    config = json.load(answer)
  ids = [
    x['id'] for x in config['components'] if x['props'].get('elem_id') == tab
  ]
  return [
    x['id']
    for x in config['dependencies']
    if any(target[0] in ids for target in x['targets'])
  ]


def memory_mib():
  gc.collect()
  text = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'VmRSS:\s+(\d+)', text)[1]) / 1024


def malformed(url):
  """Yields (name, function that sends it, words of the answer).

  Paths that are no uploads are refused by gradio itself, with a line that has
  no words: `error` is null.
  """
  layout, text, _ = function(url, 'pj-make')
  names = form.fields(model('layout', 'layout').controls)
  box = {'label': 'red circle', 'box': [0.1, 0.1, 0.4, 0.4]}
  plain = {
    'canvas': {'boxes': [box]},
    'count': 1,
    'seed': 1,
    'is_new_seed': False,
  }

  def values(**changes):
    return [(plain | changes).get(name) for name in names]

  def sent(**changes):
    return lambda: ask(url, layout, values(**changes))

  nan = {'boxes': [{'label': 'red circle', 'box': [float('nan')] * 4}]}
  points = {'sketch': [{'width': 0.1, 'points': [0.5] * 40_002}]}
  deep = json.loads('[' * 500 + ']' * 500)
  yield 'boxes of NaN', sent(canvas=nan | {'sketch': []}), 'box .*nan'
  long = {'boxes': [{'label': 'x' * 100_000, 'box': [0, 0, 1, 1]}]}
  yield '100,000 characters of a label', sent(canvas=long), 'is not known'
  yield 'a canvas that is a number', sent(canvas=3), 'the canvas is 3'
  yield 'deep lists', sent(canvas=deep), 'the canvas is'
  yield 'a count of texts', sent(count=['a']), 'count='
  yield '20,001 points', sent(canvas=plain['canvas'] | points), '20001 points'
  own = of_upload('/etc/passwd')
  yield 'a file of the machine', sent(image=own), 'no words'
  far = of_upload('http://127.0.0.1:9/')
  yield 'a URL', sent(image=far), 'no words|no file that'
  yield 'too few values', lambda: ask(url, layout, [1]), 'failed|no words'
  other = lambda: ask(url, text, [{'a': 1}] * 12)
  yield 'values of another form', other, '.'
  yield 'an unknown function', lambda: ask(url, 10**9, []), '.'
  uses = ''.join(
    f'<g id="a{i}">{use * 10}</g>'
    for i in range(1, 10)
    for use in [f'<use href="#a{i - 1}"/>']
  )

  def bomb():
    status, path = upload(url, 'bomb.svg', (BOMB % uses).encode())
    assert status == 200
    return ask(url, layout, values(sketch_file=of_upload(path)))

  yield 'an SVG bomb', bomb, 'sketch'

  def wide():
    status, path = upload(url, 'wide.png', png((5001, 4000)))
    assert status == 200
    return ask(url, layout, values(image=of_upload(path)))

  yield 'an image of 20 MP', wide, '5001 x 4000 px, at most'
  heavy = lambda: [upload(url, 'a.png', b'x' * 6_000_000)[1]]
  yield 'an upload of 6 MB', heavy, 'At most|Broken pipe|reset'
  huge = lambda: ask(url, layout, values(canvas='x' * 6_000_000))
  yield 'a message of 6 MB', huge, 'At most|Broken pipe|reset'
  foreign = lambda: [post(f'{url}/config', b'{}', Host='evil.example')[1]]
  yield 'another name of the host', foreign, 'is no name of this server'


def png(size):
  """Returns the bytes of a PNG of one colour."""
  stream = io.BytesIO()
  Image.new('L', size).save(stream, 'png')
  return stream.getvalue()


def test_malformed_requests_get_one_line_and_leave_the_server_alive(served):
  url, _ = served
  cases = [*malformed(url)]
  assert len(cases) > 10
  sizes = []
  for _ in range(4):
    for name, send, words in cases:
      lines = send()
      assert len(lines) >= 1, name
      assert re.search(words, lines[-1]), (name, lines[-1][:300])
      assert len(lines[-1]) < 2_500, name
      assert '\n' not in lines[-1].strip(), name
    sizes.append(memory_mib())
  logging.info('MiB after each round: %s', sizes)
  assert sizes[-1] - sizes[1] < 50
  with urllib.request.urlopen(f'{url}/config', timeout=60) as answer:
    assert answer.status == 200
