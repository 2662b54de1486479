"""What is refused before anything is built, and at a resume."""

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import field as field_lib
from pyramid_jax.config import names
from pyramid_jax.config import sections
from pyramid_jax.config import tree


def validate(config: ConfigDict) -> None:
  """Checks what can be known before anything is built.

  Raises:
    UserError: the first field that the system does not have or that is out of
      its range, and that range.
  """
  _check(tree.flatten(config))
  if 'first_stage' in config:
    _check(tree.flatten(config.first_stage), sections.FIRST_STAGE)


def _check(values: field_lib.Values, prefix: str = '') -> None:
  """Checks flat values.

  Args:
    values: {'train.steps': 1000, ...}, also those of the first stage.
    prefix: of their names in messages.
  """
  declared = sections.of(values.get('system.name', ''))
  for name in values:
    is_free = name.startswith((sections.NETWORK, sections.FIRST_STAGE))
    is_where = prefix and name == sections.CHECKPOINT
    if name not in declared.fields and not is_free and not is_where:
      raise errors.UserError(
        f'config.{prefix}{name}: a config of the system'
        f' {values["system.name"]!r} has no such field'
        f'{names.nearest(name, declared.fields)}'
      )
  for name, field in declared.fields.items():
    if name not in values:
      raise errors.UserError(f'config.{prefix}{name} is missing.')
    _refuse(values, prefix, field_lib.Broken(name, field.problem(values[name])))
  for rule in declared.checks:
    broken = rule(values)
    if broken is not None:
      _refuse(values, prefix, broken)


def _refuse(
  values: field_lib.Values, prefix: str, broken: field_lib.Broken
) -> None:
  if broken.allowed:
    raise errors.UserError(
      f'config.{prefix}{broken.name} is {values[broken.name]!r}, must be'
      f' {broken.allowed}.'
    )


def resume_differences(old: ConfigDict, new: ConfigDict) -> list[str]:
  """Returns 'field: old -> new' of all fields that a resume may not change."""
  before, after = tree.flatten(old), tree.flatten(new)
  lines = []
  for name in sorted(before.keys() | after.keys()):
    field = sections.find(after, name) or sections.find(before, name)
    if field is not None and field.resumable:
      continue
    was, now = before.get(name, 'absent'), after.get(name, 'absent')
    if was != now or type(was) is not type(now):
      lines.append(f'{name}: {was!r} -> {now!r}')
  return lines
