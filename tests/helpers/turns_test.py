"""Tests that take turns."""

import types

import pytest

from tests.helpers import turns


class Item:
  """A collected test, as far as turns ask."""

  def __init__(self, path, *args, **kwargs):
    self.path = path
    self.marks = {}
    if args:
      self.marks['turns'] = pytest.mark.turns(*args, **kwargs).mark

  def get_closest_marker(self, name):
    return self.marks.get(name)

  def add_marker(self, mark):
    self.marks[mark.name] = mark


def collected():
  long = [Item('a_test.py', 3) for _ in range(7)]
  other = [Item('b_test.py', 3), Item('b_test.py')]
  shared = [Item(f'{x}_test.py', 2, group='runs') for x in 'abc']
  return [*long, *other, *shared]


@pytest.mark.parametrize('first', [0, 5])
def test_every_test_has_its_turn_within_as_many_commits_as_parts(first):
  items = collected()
  runs = [0] * len(items)
  for number in range(first, first + 6):
    left = turns.waiting(items, number)
    for i, item in enumerate(items):
      runs[i] += item not in left
  assert runs == [2] * 8 + [6] + [3] * 3


def test_parts_are_of_equal_size():
  items = collected()
  for number in range(3):
    left = turns.waiting(items[:7], number)
    assert 7 - len(left) in (2, 3)
  counts = [3 - len(turns.waiting(items[-3:], n)) for n in range(2)]
  assert counts == [2, 1]


@pytest.mark.parametrize(
  ('given', 'marks', 'is_left'),
  [
    ((), '', True),
    (('tests',), 'not slow', True),
    (('tests',), 'turns', False),
    (('tests/cases_test.py',), '', False),
    (('tests/cases_test.py::test_case', 'tests'), '', False),
  ],
)
def test_only_runs_of_all_tests_leave_some_out(given, marks, is_left):
  items = collected()
  config = types.SimpleNamespace(
    args=given or ['tests'],
    getini=lambda name: ['tests'],
    invocation_params=types.SimpleNamespace(dir=turns.ROOT),
    option=types.SimpleNamespace(markexpr=marks),
  )
  turns.skip_waiting(config, items)
  assert any(item.get_closest_marker('skip') for item in items) == is_left


def test_the_number_of_commits_is_that_of_the_repository(monkeypatch):
  assert turns.commits() >= 0
  answers = {'--is-shallow-repository': 'true', 'HEAD': 'ff'}
  monkeypatch.setattr(turns, '_git', lambda *args: answers[args[-1]])
  assert turns.commits.__wrapped__() == 255
  monkeypatch.setattr(turns, '_git', lambda *args: '')
  assert turns.commits.__wrapped__() == 0
