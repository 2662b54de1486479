import pytest

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.runs import same_start
from tests.helpers import fake_run


@pytest.fixture
def other(monkeypatch):
  """Stands for a second process; returns its changes of what is told."""
  changes = {}

  def collected(value, topic='main'):
    del topic
    if isinstance(value, dict):  # the values, after the sums differed
      return [value, {**value, **changes}]
    digest, name = value
    return [value, [digest + str(sorted(changes)), f'other {name}']]

  monkeypatch.setattr(processes, 'is_one_of_many', lambda: True)
  monkeypatch.setattr(processes, 'name', lambda: 'process')
  monkeypatch.setattr(processes, 'collected', collected)
  return changes


def test_the_first_difference_is_named(other):
  other |= {'val.images.count': 7, 'train.images.sha256': 'b'}
  facts = {
    'train': {'images': {'sha256': 'a'}},
    'val': {'images': {'count': 8}},
  }
  with pytest.raises(errors.UserError) as caught:
    same_start.check_data(facts)
  assert caught.value.code == errors.DATA
  assert caught.value.is_shared
  assert str(caught.value) == (
    "the data train.images.sha256 is 'b' in other process and 'a' in process;"
    ' all processes of a run need the same.'
  )


def test_a_value_that_one_process_lacks(other):
  other['extra'] = None
  with pytest.raises(errors.UserError, match='extra is None in .* absent in'):
    same_start.check_data({})


def test_files_and_versions_come_before_the_config(other):
  other |= {'data/batches.py': 'edited'}
  with pytest.raises(errors.UserError, match='the file data/batches.py') as e:
    _check_files()
  assert e.value.code == errors.USAGE


def _check_files():
  same_start._check('the file', same_start._files(), errors.USAGE)


def test_the_processes_themselves_may_differ():
  config = fake_run.get_config()
  texts = []
  for index in (0, 1):
    with config.unlocked():
      config.distributed.process_id = index
    texts.append(same_start.config_values(config))
  assert texts[0] == texts[1]
  assert texts[0]['config.train.seed'] == 0
  assert not any('distributed' in name for name in texts[0])
