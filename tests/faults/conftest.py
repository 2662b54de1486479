"""Faults that are injected; see docs/reliability.md.

Everything here has the marker `faults`. What has the marker `rounds` repeats a
fault many times and runs only where the expression of `-m` names one of the
two.
"""

import pathlib
import re

import pytest

from tests.helpers import written_commands


HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(config, items):
  chosen = re.search(r'\b(faults|rounds)\b', config.option.markexpr or '')
  for item in items:
    if HERE not in item.path.parents:
      continue
    item.add_marker(pytest.mark.faults)
    if item.get_closest_marker('rounds') and not chosen:
      item.add_marker(pytest.mark.skip(reason='many rounds: -m faults'))


@pytest.fixture(scope='session')
def untroubled(server, tmp_path_factory):
  """Returns the results of commands that nothing happens to, by their kind."""
  return written_commands.results(server, tmp_path_factory.mktemp('untroubled'))
