"""Names that are close to a mistyped one."""

from collections.abc import Iterable
import difflib


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?', or '.' when nothing is like `name`."""
  names = list(known)
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  if not near:  # the right name in the wrong section
    last = name.rpartition('.')[2]
    ends = {n.rpartition('.')[2]: n for n in reversed(names)}
    near = [
      ends[n] for n in difflib.get_close_matches(last, ends, n=1, cutoff=0.5)
    ]
  return f'; did you mean {near[0]!r}?' if near else '.'
