"""Tests that take turns: every commit runs a part of them, a few commits all.

What is slow and alike, such as the commands of a page, has the marker
`turns(PARTS)`. A run of the whole of `tests` then runs one of so many parts,
which the number of the commit chooses, and PARTS commits in a row run all. A
run that names files or tests, and one with `-m turns`, leaves nothing out.
"""

from collections.abc import Sequence
import functools
import pathlib
import subprocess
from typing import Any

import pytest


ROOT = pathlib.Path(__file__).parents[2]


@functools.cache
def commits() -> int:
  """Returns the number of the commit, 0 outside of a repository.

  It is how many commits there are so far. A clone that is cut off has too few
  of them to tell, and takes a number from the commit's hash.
  """
  if _git('rev-parse', '--is-shallow-repository') == 'true':
    return int(_git('rev-parse', 'HEAD'), 16)
  return int(_git('rev-list', '--count', 'HEAD') or 0)


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ['git', '-C', str(ROOT), *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  return done.stdout.strip() if done.returncode == 0 else ''


def chosen(names: Sequence[Any], parts: int, number: int) -> Sequence[Any]:
  """Returns the part of `names` whose turn comes after so many commits."""
  return names[number % parts :: parts]


def waiting(items: Sequence[Any], number: int) -> list[Any]:
  """Returns the tests whose turn comes after another number of commits.

  Args:
    items: collected tests, in the order of their files. Those of one file with
      the same number of parts take turns with each other; with
      `turns(PARTS, group=NAME)`, those of all files that name the group.
    number: of commits.
  """
  groups: dict[Any, list[Any]] = {}
  for item in items:
    if marker := item.get_closest_marker('turns'):
      (parts,) = marker.args
      group = marker.kwargs.get('group', item.path)
      groups.setdefault((group, parts), []).append(item)
  left = []
  for (_, parts), members in groups.items():
    now = {id(item) for item in chosen(members, parts, number)}
    left += [item for item in members if id(item) not in now]
  return left


def skip_waiting(config: pytest.Config, items: Sequence[Any]) -> None:
  """Skips the tests that wait, where the whole of `tests` runs."""
  whole = {str(ROOT / name) for name in config.getini('testpaths')}
  given = {
    str((config.invocation_params.dir / x).resolve()) for x in config.args
  }
  if given != whole or 'turns' in (config.option.markexpr or ''):
    return
  for item in waiting(items, commits()):
    parts = item.get_closest_marker('turns').args[0]
    reason = f'another of {parts} commits runs it, and -m turns'
    item.add_marker(pytest.mark.skip(reason=reason))
