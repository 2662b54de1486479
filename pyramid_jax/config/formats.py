"""Configs as trees of sections, and their text in `config.json`.

Formats carry their number at the top, but for format 1: its fields and values
are renamed once, and what belongs to other systems, which every config had
then, is dropped. Format 3 names what `remat` keeps.
"""

from collections.abc import Callable
from collections.abc import Mapping
import json
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import names
from pyramid_jax.config import paths
from pyramid_jax.config import sections
from pyramid_jax.config import sums
from pyramid_jax.files import json_text


FORMAT = 3

# Fields of format 1 -> their names today.
RENAMED = {
  'condition.drop': 'condition.cond_dropout',
  'condition.camera_drop': 'condition.camera_dropout',
  'diffusion.law': 'diffusion.noise_distribution',
  'laplacian.guidance_parts': 'sample.guidance_parts',
  'sketch.taps': 'sketch.features',
  'sketch.tap_norm': 'sketch.feature_norm',
  'sketch.foreign': 'sketch.shuffled_condition',
}
# Names of today: values of format 1 -> values of today. They are those that
# no later format has with another meaning.
VALUES: Mapping[str, Mapping[str, str]] = {
  'data.resize': {'plain': 'bilinear', 'smooth': 'bicubic'},
  'condition.class_by': {'adm': 'timestep'},
  'sample.spacing': {'adm': 'iddpm'},
  'diffusion.beta_schedule': {'sqrt_linear': 'linear'},
}
# Fields that came later, whose default is not what runs without them had:
# flat values of such a run -> the value.
LATER: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
  # The readers of COCO dropped full stops, and its requests did.
  'condition.drop_full_stops': lambda flat: (
    flat.get('data.name') in ('coco', 'latents')
    and flat.get('condition.task') in ('text', 'scene_graph')
  ),
}
# Fields of a network that files of any format may hold and that are left
# out: nothing reads `image_size`, and `use_split_head` is on in every system.
UNREAD = {'frido': ('image_size', 'use_split_head')}
# Sections of one start of the processes, which no record of a run has.
UNRECORDED = ('distributed',)
# The field of a network that said, until format 2, what is kept where `remat`
# is true: 'products' or 'nothing'. Networks without it kept nothing.
_REMAT_KEEPS = 'remat_keeps'
# Values that all formats have, with two meanings.
_REUSED = {'diffusion.beta_schedule': {'linear': 'scaled_linear'}}


def base(system: str) -> ConfigDict:
  """Returns the common fields and those of a system, unlocked, with defaults.

  The systems are the keys of `pyramid_jax.systems.SYSTEMS`.

  Raises:
    UserError: an unknown system.
  """
  return build(sections.defaults(system))


def add_first_stage(config: ConfigDict, first_stage: ConfigDict) -> None:
  """Nests a whole config, and where its weights are, in an unlocked `config`.

  `first_stage.checkpoint` is a workdir or a weight file; empty: it is trained
  in `WORKDIR/first_stage`.
  """
  nested = build(first_stage.to_dict())
  nested[sections.CHECKPOINT] = ''
  config.first_stage = nested


def first_stage(config: ConfigDict) -> ConfigDict:
  """Returns the first stage as a config of its own, locked.

  It reads the data of the second stage unless it names its own root.
  """
  values = config.first_stage.to_dict()
  del values[sections.CHECKPOINT]
  nested = build(_read(values, '', FORMAT))
  nested.data.root = nested.data.root or config.data.root
  return nested.lock()


def to_json(config: ConfigDict, others: Mapping[str, str] | None = None) -> str:
  """Returns the text of `config.json`, in the newest format.

  With `others`, the sums of other files, it has those and its own; see `sums`.
  How the processes of a run found each other is no part of it.
  """
  values = {'format': FORMAT, **config.to_dict()}
  for section in UNRECORDED:
    values.pop(section, None)
  if others is not None:
    values = sums.add(values, others)
  return json.dumps(values, indent=2) + '\n'


