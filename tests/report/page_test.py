"""The report of a run: what it says, and that nothing in it is executed."""

import html.parser
import io
import json
import math
import re
import shutil

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import report
from pyramid_jax.commands import report as command
from pyramid_jax.commands import train
from pyramid_jax.files import stores
from pyramid_jax.report import curves
from pyramid_jax.report import page
from pyramid_jax.report import records
from pyramid_jax.runs import throughput
from tests.helpers import configs
from tests.helpers import fake_run
from tests.helpers import remote_store
from tests.runs import throughput_test


store = remote_store.store_fixture
BAD = '<script>alert("x")</script>\u202e\x1b[31m'
LINES = 3000


def config(**fields):
  return configs.change(
    config_lib.load('frido_shapes:text,debug').copy_and_resolve_references(),
    {'train__steps': 4000, 'name': 'a < b', **fields},
  )


def metrics(lines=LINES):
  """Curves with noise, one null, and half a line at the end."""
  noise = np.random.default_rng(0).normal(size=lines)
  rows = []
  for n in range(lines):
    loss = 2 * math.exp(-n / 500) + 0.02 + 0.004 * noise[n]
    row = {'step': n + 1, 'loss': loss, 'generator/grad_norm': 1 + noise[n] / 9}
    row |= {'learning_rate': 1e-3 * (1 - n / lines), 'images_per_sec': 35.0}
    if n % 500 == 499:
      row['eval/caption_acc'] = n / lines
    rows.append(row)
  rows[7]['loss'] = None
  return ''.join(f'{json.dumps(row)}\n' for row in rows) + '{"step": 30'


def write_run(folder, **fields):
  """Writes what a run of two starts leaves, without checkpoints."""
  (folder / 'samples').mkdir(parents=True)
  (folder / 'config.json').write_text(config_lib.to_json(config(**fields)))
  (folder / 'metrics.jsonl').write_text(metrics())
  named = {'config': 'configs/frido_shapes.py:text,debug', 'host': BAD}
  starts = [
    throughput_test.later(last_step=1200, versions={'jax': '0.10.2'}, **named),
    throughput_test.later(first_step=1000, last_step=LINES, **named),
  ]
  device = {'device': 'a', 'process': 0, 'in_use': 2**30, 'peak': None}
  throughput.write(folder, starts, [{**device, 'limit': 2**34}])
  noise = np.random.default_rng(0).integers(0, 256, (400, 900, 3), np.uint8)
  for step in range(100, 1000, 100):
    Image.fromarray(noise).save(folder / 'samples' / f'step_{step:08d}.png')
  (folder / 'samples' / 'step_00000900.png').write_bytes(b'no image')
  score = {'value': 0.5, 'low': 0.4, 'high': 0.6, 'floor': 0.0, 'ceiling': 1.0}
  table = {'about': BAD, 'scores': {'caption_acc': {**score, 'n': 100}}}
  table['scores']['fid'] = {'value': 7.5, 'low': None, 'high': None}
  (folder / 'samples' / 'scores.json').write_text(json.dumps(table))
  return folder


@pytest.fixture(scope='module', name='run')
def _run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp('of a <b>') / 'run')


class Elements(html.parser.HTMLParser):
  """Which elements a page has, its text, and whether all are closed."""

  def __init__(self, text):
    super().__init__()
    self.names, self.open, self.values, self.words = [], [], [], []
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.names.append(tag)
    self.values += [value for _, value in attrs]
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)

  @property
  def text(self):
    return ' '.join(' '.join(self.words).split())


def test_a_whole_page(run):
  assert command.main([f'--workdir={run}']) == 0
  text = (run / report.FILE).read_text()
  found = Elements(text)
  for words in (
    *('a < b', 'steps', '3,000 of 4,000', 'running, or ended without a word'),
    *('0.4 .. 0.6', 'fid (lower is better)', 'step 700', 'step 100'),
    *('mean of 75, logarithmic, 1 not finite', 'Gradient norms'),
    'What differs from configs/frido_shapes.py:text,debug: field this run there'
    ' name a < b frido_shapes_text train.steps 4000 6',
    *(
      '4 x NVIDIA H200 (gpu) in 2 process(es)',
      '1.00 GiB after the first step',
    ),
    *("--mode=sample --count=16 --prompt='...'", 'go on with the training'),
    *('commands.report --workdir=', 'step_00000900.png:', 'caption_acc'),
  ):
    assert words in found.text, words
  # Everything is in the page, nothing is executed or fetched.
  assert not {'script', 'link', 'iframe', 'object'} & set(found.names)
  assert not [x for x in found.values if 'http:' in x or 'https:' in x]
  assert text.count('src="data:image/jpeg;base64,') == records._GRIDS - 1
  assert 'stroke-dasharray' in text
  assert 'class="resumed"' in text
  assert '\u202e' not in text
  assert '\x1b' not in text
  assert len(text) < 1.5e6


