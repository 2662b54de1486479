"""The debug variant of every published experiment trains, samples and scores.

A tenth runs with the other tests, another one after each commit; all run with
the marker `pods`. Whole runs of systems are in tests/commands, too.
"""

import numpy as np
import pytest

from tests.helpers import debug_runs
from tests.helpers import published
from tests.helpers import turns


# What `shapes` does not have: neighbours of images, maps that are no squares,
# more light than white.
WITHOUT_SHAPES = ('hdr.py', 'ldm_retrieval.py', 'ldm_semantic.py:px256,wide')
# Several rows share a config.
CONFIGS = tuple(
  name
  for name in dict.fromkeys(row.config for row in published.rows())
  if not name.startswith(WITHOUT_SHAPES)
)
# Beginnings of configs that run with `pods` alone: several stages compile for
# minutes.
LONG = ('frido_', 'ladm_')
PARTS = 10


def chosen(number):
  """Returns the configs that run after so many commits."""
  short = [name for name in CONFIGS if not name.startswith(LONG)]
  return turns.chosen(short, PARTS, number)


def marked(name, now):
  mark = pytest.mark.slow if name in now else pytest.mark.pods
  return pytest.param(name, marks=mark)


def test_ten_commits_in_a_row_run_all_that_are_short():
  parts = [chosen(number) for number in range(7, 7 + PARTS)]
  names = sorted(name for part in parts for name in part)
  assert names == sorted(n for n in CONFIGS if not n.startswith(LONG))
  assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
  'name', [marked(name, chosen(turns.commits())) for name in CONFIGS]
)
def test_debug_variants_train_sample_and_score(name, tmp_path):
  (tmp_path / 'base').mkdir()
  config = debug_runs.config_of(name, tmp_path / 'base')
  scores = debug_runs.run(config, tmp_path / 'run')
  assert scores
  # 'relation_acc/above' is NaN where none of the few graphs has such a triple.
  always = [x for n, x in scores.items() if not n.startswith('relation_acc/')]
  assert np.isfinite(always).all()
