"""Tables of scores."""

import json

from pyramid_jax.evaluation import score_table
from pyramid_jax.metrics import bootstrap


ROWS = [
  bootstrap.Row(
    'layout_recall',
    bootstrap.Score(0.51234, 0.4, 0.6, 30),
    bootstrap.Score(1.0, 1.0, 1.0, 30),
    None,
  ),
  bootstrap.Row('fid_tf1_30', bootstrap.without_interval(7.5, 30), None, None),
]


def test_what_is_not_known_is_a_dash_and_null(tmp_path):
  score_table.write(tmp_path / 'new', 'thirty images', ROWS)
  text = (tmp_path / 'new' / 'scores.md').read_text()
  about, _, *lines = text.splitlines()
  assert about == 'thirty images'
  assert lines[2:] == [
    '| layout_recall | 0.5123 | 0.4 .. 0.6 | 1 | - | 30 |',
    '| fid_tf1_30 | 7.5 | - | - | - | 30 |',
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
    },
    'fid_tf1_30': {
      'value': 7.5,
      'low': None,
      'high': None,
      'n': 30,
      'ceiling': None,
      'floor': None,
    },
  }