def test_names_that_are_html_are_text(run):
  text = page.of(records.read(run), BAD)
  assert '<script' not in text
  assert '&lt;script&gt;alert(' in text
  assert '--workdir=&#x27;' in text  # quoted for a shell, as it has spaces


def test_thumbnails_are_bounded():
  noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
  grid = records.thumbnail('noise', noise, 480, 20_000)
  assert len(grid.jpeg) <= 20_000
  assert Image.open(io.BytesIO(grid.jpeg)).size == grid.size
  assert max(grid.size) < 480


def test_a_run_that_has_just_begun(tmp_path):
  (tmp_path / 'config.json').write_text(config_lib.to_json(config()))
  found = Elements(page.of(records.read(tmp_path), 'now')).text
  for words in (
    'No evaluation has been written',
    'The run has saved no images',
    'No step has been logged yet',
    'What differs from the defaults of the system',
  ):
    assert words in found


def test_a_damaged_config_leaves_the_curves(run, tmp_path):
  shutil.copy(run / 'metrics.jsonl', tmp_path)
  (tmp_path / 'config.json').write_text('{')
  found = page.of(records.read(tmp_path), 'now')
  assert 'not JSON' in found
  assert '<polyline' in found


def test_no_run_is_one_line(tmp_path, capsys):
  assert command.main([f'--workdir={tmp_path}']) == errors.MISSING
  assert capsys.readouterr().err.count('\n') == 1
  assert list(tmp_path.iterdir()) == []


def test_a_config_of_somebody_else_is_not_executed(tmp_path, monkeypatch):
  file = tmp_path / 'mine.py'
  file.write_text('raise ValueError("executed")')
  compared, changes = records.differences(config(), str(file))
  assert compared == "the defaults of the system 'frido'"
  assert ('train.steps', 4000) in [(name, now) for name, _, now in changes]


def test_a_first_stage_is_compared_with_its_own_config():
  whole = config()
  first = config_lib.first_stage(whole)
  compared, changes = records.differences(first, 'frido_shapes:text,debug')
  assert compared == 'the first stage of frido_shapes:text,debug'
  assert changes == ()


def test_a_run_in_a_store(run, store):
  del store
  # Reading and writing are those of `files`, whose own tests have the rest.
  name = f'{remote_store.ROOT}/run'
  folder = stores.path(name)
  for path in sorted(run.rglob('*')):
    if path.is_file() and path.name != report.FILE:
      stores.put(folder / path.relative_to(run).as_posix(), path.read_bytes())
  there = report.write(folder)
  assert str(there) == f'{name}/{report.FILE}'
  text = there.read_bytes().decode()
  assert '3,000 of 4,000' in Elements(text).text
  assert 'data:image/jpeg' in text


def test_training_ends_with_a_report(tmp_path, monkeypatch):
  fake_run.install(monkeypatch.setattr)
  options = {'takeover': False, 'config': None}
  train.run(fake_run.config(train__sample_every=0), tmp_path, options)
  found = Elements((tmp_path / report.FILE).read_text()).text
  assert '4 of 4' in found
  assert 'finished' in found
  assert 'train longer' in found


def test_running_means_by_hand():
  values = np.array([1.0, 2, 6, 3, 8])
  np.testing.assert_allclose(
    curves.running_mean(values, 3), [1.5, 3, 11 / 3, 17 / 3, 5.5]
  )
  assert (curves.window(39), curves.window(40), curves.window(130)) == (1, 1, 3)


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (3, 47, [10, 20, 30, 40]),
    (5, 5, [5]),
    (1e-5, 3e-5, [1e-5, 1.5e-5, 2e-5, 2.5e-5, 3e-5]),
  ],
)
def test_ticks_are_round(low, high, expected):
  assert curves.ticks(low, high) == pytest.approx(expected)


def test_a_curve_goes_where_its_values_are():
  text = curves.chart('x', [(n, float(n)) for n in range(1, 11)])
  points = re.search(r'polyline points="([^"]*)"', text)[1].split()
  places = [tuple(map(float, x.split(','))) for x in points]
  assert [places[0][0], places[-1][0]] == [46, 352]
  ys = [y for _, y in places]
  assert ys == sorted(ys, reverse=True)  # upwards
  np.testing.assert_allclose(np.diff(ys), np.diff(ys)[0], atol=0.11)


def test_the_size_of_a_curve_does_not_grow():
  points = [(n, math.sin(n)) for n in range(20_000)]
  assert len(curves.chart('x', points)) < 20_000


def test_long_metrics_are_thinned_evenly():
  lines = b''.join(b'%d\n' % n for n in range(1000))
  kept = [int(x) for x in records.thinned(io.BytesIO(lines), 100)]
  assert 50 <= len(kept) <= 101
  assert len(set(np.diff(kept))) == 1
  assert kept[0] == 0


def test_one_value_and_none():
  assert '<circle' in curves.chart('x', [(3, 1.0)])
  assert 'not finite' in curves.chart('x', [(3, None)])
  assert curves.interval(1.0, (None, None), (None, None)) == ''
