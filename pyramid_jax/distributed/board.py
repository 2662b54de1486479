"""Keys and values that all processes of a run see, of one purpose.

They lie in the store of jax's coordination service, which knows no devices.
"""

import jax

from pyramid_jax.distributed import processes


_MISSING = ('DEADLINE_EXCEEDED', 'NOT_FOUND')
_THERE = 'ALREADY_EXISTS'


class Board:
  """The keys of one purpose; an `agreement.Board`."""

  def __init__(self, name: str):
    self._prefix = f'{processes.PREFIX}/{name}'

  def put(self, key: str, value: str) -> None:
    """Sets a key for good; one that is set stays what it is."""
    try:
      processes.set_key(f'{self._prefix}/{key}', value)
    except jax.errors.JaxRuntimeError as error:
      if not str(error).startswith(_THERE):
        raise

  def get(self, key: str, secs: float) -> str | None:
    """Returns the value of a key, None if it is not set within so long."""
    name = f'{self._prefix}/{key}'
    try:
      if not secs:
        return processes.client().key_value_try_get(name)
      limit_ms = max(1, int(1000 * secs))
      return processes.client().blocking_key_value_get(name, limit_ms)
    except jax.errors.JaxRuntimeError as error:
      if not str(error).startswith(_MISSING):
        raise
    return None

  def delete(self, prefix: str) -> None:
    """Removes the keys that begin with `prefix/`."""
    processes.client().key_value_delete(f'{self._prefix}/{prefix}/')
