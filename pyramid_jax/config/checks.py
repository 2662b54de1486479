"""Checks of a config before anything is built, and at a resume."""

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import field as field_lib
from pyramid_jax.config import names
from pyramid_jax.config import paths
from pyramid_jax.config import sections


def validate(config: ConfigDict) -> None:
  """Checks all fields, before anything is built.

  Raises:
    UserError: the first field that the system does not have or that is out of
      its range, and that range.
  """
  _check(names.flatten(config))
  if 'first_stage' in config:
    _check(names.flatten(config.first_stage), sections.FIRST_STAGE)


def _check(values: field_lib.Values, prefix: str = '') -> None:
  """Checks flat values; `prefix` is that of their names in messages."""
  declared = sections.of(values.get('system.name', ''))
  for name in values:
    is_free = name.startswith((sections.NETWORK, sections.FIRST_STAGE))
    is_where = prefix and name == sections.CHECKPOINT
    if name not in declared.fields and not is_free and not is_where:
      system = values['system.name']
      raise errors.UserError(sections.unknown(system, name, prefix))
    if name.startswith(sections.NETWORK):
      low = sections.network_low(values, name)
      problem = field_lib.free_problem(values[name], low)
      _refuse(values, prefix, field_lib.Broken(name, problem))
  for name, field in declared.fields.items():
    if name not in values:
      raise errors.UserError(f'config.{prefix}{name} is missing.')
    _refuse(values, prefix, field_lib.Broken(name, field.problem(values[name])))
  for rule in declared.checks:
    _refuse(values, prefix, rule(values))


def _refuse(
  values: field_lib.Values, prefix: str, broken: field_lib.Broken | None
) -> None:
  if broken is not None and broken.allowed:
    value = errors.shown(values[broken.name])
    raise errors.UserError(
      f'config.{prefix}{broken.name} is {value}, must be {broken.allowed}.'
    )


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
  """Returns 'field: old -> new' of all fields."""
  before, after = names.flatten(old), names.flatten(new)
  return [
    f'{name}: {before.get(name, "absent")!r} -> {after.get(name, "absent")!r}'
    for name in sorted(before.keys() | after.keys())
    if before.get(name) != after.get(name)
  ]


def resume_differences(old: ConfigDict, new: ConfigDict) -> list[str]:
  """Returns 'field: old -> new' of all fields that a resume may not change."""
  before, after = names.flatten(old), names.flatten(new)
  lines = []
  for name in sorted(before.keys() | after.keys()):
    field = sections.find(after, name) or sections.find(before, name)
    was, now = before.get(name, 'absent'), after.get(name, 'absent')
    is_free = field is not None and field.resumable
    is_path = field is not None and field.path
    is_same = type(was) is type(now) and was == now
    if is_path:
      is_same = paths.is_same(was, now)
    if not is_free and not is_same:
      lines.append(f'{name}: {was!r} -> {now!r}')
  return lines
