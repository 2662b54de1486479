"""The runs behind published numbers: which run, in which order; their page."""

import dataclasses
import json
import os
import re
import subprocess

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import results
from pyramid_jax.commands import results as command
from pyramid_jax.results import rows
from pyramid_jax.results import running
from tests.report import page_test


@pytest.fixture(name='programs')
def _programs(monkeypatch):
  """Has commands leave a run, and fail where `programs.codes` says so."""

  class Programs:
    codes: list[int] = []  # of the next commands
    flags: list[list[str]] = []

    def run(self, arguments, **kwargs):
      if arguments[0] == 'git':
        return subprocess.CompletedProcess(arguments, 0, 'abc1234')
      del kwargs
      flags = arguments[3:]
      self.flags.append(flags)
      code = self.codes.pop(0) if self.codes else 0
      (workdir,) = [x for x in flags if x.startswith('--workdir=')]
      folder = running.pathlib.Path(workdir.removeprefix('--workdir='))
      if '--mode' not in ' '.join(flags) and not code:
        page_test.write_run(folder)
      return subprocess.CompletedProcess(arguments, code)

  programs = Programs()
  programs.codes, programs.flags = [], []
  monkeypatch.setattr(running.subprocess, 'run', programs.run)
  return programs


@pytest.mark.parametrize('tier', results.TIERS)
def test_rows_come_after_those_that_they_need(tier):
  found = results.chosen(tier)
  names = [row.name for row in found]
  assert len(names) == len(set(names)) == sum(1 for _ in rows.of_tier(tier))
  for i, row in enumerate(found):
    assert set(row.needs) <= set(names[:i])


def test_a_row_brings_what_it_needs():
  names = [row.name for row in results.chosen('cpu', 'sketch_ldm,kl')]
  assert names == ['kl', 'ldm_text', 'sketch_ldm']
  with pytest.raises(errors.UserError, match="no row 'ldm' of the tier 'gpu'"):
    results.chosen('gpu', 'frido_layout,ldm')


@pytest.mark.parametrize(
  'row',
  [row for tier in results.TIERS for row in rows.of_tier(tier)],
  ids=lambda row: row.config,
)
def test_configs_take_the_fields_and_the_first_stages_of_rows(row, tmp_path):
  for small in (False, True):
    (_, flags), *_ = running.commands(row, tmp_path, small)
    config = config_lib.load(flags[0].removeprefix('--config='))
    given = [flag.removeprefix('--config.').split('=') for flag in flags[2:]]
    config_lib.override(config, dict(given))
    if (name := 'first_stage.checkpoint') in row.fields:
      other = {x.name: x for x in rows.of_tier('cpu')}[row.needs[0]]
      (_, (file, *_)), *_ = running.commands(other, tmp_path, small)
      whole = config_lib.load(file.removeprefix('--config='))
      assert config.first_stage.network == whole.network
      assert dict(given)[name] == str(tmp_path / other.name)


def test_a_row_goes_on_where_it_failed(tmp_path, programs):
  programs.codes = [errors.RESTART, 0, errors.DATA]
  flags = ['--tier=cpu', f'--workdir={tmp_path}', '--only=diffit']
  assert command.main(flags) == errors.USAGE
  modes = [x[0] for x in programs.flags]
  train = '--config=configs/diffit_shapes.py'
  assert modes == [train, train, '--mode=sample']
  page = (tmp_path / 'results_cpu.md').read_text()
  assert '| `diffit` | failed (sample: ended with 65) | - |' in page
  assert command.main(flags) == errors.OK
  assert [x[0] for x in programs.flags[3:]] == [
    '--mode=sample',
    '--mode=evaluate',
  ]
  assert command.main(flags) == errors.OK
  assert len(programs.flags) == 5


def test_the_page_has_what_runs_left(tmp_path, programs):
  row = results.Row(name='ladm_text', config='configs/ladm_shapes.py:text')
  result = results.run(row, tmp_path, tier='cpu', small=True)
  assert set(result.spent_secs) == {'train', 'sample', 'evaluate'}
  page = tmp_path / 'docs' / 'cpu.md'
  done = results.write('cpu', tmp_path, page)
  assert [name for name in done if done[name]] == ['ladm_text']
  text = page.read_text()
  (cells,) = re.findall(r'^\| `ladm_text` \| (.*) \|$', text, re.MULTILINE)
  images, minutes, *cells = cells.split(' | ')
  assert int(images.replace(',', '')) > 0
  assert float(minutes) > 0
  assert cells == ['0.500 (0.400 .. 0.600)', '-', '-', '-', 'abc1234+']
  assert '| `ldm_text` | not run | - | - | - | - | - | - |' in text
  assert '| real images | - | - | 1.000 | - | - | - | - |' in text
  train = '--config=configs/ladm_shapes.py:text,debug --workdir=DIR/ladm_text'
  assert f'python -m pyramid_jax.main {train}\n' in text
  (image,) = re.findall(r'!\[Images of ladm_text\]\((.*)\)', text)
  assert (page.parent / image).read_bytes()[:2] == b'\xff\xd8'
  curve = text.partition('validation split')[2]
  assert re.findall(r'^\| (\d+) \| ([\d.]+) \|$', curve, re.MULTILINE) == [
    (str(500 * n), f'{(500 * n - 1) / 3000:.3f}') for n in range(1, 7)
  ]


def test_other_flags_and_damaged_results_are_refused(tmp_path, programs):
  row = results.Row(name='a', config='configs/diffit_shapes.py')
  results.run(row, tmp_path, tier='cpu')
  other = dataclasses.replace(row, fields={'train.steps': '7'})
  with pytest.raises(errors.UserError, match='train.steps=7; remove it'):
    results.run(other, tmp_path, tier='cpu')
  path = tmp_path / 'a' / running.FILE
  values = json.loads(path.read_text())
  path.write_text(json.dumps({**values, 'more': 1}))
  with pytest.raises(errors.UserError, match='no result of a row'):
    results.run(row, tmp_path, tier='cpu')
  assert len(programs.flags) == 3


@pytest.mark.pods
def test_a_first_stage_is_trained_and_scored(tmp_path, monkeypatch):
  count = '--xla_force_host_platform_device_count'
  others = re.sub(f'{count}=8', f'{count}=2', os.environ['XLA_FLAGS'])
  monkeypatch.setenv('XLA_FLAGS', others)
  flags = ['--tier=cpu', f'--workdir={tmp_path}', '--small', '--only=kl']
  assert command.main(flags) == errors.OK
  text = (tmp_path / 'results_cpu.md').read_text()
  assert re.search(r'\| `kl` \| 12 \| [\d.]+ \| [\d.]+ \([\d.]+ \.\. ', text)
