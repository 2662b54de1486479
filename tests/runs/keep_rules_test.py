import random

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.runs import keep_rules
from tests.helpers import configs
from tests.helpers import fake_run


HOUR = 3600.0


def saved(times, scores=()):
  """Returns checkpoints of the steps 1, 2, ... by their hours and scores."""
  scores = dict(enumerate(scores, 1))
  return [
    keep_rules.Saved(
      step=n, time=None if t is None else t * HOUR, score=scores.get(n)
    )
    for n, t in enumerate(times, 1)
  ]


def test_the_newest_stay():
  rules = keep_rules.Rules(newest=2)
  assert rules.kept(saved([0, 1, 2, 3])) == {3, 4}
  assert rules.kept(saved([0])) == {1}
  assert rules.kept([]) == set()


def test_one_in_so_many_hours_stays():
  rules = keep_rules.Rules(newest=1, every_hours=2)
  assert rules.kept(saved([0, 0.5, 1.9, 2.1, 3, 4, 4.2])) == {1, 4, 7}
  # Of older versions, whose records have no time.
  assert rules.kept(saved([None, 0, 1])) == {2, 3}


def test_a_clock_that_is_set_back_removes_nothing_for_good():
  rules = keep_rules.Rules(newest=1, every_hours=2)
  assert rules.kept(saved([100, 101, 0, 1, 2, 3])) == {1, 3, 5, 6}


def test_removing_step_by_step_leaves_the_same():
  draw = random.Random(0)
  rules = keep_rules.Rules(newest=2, every_hours=1, best='x', best_count=2)
  times = [draw.uniform(0, 0.6) + 0.3 * n for n in range(40)]
  scores = [draw.random() for _ in times]
  everything, left = saved(times, scores), []
  for x in everything:
    left.append(x)
    stay = rules.kept(left)
    left = [y for y in left if y.step in stay]
  hours = [x.step for x in left]
  assert {39, 40} <= set(hours)
  best = sorted(everything, key=lambda x: x.score)[-2:]
  assert {x.step for x in best} <= set(hours)
  assert rules.kept(left) == set(hours)


@pytest.mark.parametrize(('lower', 'want'), [(False, {2, 4}), (True, {1, 4})])
def test_the_best_stay(lower, want):
  rules = keep_rules.Rules(newest=1, best='x', lower_is_better=lower)
  assert rules.kept(saved([0, 1, 2, 3], [0.1, 0.9, 0.5])) == want


def test_among_equals_the_newer_is_best():
  rules = keep_rules.Rules(newest=1, best='x')
  assert rules.kept(saved([0, 1, 2], [0.5, 0.5])) == {2, 3}


@pytest.mark.parametrize(
  ('score', 'lower'), [('layout_recall', False), ('fid', True)]
)
def test_rules_of_a_config(score, lower):
  fields = {'keep': 5, 'keep_every_hours': 1.5, 'keep_best': score}
  config = fake_run.config(**{f'train__{k}': v for k, v in fields.items()})
  rules = keep_rules.Rules.of_config(config.train)
  assert rules == keep_rules.Rules(
    newest=5, every_hours=1.5, best=score, lower_is_better=lower
  )


def test_a_score_needs_evaluations():
  config = configs.of_task('text').copy_and_resolve_references()
  config_lib.override(config, {'train.keep_best': 'caption_acc'})
  with pytest.raises(errors.UserError, match='train.eval_every is 0, must be'):
    config_lib.validate(config)
  config_lib.override(config, {'train.eval_every': '10'})
  config_lib.validate(config)
