"""Fields of the profiler."""

from pyramid_jax.config import field as field_lib
from pyramid_jax.config.field import Field


ALL, FIRST = PROCESSES = ('all', 'first')

FIELDS = {
  'profile.steps': Field(
    (),
    'The first and the last step of the run, such as 10,15, that the profiler'
    ' of jax traces into WORKDIR/profile; empty for none.',
    items=int,
    length=(0, 2),
    low=1,
    resumable=True,
  ),
  'profile.processes': Field(
    ALL,
    'Whether all processes are traced, each into a folder of its own, or the'
    ' first alone.',
    choices=PROCESSES,
    resumable=True,
  ),
}


def _in_order(values: field_lib.Values) -> field_lib.Broken | None:
  """A window of steps has a beginning and an end."""
  steps = values['profile.steps']
  if not steps or steps[0] <= steps[1]:
    return None
  return field_lib.Broken(
    'profile.steps', f'FIRST,LAST with LAST at least {steps[0]}'
  )


CHECKS = (_in_order,)
