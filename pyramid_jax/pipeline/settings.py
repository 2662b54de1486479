"""How images are sampled, apart from their conditions."""

from collections.abc import Sequence
import dataclasses
import numbers
from typing import Any
from typing import cast

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.config import ranges
from pyramid_jax.config import sections
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks.layers import attention
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.systems import system as system_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How images are sampled, apart from their conditions."""

  spec: spec_lib.SamplerSpec
  seed: int = 0  # The seed of the noise.
  # In (0, 1], the share of the steps that are taken from the row `image`, only
  # in its holes if there is a row `inpaint_mask`; None begins with noise.
  strength: float | None = None
  # Which scales are sampled, and at which size; `start` holds rows.
  extent: system_lib.Extent = system_lib.Extent()
  # The number of the model in a cascade, each of which has its own noise.
  stream: int = 0


def of_config(
  system: system_lib.Trainable, config: ConfigDict, **changes: Any
) -> Settings:
  """Returns the settings that `config.sample` describes.

  Args:
    system: what is sampled.
    config: the config of the run.
    **changes: other values of fields of `Settings`.

  Raises:
    ValueError: a field of `config.sample` that the system does not serve, or
      a `config.attention` that those devices do not have for which programs
        are traced.
  """
  attention.check(config.attention, placement.platform())
  spec = spec_lib.SamplerSpec()
  if system.outputs not in (system_lib.RECONSTRUCTIONS, system_lib.CLASSES):
    spec = spec_lib.from_config(config)
    cast(system_lib.Generative, system).check_spec(spec)
  return Settings(**{'spec': spec, 'seed': config.sample.seed} | changes)


def of_sampler(config: ConfigDict) -> tuple[str, ...]:
  """Returns the fields of `config.sample` that a request may change."""
  names = set(config.sample)
  if not config.sample.get('classifier'):
    names.discard('classifier_scale')
  return tuple(n for n in request_lib.SAMPLER if n in names)


def with_request(
  config: ConfigDict, request: request_lib.Request
) -> ConfigDict:
  """Returns the config with the fields of `config.sample` that are asked for.

  Raises:
    UserError: a field that the system does not have, or out of its range.
  """
  given = request.given(request_lib.SAMPLER)
  if not given:
    return config
  config = config_lib.from_json(config_lib.to_json(config)).unlock()
  declared = sections.of(config.system.name)
  for name in given:
    if name not in of_sampler(config):
      allowed = ', '.join(of_sampler(config))
      raise errors.UserError(
        f'{name}: the system {config.system.name!r} has no such setting of'
        f' sampling, only {allowed}.'
      )
    field = declared.fields[f'sample.{name}']
    value = _plain(getattr(request, name), field.item_kind)
    problem = field.problem(value)
    if problem:
      raise errors.UserError(
        f'{name}={errors.shown(value)}: must be {problem}.'
      )
    with config.sample.ignore_type():
      config.sample[name] = value
  flat = config_lib.flatten(config)
  for rule in declared.checks:
    broken = rule(flat)
    if broken is not None and broken.allowed:
      raise errors.UserError(
        f'{broken.name.removeprefix("sample.")}={flat[broken.name]!r}: must be'
        f' {broken.allowed}.'
      )
  return config.lock()


def _plain(value: Any, kind: type) -> Any:
  """Returns a value of Python, as a config holds it."""
  if isinstance(value, Sequence) and not isinstance(value, str):
    return tuple(_plain(item, kind) for item in value)
  if hasattr(value, 'tolist'):  # of NumPy or JAX
    return _plain(value.tolist(), kind)
  is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  is_float = kind is float and is_whole and abs(value) <= ranges.WHOLE
  return float(value) if is_float else value
