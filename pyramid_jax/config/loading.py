"""The configuration of a run: its fields, its variants, its overrides.

A config file is Python with `get_config(arg) -> ConfigDict`. It starts from
`base()`, which holds every field there is, and changes the few that differ.
It is executed, so it is trusted code.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import difflib
import importlib.util
import json
import pathlib
import types
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.config import fields as fields_lib


# What may differ between a run and its resumption: nothing that the numbers
# of a finished step depend on.
RESUMABLE = (
  'train.steps',
  'train.log_every',
  'train.checkpoint_every',
  'train.sample_every',
  'train.eval_every',
  'data.root',
  'sketch.predictor',
  'sketch.beta',
  'sketch.stop_fraction',
  'sketch.norm_ref',
  'sketch.foreign',
  'control.weight',
)
RESUMABLE_SECTIONS = ('sample.', 'evaluate.')

# One number for all scales or one for each, whatever the config holds now.
INT_OR_TUPLE = ('sample.steps',)


def base() -> ConfigDict:
  """Returns every field of a config, unlocked, with its default.

  A config with a first stage adds `first_stage` (see `add_first_stage`).
  """
  return _build(fields_lib.defaults())


def add_first_stage(config: ConfigDict, first_stage: ConfigDict) -> None:
  """Nests a whole config, and where its weights are, in an unlocked `config`.

  `first_stage.checkpoint` is a workdir or a weight file; empty: it is trained
  in `WORKDIR/first_stage`.
  """
  nested = _build(first_stage.to_dict())
  nested.checkpoint = ''
  config.first_stage = nested


def first_stage(config: ConfigDict) -> ConfigDict:
  """Returns the first stage as a config of its own, locked.

  It reads the data of the second stage unless it names its own root.
  """
  nested = from_json(to_json(config.first_stage))
  with nested.unlocked():
    del nested.checkpoint
    nested.data.root = nested.data.root or config.data.root
  return nested


def parse_variants(
  arg: str | None, **known: bool | tuple[str, ...]
) -> dict[str, Any]:
  """Parses 'debug,layout', what follows the colon of `--config`.

  Args:
    arg: names separated by commas.
    **known: `name=False` is a switch that its name turns on;
      `name=('a', 'b')` is a choice that 'a' or 'b' makes, 'a' by default.

  Returns:
    {name: bool or the chosen string}.

  Raises:
    ValueError: a name is not known, or two make the same choice.
  """
  values = {k: v[0] if isinstance(v, tuple) else v for k, v in known.items()}
  owner = {}
  for name, value in known.items():
    names = value if isinstance(value, tuple) else (name,)
    owner.update(dict.fromkeys(names, name))
  chosen: dict[str, str] = {}
  for word in filter(None, (arg or '').split(',')):
    if word not in owner:
      raise ValueError(
        f'unknown config variant {word!r}{_nearest(word, owner)} '
        f'Known: {", ".join(owner) or "none"}.'
      )
    name = owner[word]
    if chosen.setdefault(name, word) != word:
      raise ValueError(
        f'config variants {chosen[name]!r} and {word!r} exclude each other.'
      )
    values[name] = word if isinstance(known[name], tuple) else True
  return values


def load(path: str) -> ConfigDict:
  """Executes a config file and returns its config, locked.

  Args:
    path: 'configs/frido_shapes.py' or 'configs/frido_shapes.py:variant,...'.

  Raises:
    UserError: no such file, no `get_config`, or an unknown variant.
  """
  if '://' in path:
    raise errors.UserError(
      f'--config={path}: a config is code and is not fetched from a URL; '
      'give the path of a file.'
    )
  name, _, arg = path.partition('.py:')
  file = pathlib.Path(name if name.endswith('.py') else f'{name}.py')
  if not path.endswith('.py') and '.py:' not in path:
    raise errors.UserError(f'--config={path}: must be FILE.py[:variant,...].')
  if not file.is_file():
    raise errors.UserError(f'--config={path}: there is no file {file}.')
  try:
    module = _execute(file)
  except SyntaxError as error:
    raise errors.UserError(f'--config={path}: {error}.') from error
  if not hasattr(module, 'get_config'):
    raise errors.UserError(f'--config={path}: {file} has no get_config(arg).')
  with errors.user_errors():
    config = module.get_config(arg)
  if not isinstance(config, ConfigDict):
    raise errors.UserError(
      f'--config={path}: get_config returned {type(config).__name__}, '
      'not a ConfigDict.'
    )
  return from_json(to_json(config))


def sibling(file: str, name: str) -> types.ModuleType:
  """Returns the config module `name` that lies beside the config `file`."""
  return _execute(pathlib.Path(file).with_name(f'{name}.py'))


def _execute(file: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
  assert spec is not None  # the name ends in .py
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def override(config: ConfigDict, values: Mapping[str, str]) -> None:
  """Sets fields from the command line, in place.

  Args:
    config: locked or not.
    values: {'train.steps': '1000', ...}, read by the type of the old value.

  Raises:
    UserError: no such field, or the text is not of the field's type.
  """
  fields = flatten(config)
  for name, text in values.items():
    if name not in fields:
      raise errors.UserError(
        f'--config.{name}: there is no such field{_nearest(name, fields)}'
      )
    value = _parse(name, text, fields[name])
    *parents, last = name.split('.')
    section = config
    for parent in parents:
      section = section[parent]
    with section.ignore_type():
      section[last] = value


def _parse(name: str, text: str, old: Any) -> Any:
  """Reads `text` as the type of `old`."""
  kind = type(old)
  if name.endswith(INT_OR_TUPLE):
    kind, old = (tuple, (0,)) if ',' in text else (int, 0)
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind is tuple:
      item = type(old[0]) if old else str
      return tuple(item(t) for t in text.strip('()').split(',') if t.strip())
    return kind(text)
  except (KeyError, ValueError):
    raise errors.UserError(
      f'--config.{name}={text}: must be {kind.__name__}, as {old!r} is.'
    ) from None


def _nearest(name: str, known: Iterable[str]) -> str:
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


def validate(config: ConfigDict) -> None:
  """Checks what can be known before anything is built.

  Raises:
    UserError: the first field that is out of its range, and that range.
  """
  fields_lib.check(flatten(config))
  if 'first_stage' in config:
    fields_lib.check(flatten(config.first_stage), 'first_stage.')


def flatten(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
  """Returns {'train.steps': 1000, ...}; empty sections vanish."""
  fields: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      fields.update(flatten(value, f'{prefix}{name}.'))
    else:
      fields[prefix + name] = value
  return fields


def to_json(config: ConfigDict) -> str:
  """Returns the text of `config.json`."""
  return json.dumps(config.to_dict(), indent=2) + '\n'


def from_json(text: str) -> ConfigDict:
  """Returns the locked config of a text of `to_json`.

  A field that it lacks came later than the run, and has its default.

  Raises:
    ValueError: the text is not a JSON object.
  """
  values = _tuples(json.loads(text))
  if not isinstance(values, dict):
    raise ValueError(f'a config is a JSON object, got {type(values).__name__}.')
  config = _build(_completed(values))
  if 'first_stage' in values:
    config.first_stage = _build(_completed(values['first_stage']))
  return config.lock()


def _completed(values: dict[str, Any]) -> dict[str, Any]:
  """Returns values with the defaults of what is not there."""
  completed = base().to_dict()
  for name, value in values.items():
    old = completed.get(name)
    is_section = isinstance(old, dict) and isinstance(value, dict)
    completed[name] = {**old, **value} if is_section else value
  return completed


def _build(values: dict[str, Any]) -> ConfigDict:
  config = ConfigDict(values)
  if 'sample' in values:  # `steps` is an int or a tuple
    config.sample = ConfigDict(values['sample'], type_safe=False)
  return config


def _tuples(value: Any) -> Any:
  """JSON knows no tuples, a config knows no lists."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(v) for v in value)
  return value


def resume_differences(old: ConfigDict, new: ConfigDict) -> list[str]:
  """Returns 'field: old -> new' of all fields that a resume may not change."""
  before, after = flatten(old), flatten(new)
  lines = []
  for name in sorted(before.keys() | after.keys()):
    plain = name.removeprefix('first_stage.')
    if plain in RESUMABLE or plain.startswith(RESUMABLE_SECTIONS):
      continue
    was, now = before.get(name, 'absent'), after.get(name, 'absent')
    if was != now or type(was) is not type(now):
      lines.append(f'{name}: {was!r} -> {now!r}')
  return lines
