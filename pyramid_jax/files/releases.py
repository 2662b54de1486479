"""What a process gives back when it ends at once.

Code that holds something which another process would miss, a lock or a file
that is not finished, says how to give it back while it has it.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import threading


_RELEASES: dict[object, Callable[[], object]] = {}
_GATE = threading.Lock()  # a process that ends takes nothing new


@contextlib.contextmanager
def released(release: Callable[[], object]) -> Iterator[None]:
  """Calls `release` if the process ends at once within the context."""
  key = object()
  with _GATE:
    _RELEASES[key] = release
  try:
    yield
  finally:
    _RELEASES.pop(key, None)


def close() -> None:
  """Lets nothing new be held; who asks for it waits for ever."""
  _GATE.acquire()


def give_back() -> None:
  """Gives back what is held, the newest first."""
  releases = list(_RELEASES.values())[::-1]
  # Twice: what another thread was about to take it has now.
  for release in (*releases, *releases):
    with contextlib.suppress(Exception):  # the others still have their turn
      release()
