"""The benchmarks at their smallest sizes."""

import contextlib
import io
import math
import os
import re
import runpy
import subprocess
import sys

from absl import flags
import jax
import pytest

from tests.helpers import devices
from tests.helpers import processes


ROOT = processes.ROOT
FOLDER = ROOT / 'benchmarks'


def call(name, *args):
  """Runs a benchmark on one device, here; returns what it prints."""
  script = str(FOLDER / f'{name}.py')
  written = io.StringIO()
  option = 'jax_disable_most_optimizations'
  before = jax.config.read(option)
  with pytest.MonkeyPatch.context() as patch:
    devices.show_one(patch)
    patch.setattr(sys, 'argv', [script, '--small', *args])
    patch.syspath_prepend(FOLDER)
    try:
      with (
        contextlib.redirect_stdout(written),
        pytest.raises(SystemExit) as ended,
      ):
        runpy.run_path(script, run_name='__main__')
    finally:
      jax.config.update(option, before)
      sys.modules.pop('measuring', None)
      defined = flags.FLAGS.flags_by_module_dict()
      for flag in [*defined.get(script, ()), *defined.get('measuring', ())]:
        delattr(flags.FLAGS, flag.name)
      flags.FLAGS.mark_as_parsed()
  assert not ended.value.code
  return written.getvalue()


def call_apart(name, *args):
  """Does what `call` does in a process, for flags that commands define too."""
  done = processes.run(f'benchmarks/{name}.py', '--small', *args)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def table(text, title):
  """Returns the rows below a title line as {first cell: other cells}."""
  lines = text.splitlines()
  starts = [i for i, x in enumerate(lines) if x.startswith(f'| {title} |')]
  assert starts, text
  rows = {}
  for line in lines[starts[0] + 2 :]:
    if not line.startswith('|'):
      break
    first, *others = [cell.strip() for cell in line.strip('|').split('|')]
    rows[first] = others
  return rows


def number(cell):
  """Returns the number in a cell, which must be finite and not negative."""
  value = float(cell.removesuffix('%').replace(',', ''))
  assert math.isfinite(value), cell
  assert value >= 0, cell
  return value


@pytest.mark.turns(6)
@pytest.mark.slow
def test_ldm():
  text = call('ldm', '--parts')
  rows = table(text, 'operation')
  assert list(rows) == [
    'forward',
    'DDIM 2 steps',
    'DDIM 2 steps, guided',
    'training step',
  ]
  for seconds, rate, share in rows.values():
    assert number(seconds) >= 0
    assert number(rate) > 0
    assert number(share) >= 0
  layers = table(text, 'layer')
  assert list(layers) == ['convolution', 'group norm', 'self-attention']
  assert all(number(row[-1]) >= 0 for row in layers.values())
  assert number(table(text, 'steps')['2'][0]) > 0


@pytest.mark.turns(6)
@pytest.mark.slow
def test_sampling():
  text = call('sampling')
  rows = table(text, 'sampler')
  assert [name[:3] for name in rows] == ['(a)', '(b)', '(c)', '(d)']
  ratios = [number(row[-1]) for row in rows.values()]
  assert ratios[0] == 1
  assert all(ratio > 0 for ratio in ratios)
  error = re.search(r'\(a\), \(b\), \(c\) agree to (\S+) of', text)
  assert float(error[1]) < 1e-4


def test_evaluation():
  rows = table(call('evaluation'), 'images')
  assert list(rows) == ['0', '12']
  assert all(number(row[0]) > 100 for row in rows.values())


@pytest.mark.turns(6)
def test_evaluation_on_one_device_and_on_eight(tmp_path):
  """Also from states that another number of devices left."""
  of = lambda text: text.partition('| score')[2]
  folder = f'--folder={tmp_path}'
  one = of(call('evaluation', '--features', folder))
  eight = of(call_apart('evaluation', '--features'))
  assert one == eight
  assert one == of(call_apart('evaluation', '--features', folder))
  assert '| fid_tf1_12 |' in one


