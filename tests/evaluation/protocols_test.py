"""The protocols of published tables."""

import dataclasses
import pathlib

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.evaluation import fid_state
from pyramid_jax.evaluation import protocols
from pyramid_jax.metrics import bootstrap
from tests.helpers import configs
from tests.helpers import published as published_lib


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
# Experiments of which no table, or no number of images, was published.
WITHOUT = (
  'adm_classifier',
  'frido_coco.py:label',
  'hdr',
  'ladm_text.py:256,custom',
  'ladm_upsampler.py:tuned',
  'ldm_classifier',
  'ldm_retrieval',
  'ldm_semantic',
  'msvqgan_coco',
  'msvqgan_openimages',
)


def published():
  return sorted({row.config for row in published_lib.rows()})


@pytest.mark.parametrize('name', published())
def test_published_configs_name_the_protocol_of_their_count(name):
  config = config_lib.load(f'{CONFIGS}/{name}')
  protocol = config.evaluate.protocol
  if name.startswith(WITHOUT):
    assert not protocol
    return
  assert protocols.PROTOCOLS[protocol].count == config.evaluate.count
  text = protocols.about(config, config.evaluate.count)
  assert text.startswith(f'; protocol {protocol} (')
  assert ', but ' not in text


def test_what_differs_from_a_protocol_is_named():
  values = {'evaluate.protocol': 'ldm_uncond', 'sample.to_uint8': 'round'}
  config = configs.change(config_lib.base('ldm'), values)
  text = protocols.about(config, 7)
  assert text.endswith(
    'but 7 images instead of 50000 and to_uint8 round instead of truncate'
  )
  config.evaluate.protocol = ''
  assert protocols.about(config, 7) == ''
  config.evaluate.protocol = 'no'
  with pytest.raises(errors.UserError, match='evaluate.protocol is'):
    config_lib.validate(config)


def test_every_protocol_has_a_source_and_whole_numbers_of_conditions():
  for protocol in protocols.PROTOCOLS.values():
    assert protocol.source
    assert protocol.scores
    assert protocol.count % protocol.per_condition == 0


def test_the_run_with_the_least_fid_counts():
  score = lambda value: bootstrap.without_interval(value, 4)
  runs = [
    {'fid_tf1_4': score(fid), 'precision_4': score(precision)}
    for fid, precision in ((3.0, 0.5), (2.0, 0.4), (4.0, 0.9))
  ]
  got = fid_state.of_runs(runs)
  values = {name: x.value for name, x in got.items()}
  assert values == {
    'fid_tf1_4': 2.0,
    'precision_4': 0.4,
    'fid_tf1_4_run1': 3.0,
    'fid_tf1_4_run2': 2.0,
    'fid_tf1_4_run3': 4.0,
    'fid_tf1_4_mean': 3.0,
  }
  error = np.std([3, 2, 4], ddof=1) / 3**0.5
  mean = got['fid_tf1_4_mean']
  np.testing.assert_allclose([3 - mean.low, mean.high - 3], error)
  assert fid_state.of_runs(runs[:1]) == runs[0]
  assert dataclasses.asdict(got['fid_tf1_4'])['n'] == 4


def test_what_a_table_lacks_is_named():
  config = configs.change(
    config_lib.base('ldm'), {'evaluate.protocol': 'coco_30k'}
  )
  names = ['fid_tf1_30k', 'inception_score_30k', 'clip_scores']
  got = protocols.lacking(config, names)
  assert got == '; the table lacks clip_score, cmmd'
  assert not protocols.lacking(config, [*names, 'clip_score', 'cmmd_30k'])
  config.evaluate.protocol = ''
  assert not protocols.lacking(config, [])


def test_the_page_has_every_protocol_and_its_numbers():
  text = (CONFIGS.parent / 'docs' / 'evaluation.md').read_text()
  lines = [x.split(' | ') for x in text.splitlines() if x.startswith('| `')]
  shown = {cells[0].strip('| `'): cells for cells in lines}
  assert shown.keys() == protocols.PROTOCOLS.keys()
  for name, protocol in protocols.PROTOCOLS.items():
    runs = f'{protocol.runs} x ' if protocol.runs > 1 else ''
    assert shown[name][2] == f'{runs}{protocol.count:,}'
    assert shown[name][3] == protocol.reference
