import pathlib
import re

import jax

from pyramid_jax.distributed import processes


PACKAGE = pathlib.Path(processes.__file__).parents[1]


def test_one_process_is_the_main_one():
  assert processes.process_part() == (0, 1)
  assert processes.is_main_process()


def test_part_of_several(monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 2)
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  assert processes.process_part() == (2, 4)
  assert not processes.is_main_process()


def having(pattern):
  """Returns the files of the package that have a pattern."""
  return {
    str(path.relative_to(PACKAGE))
    for path in PACKAGE.rglob('*.py')
    if re.search(pattern, path.read_text())
  }


def test_nobody_else_asks():
  assert having(r'jax\.process_(index|count)') == {'distributed/processes.py'}


def test_nobody_else_fetches_what_may_be_split():
  assert having(r'device_get|allgather') == {'distributed/processes.py'}