def test_latent_cache():
  rows = table(call('latent_cache'), 'shards')
  assert list(rows) == ['200 x 8', '4 x 64']
  assert [number(row[1]) for row in rows.values()] == [48, 4]
  for first, _, *rates in rows.values():
    assert number(first) < 30
    assert all(number(rate) > 0 for rate in rates)


def test_attention_plan():
  rows = table(call_apart('attention_plan'), 'tokens')
  heads, bias, kernel, moved, temporary = rows['64 x 64']
  assert (heads, bias, kernel) == ('2 x 8', 'yes', 'xla')
  assert number(moved) > 0
  assert number(temporary) >= 0


def test_residual_plan():
  rows = table(call_apart('residual_plan'), 'channels')
  side, least, moved, ratio, temporary = map(number, rows['32'])
  assert side == 8
  assert ratio == pytest.approx(moved / least, rel=0.01)
  assert ratio > 1
  assert temporary > 0


@pytest.mark.turns(6)
@pytest.mark.slow
def test_sketch():
  rows = table(call_apart('sketch'), 'sampling')
  assert list(rows) == [
    'without sketch guidance',
    'sketch guided',
    'sketch guided, activations recomputed',
  ]
  ratios = [number(row[-1]) for row in rows.values()]
  assert ratios[0] == 1
  assert all(ratio > 0 for ratio in ratios)


@pytest.mark.turns(6)
@pytest.mark.slow
def test_ladm():
  text = call_apart('ladm')
  rows = table(text, 'stage')
  assert list(rows) == ['2', '1']
  for _, operations, calls in rows.values():
    assert number(operations) > 0
    assert number(calls) >= 4  # two guided steps
  found = re.search(r'a sample: (\S+) G operations; (\S+) images/s', text)
  expected = sum(number(r[1]) * number(r[2]) for r in rows.values())
  assert number(found[1]) == pytest.approx(expected, rel=1e-2)
  assert number(found[2]) > 0


@pytest.mark.turns(6)
@pytest.mark.slow
@pytest.mark.parametrize('network', ['latent', 'image'])
def test_diffit(network):
  rows = table(call('diffit', f'--networks={network}'), 'operation')
  policies = ('none', 'products', 'attention', 'full')
  steps = [f'training step, remat={policy}' for policy in policies]
  assert list(rows) == ['forward', *steps]
  for _, _, images, rate, share in rows.values():
    assert number(images) > 0
    assert number(rate) > 0
    assert number(share) >= 0


@pytest.mark.turns(6)
@pytest.mark.slow
def test_paired():
  rows = table(call_apart('paired', f'--base={ROOT}'), 'case')
  assert list(rows) == ['diffit, training step', 'diffit, sampling']
  for wall, used, *_ in rows.values():
    assert number(wall) > 0
    assert number(used) > 0


@pytest.mark.turns(6)
@pytest.mark.slow
def test_promises():
  text = call('promises')
  rows = table(text, 'step')
  names = ['no check', 'all checks', 'all checks, may be skipped']
  assert list(rows) == names
  assert number(rows['no check'][1]) == 1
  assert all(number(ms) > 0 for ms, _ in rows.values())
  rows = table(text, 'on the host')
  assert len(rows) == 3
  assert all(number(ms) >= 0 for ms, _ in rows.values())


def test_checkpoint_goodput():
  text = call('checkpoint_goodput')
  parts = table(text, 'measured, one host')
  *_, waits, written = [number(secs) for secs, _ in parts.values()]
  assert 0 < waits <= written
  whole = table(text, 'extrapolated, 64 hosts')
  loss = number(whole['% of the time lost'][0])
  assert loss == pytest.approx(100 * waits / (1000 + waits), abs=2e-3)
  assert whole['below 5 %'] == ['yes']


@pytest.mark.turns(6)
@pytest.mark.slow
def test_latency():
  rows = table(call_apart('latency'), 'part')
  *parts, whole = rows
  assert parts == ['start', 'import', 'load', 'first image', 'another prompt']
  values = [number(rows[name][0]) for name in parts]
  assert all(value > 0 for value in values)
  assert number(rows[whole][0]) == pytest.approx(sum(values[:-1]), abs=0.05)