def completed(config: ConfigDict) -> ConfigDict:
  """Returns a config with the fields that it lacks, locked.

  Raises:
    ValueError: see `from_json`.
  """
  return from_json(json.dumps({'format': FORMAT, **config.to_dict()}))


def from_json(text: str | bytes, what: str = '') -> ConfigDict:
  """Returns the locked config of a text of `to_json`, of any format.

  A field that it lacks came later than the run, and has its default, or what
  `LATER` says. The `~` of a path is expanded. `what` is the file, for messages.

  Raises:
    ValueError: the text is not a JSON object, a format that is newer than this
      program, a field that the system does not have, or a text that was changed
      (`sums.ChangedError`).
  """
  loaded = json_text.loads(text, what)
  if not isinstance(loaded, dict):
    raise ValueError(f'a config is a JSON object, got {type(loaded).__name__}.')
  values = _tuples(sums.take(loaded, what))
  version = values.pop('format', 1)
  if version not in range(1, FORMAT + 1):
    raise ValueError(
      f'config.json is of format {version!r}, must be at most {FORMAT}: it was'
      ' written by a newer version.'
    )
  config = build(_read(values, '', version)).lock()
  paths.expand_all(config)
  return config


def build(values: Mapping[str, Any]) -> ConfigDict:
  """Returns an unlocked config of nested values."""
  config = ConfigDict(values)
  if 'sample' in values:  # `steps` is an int or a tuple
    config.sample = ConfigDict(values['sample'], type_safe=False)
  if 'first_stage' in values:
    config.first_stage = build(values['first_stage'])
  return config


def _read(
  values: Mapping[str, Any], prefix: str, version: int
) -> dict[str, Any]:
  """Returns the nested values of a config or of its first stage, complete.

  Args:
    values: nested, as they were written.
    prefix: of names in messages; not empty for a first stage.
    version: their format.
  """
  values = dict(values)
  for name in ('first_stage', 'network'):
    if not isinstance(values.get(name, {}), dict):
      raise ValueError(f'config.{prefix}{name} is no JSON object.')
  first_stage = values.pop('first_stage', None)
  network = dict(values.pop('network', {}))
  flat = names.flatten(values)
  system = flat.get('system.name', '')
  if not isinstance(system, str):
    name = f'{prefix}system.name'
    raise ValueError(f'config.{name} is {errors.shown(system)}, must be a str.')
  if prefix and not system:
    system = sections.FIRST_STAGE_SYSTEM
  known = sections.of(system).fields
  if version < 3:
    keeps = network.pop(_REMAT_KEEPS, 'nothing')
    named = {True: 'products' if keeps == 'products' else 'full', False: 'none'}
    if isinstance(flat.get('remat'), bool):
      flat['remat'] = named[flat['remat']]
  if version < 2:
    flat = {k: v for k, v in translated(flat).items() if k in known}
    if prefix:
      flat[sections.CHECKPOINT] = values.get(sections.CHECKPOINT, '')
  later = {name: f(flat) for name, f in LATER.items() if name in known}
  flat = later | flat
  for name in flat:
    if name not in known and not (prefix and name == sections.CHECKPOINT):
      raise ValueError(sections.unknown(system, name, prefix))
  unread = UNREAD.get(system, ())
  kept = {k: v for k, v in network.items() if k not in unread}
  complete = sections.defaults(system, flat) | {'network': kept}
  if first_stage is not None:
    complete['first_stage'] = _read(first_stage, sections.FIRST_STAGE, version)
  return complete


def translated(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns flat values of format 1 with the names and values of today."""
  result = {}
  for old, value in flat.items():
    name = RENAMED.get(old, old)
    meanings = {**VALUES.get(name, {}), **_REUSED.get(name, {})}
    result[name] = meanings.get(value, value) if meanings else value
  return result


def _tuples(value: Any) -> Any:
  """JSON knows no tuples, a config knows no lists."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(v) for v in value)
  return value
