"""Where the fields of a config are declared: common ones and a system's own.

The declarations are next to the code that reads them and are imported when
they are needed, so that importing `pyramid_jax.config` loads no system.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import importlib
import typing
from typing import Any

from pyramid_jax import errors
from pyramid_jax.config import field as field_lib
from pyramid_jax.config import names


# Modules with the `FIELDS` and `CHECKS` of every config.
COMMON = (
  'pyramid_jax.systems.fields',
  'pyramid_jax.training.train_fields',
  'pyramid_jax.training.profile_fields',
  'pyramid_jax.distributed.mesh_fields',
  'pyramid_jax.distributed.process_fields',
  'pyramid_jax.distributed.compiler_fields',
  'pyramid_jax.data.data_fields',
  'pyramid_jax.conditioning.condition_fields',
  'pyramid_jax.evaluation.evaluate_fields',
)

FIRST_STAGE = 'first_stage.'
FIRST_STAGE_SYSTEM = 'autoencoder'
CHECKPOINT = 'checkpoint'  # a field of a nested first stage alone
NETWORK = 'network.'  # constructor fields of the network, which are free
_MODULE = ('name', 'parent')  # fields of every module, which are no arguments
_PLAIN = (bool, int, float, str, tuple)  # types of defaults
_MAY_BE_NONE = ('blocks', 'depth', 'frequencies')  # ends of such arguments
_CHECKPOINT_FIELD = field_lib.Field(
  '',
  'Workdir or weight file of the trained first stage; empty to train it in'
  ' WORKDIR/first_stage.',
  path=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
  """The declarations for the configs of a system."""

  fields: Mapping[str, field_lib.Field]  # without those of the network
  checks: tuple[field_lib.Check, ...]
  # Flat values -> the class whose constructor fields are `config.network`;
  # None where it is not known.
  network_class: Callable[[field_lib.Values], type] | None


def registered() -> Mapping[str, str]:
  """Returns the modules of the systems by name."""
  return importlib.import_module('pyramid_jax.systems').SYSTEMS


@functools.cache
def of(system: str) -> Declared:
  """Returns the declarations for the configs of a system of `registered`.

  Raises:
    UserError: an unknown system.
  """
  known = registered()
  if system not in known:
    raise errors.UserError(
      f'config.system.name is {system!r}, must be one of {", ".join(known)}'
      f'{names.nearest(system, known)}'
    )
  fields: dict[str, field_lib.Field] = {}
  checks: list[field_lib.Check] = []
  for path in (*COMMON, known[system]):
    module = importlib.import_module(path)
    fields.update(getattr(module, 'FIELDS', {}))
    checks.extend(getattr(module, 'CHECKS', ()))
  if getattr(module, 'SAMPLES_A_BASE', False):
    fields = {**_of_any_sampler(system), **fields}
  return Declared(
    fields=fields,
    checks=tuple(dict.fromkeys(checks)),
    network_class=getattr(module, 'network_class', None),
  )


def _of_any_sampler(system: str) -> dict[str, field_lib.Field]:
  """Returns the fields of sampling that any other system declares."""
  return {
    name: field
    for other in registered()
    if other != system
    for name, field in of(other).fields.items()
    if name.startswith('sample.')
  }


def unknown(system: str, name: str, prefix: str) -> str:
  """Returns the message about a field that a system does not have."""
  return (
    f'config.{prefix}{name}: a config of the system {system!r} has no such'
    f' field{names.nearest(name, of(system).fields)}'
  )


def defaults(
  system: str, values: field_lib.Values | None = None
) -> dict[str, Any]:
  """Returns {section: {field: value}} of a system, with defaults.

  Args:
    system: a key of `pyramid_jax.systems.SYSTEMS`.
    values: flat, of fields that have another value.

  Raises:
    UserError: an unknown system.
  """
  fields = {name: field.default for name, field in of(system).fields.items()}
  name = {'system.name': system}
  return {'network': {}, **names.nested(fields | name | dict(values or {}))}


def find(values: field_lib.Values, name: str) -> field_lib.Field | None:
  """Returns the declaration of a field of a flat config, None if it has none.

  The name may be of the nested first stage.
  """
  if name == FIRST_STAGE + CHECKPOINT:
    return _CHECKPOINT_FIELD
  prefix = FIRST_STAGE if name.startswith(FIRST_STAGE) else ''
  system = values.get(f'{prefix}system.name', '')
  if system not in registered():
    return None
  return of(system).fields.get(name.removeprefix(prefix))


def network_type(values: field_lib.Values, name: str) -> Any:
  """Returns the annotation of a constructor field of the network, or None.

  Args:
    values: the flat config.
    name: 'network.width', or 'first_stage.network.width'.
  """
  found, field = _network_field(values, name)
  return None if found is None else typing.get_type_hints(found).get(field)


def network_low(values: field_lib.Values, name: str) -> int | None:
  """Returns the least whole number that an argument of a network may be.

  That is 1, or 0 of what may be none, or the default where that is less; None
  for names that the constructor does not have.

  Args:
    values: the flat config.
    name: see `network_type`; 'network.ddconfig.ch' is part of an argument.
  """
  found, field = _network_field(values, name)
  first, _, rest = field.partition('.')
  default = getattr(found, first, 1)
  if found is None or first not in typing.get_type_hints(found):
    return None
  low = 0 if (rest or first).endswith(_MAY_BE_NONE) else 1
  return min(low, default) if type(default) is int else low


def left_out(values: field_lib.Values, name: str) -> tuple[Any, ...]:
  """Returns (default,) of an argument of a network that a config leaves out.

  () for other names, and for arguments that fields outside the network set, as
  `dtype` does.

  Args:
    values: the flat config.
    name: see `network_type`.
  """
  prefix = FIRST_STAGE if name.startswith(FIRST_STAGE) else ''
  is_network = name.startswith(prefix + NETWORK)
  if not is_network or f'{prefix}system.name' not in values:
    return ()
  found, field = _network_field(values, name)
  if found is None:
    return ()
  defaults = {
    f.name: f.default
    for f in dataclasses.fields(found)
    if f.name not in _MODULE and f'{prefix}{f.name}' not in values
  }
  default = defaults.get(field, dataclasses.MISSING)
  return (default,) if isinstance(default, _PLAIN) else ()


def _network_field(
  values: field_lib.Values, name: str
) -> tuple[type | None, str]:
  """Returns the class of a network, None if not known, and the argument."""
  prefix = FIRST_STAGE if name.startswith(FIRST_STAGE) else ''
  found = of(values[f'{prefix}system.name']).network_class
  own = {
    k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)
  }
  field = name.removeprefix(prefix + NETWORK)
  return None if found is None else found(own), field