@pytest.mark.turns(6)
def test_data():
  text = call_apart('data', '--workers=1')
  rows = table(text, 'decoding')
  names = ['bare loop, 1 core', 'pipeline, 1 thread', 'pipeline, 1 threads']
  assert list(rows) == [*names, '1 processes']
  assert number(rows[names[0]][2]) == 100
  assert all(number(row[0]) > 0 for row in rows.values())
  rows = table(text, 'stored, 256 px')
  encodings = ['ppm', 'webp', 'png', 'jpeg']
  assert list(rows) == [*encodings, 'tar shards', 'latents']
  sizes = [number(row[2]) for row in rows.values()]
  assert 192 <= sizes[0] < 260  # with the margins of a file
  assert sizes[0] > max(sizes[1:3]) > min(sizes[1:3]) > sizes[3]
  rows = table(text, 'index')
  assert [row[0] for row in rows.values()] == ['1000', '1000']
  rows = text[text.index('| plan |') :].splitlines()[2:]
  cells = [[x.strip() for x in row.split('|')[1:-1]] for row in rows]
  assert {row[0] for row in cells} >= {'diffit_imagenet.py:256, v5e:16x16'}
  for _, _, need, there, lacks, cores in cells:
    assert number(lacks) == pytest.approx(
      max(0, number(need) - number(there)), abs=1.5
    )
    assert number(cores) >= 1


OFFICIAL = """
from {package}.parts import OUTPUTS

class UNetModel:
  name = 'official'
  outputs = OUTPUTS
"""


def write_official(folder, package):
  """Writes a checkout whose package has the name of a benchmark."""
  inner = folder / package / 'modules'
  inner.mkdir(parents=True)
  (folder / package / 'parts.py').write_text('OUTPUTS = 7\n')
  (inner / 'network.py').write_text(OFFICIAL.format(package=package))
  return f'{package}.modules.network'


CLASHES = """
import sys
import ldm
import measuring

module = measuring.official(sys.argv[1], 'ldm.modules.network')
assert module.UNetModel.outputs == 7
assert sys.modules['ldm'] is ldm
assert sys.modules['official.ldm.modules.network'] is module
import ldm as again
assert again is ldm
assert 'ldm.parts' not in sys.modules
print('benchmark', ldm.__file__)
"""


def test_official_code_may_have_the_name_of_a_benchmark(tmp_path):
  write_official(tmp_path, 'ldm')
  done = subprocess.run(
    [sys.executable, '-c', CLASHES, str(tmp_path)],
    env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "benchmarks"}'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.strip() == f'benchmark {ROOT / "benchmarks" / "ldm.py"}'


@pytest.mark.turns(6)
@pytest.mark.slow
def test_plans(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text(
    'before\n<!-- plans: begin -->old<!-- plans: end -->\nafter\n'
  )
  flags_ = (
    *('--only=diffit_imagenet_256', f'--page={page}'),
    f'--plans={tmp_path / "plans"}',
  )
  call_apart('plans', *flags_)
  text = page.read_text()
  assert text.startswith('before\n')
  assert text.endswith('\nafter\n')
  assert 'old' not in text
  rows = [x.split(' | ') for x in text.splitlines() if x.startswith('| `')]
  assert [row[2] for row in rows] == ['train', 'sampler']
  assert all(row[5] == 'partitioner' for row in rows)
  done = processes.run('benchmarks/plans.py', '--small', *flags_)
  assert done.stderr == ''  # nothing was compiled again
  assert page.read_text() == text
  flags_ = f'--plans={tmp_path / "none"}', f'--page={page}', '--limit_secs=0'
  call_apart('plans', '--only=diffit_imagenet_512', *flags_)
  rows = [x.split(' | ') for x in page.read_text().splitlines() if '`' in x]
  assert [row[5] for row in rows] == 2 * ['no: not within 0 s']
  assert {len(row) for row in rows} == {len(text.splitlines()[2].split(' | '))}
