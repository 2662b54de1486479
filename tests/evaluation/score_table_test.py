"""Tables of scores."""

import json

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.data import degradation
from pyramid_jax.evaluation import measures
from pyramid_jax.evaluation import score_table
from pyramid_jax.metrics import bootstrap
from tests.helpers import aligned


ROWS = [
  bootstrap.Row(
    'layout_recall',
    bootstrap.Score(0.51234, 0.4, 0.6, 30),
    bootstrap.Score(1.0, 1.0, 1.0, 30),
    None,
  ),
  bootstrap.Row(
    'fid_tf1_30',
    bootstrap.without_interval(7.5, 30),
    reference='VAL (9 images), contents 1f',
  ),
]


def test_what_is_not_known_is_a_dash_and_null(tmp_path):
  score_table.write(tmp_path / 'new', 'thirty images', ROWS)
  text = (tmp_path / 'new' / 'scores.md').read_text()
  about, _, *lines = text.splitlines()
  assert about == 'thirty images'
  assert lines[2:] == [
    '| layout_recall | 0.5123 | 0.4 .. 0.6 | 1 | - | 30 |',
    '| fid_tf1_30 | 7.5 | - | - | - | 30 |',
    '',
    'fid_tf1_30: against VAL (9 images), contents 1f',
  ]

  def refuse(name):
    raise AssertionError(f'{name} is no JSON')

  text = (tmp_path / 'new' / 'scores.json').read_text()
  saved = json.loads(text, parse_constant=refuse)
  assert saved['about'] == 'thirty images'
  assert saved['scores'] == {
    'layout_recall': {
      'value': 0.51234,
      'low': 0.4,
      'high': 0.6,
      'n': 30,
      'ceiling': 1.0,
      'floor': None,
      'reference': None,
    },
    'fid_tf1_30': {
      'value': 7.5,
      'low': None,
      'high': None,
      'n': 30,
      'ceiling': None,
      'floor': None,
      'reference': 'VAL (9 images), contents 1f',
    },
  }


@pytest.mark.parametrize(
  ('kind', 'names'),
  [
    ('bicubic', {'psnr', 'ssim', 'lr_consistency_bicubic'}),
    ('bsr_light', {'psnr', 'ssim'}),  # drawn at random: not repeated
  ],
)
def test_photographs_are_judged_by_their_own_degradation(kind, names):
  config = config_lib.base('ldm').unlock()
  config.condition.task = 'superres'
  config.data.name, config.data.degradation = 'image_folder', kind
  noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
  low = np.stack([degradation.degrade(kind, x, 4, 0) for x in noise])
  examples = {'image': noise, 'lr_image': low}
  measure = measures.of_samples(config, None, bounds=True)
  rows = aligned.of_measure(measure, noise, examples, noise)
  assert {row.name for row in rows} == names
  scores = {row.name: row.score.value for row in rows}
  assert scores.get('lr_consistency_bicubic', 100) == 100
