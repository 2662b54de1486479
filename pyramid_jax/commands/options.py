"""The command line: flags, options, and overrides of the config."""

from typing import Any

from absl import flags

from pyramid_jax import errors


CONFIG = flags.DEFINE_string('config', '', 'FILE.py[:variant,...]')
WORKDIR = flags.DEFINE_string('workdir', '', 'folder of the run')
MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'sample', 'evaluate'], 'what to do'
)
TAKEOVER = flags.DEFINE_bool('takeover', False, 'ignore the workdir lock')

# What sampling and evaluation are asked for, beside the config.
_OPTIONS = (
  flags.DEFINE_string('prompt', '', 'sample: the caption'),
  flags.DEFINE_string('layout', '', 'sample: JSON file of boxes'),
  flags.DEFINE_string('labels', '', 'sample: the objects, by commas'),
  flags.DEFINE_string('graph', '', 'sample: the scene graph'),
  flags.DEFINE_string('label', '', 'sample: the class, its name or number'),
  flags.DEFINE_string(
    'pitch', '', 'sample: descending, eye level or ascending'
  ),
  flags.DEFINE_string('depth_of_field', '', 'sample: shallow or deep'),
  flags.DEFINE_string('map', '', 'sample: PNG of classes'),
  flags.DEFINE_string('image', '', 'sample: image to enlarge, mend, change'),
  flags.DEFINE_string('mask', '', 'sample: its mask, white is painted'),
  flags.DEFINE_string('sketch', '', 'sample: sketch to follow, or an SVG'),
  flags.DEFINE_float('strength', None, 'sample: share of steps after --image'),
  flags.DEFINE_integer('count', None, 'sample: images', lower_bound=1),
  flags.DEFINE_integer('seed', None, 'sample: of the noise', lower_bound=0),
  flags.DEFINE_integer('last_scale', None, 'sample: stop after this scale'),
  flags.DEFINE_string('upsampler', '', 'sample: run that enlarges the result'),
  flags.DEFINE_string('coarse_latent', '', 'sample: file of coarse scales'),
  flags.DEFINE_string('samples', '', 'evaluate: an .npz or a folder'),
  flags.DEFINE_string(
    'write_reference',
    '',
    'evaluate: new .npz, statistics of --split (train) or of --samples',
  ),
  flags.DEFINE_string('split', '', 'sample, evaluate: train, val or test'),
  flags.DEFINE_integer('checkpoint_step', None, 'sample, evaluate: step'),
)
_OVERRIDE = '--config.'


def parse(argv: list[str]) -> dict[str, str]:
  """Parses the flags.

  Args:
    argv: with the name of the program.

  Returns:
    {'train.steps': '1000'} for every `--config.train.steps=1000`.

  Raises:
    UserError: an unknown flag, or a value that it does not take.
  """
  overrides = {}
  for arg in (a for a in argv if a.startswith(_OVERRIDE)):
    name, equals, value = arg.removeprefix(_OVERRIDE).partition('=')
    if not equals:
      raise errors.UserError(f'{arg}: must be {arg}=VALUE.')
    overrides[name] = value
  try:
    rest = flags.FLAGS([a for a in argv if not a.startswith(_OVERRIDE)])
  except flags.Error as error:
    raise errors.UserError(str(error)) from error
  if rest[1:]:
    raise errors.UserError(f'unknown argument {rest[1]!r}, see --help.')
  if not WORKDIR.value:
    raise errors.UserError('--workdir=DIR must be given.')
  return overrides


def values() -> dict[str, Any]:
  """Returns {option: value} of the parsed flags."""
  return {option.name: option.value for option in (*_OPTIONS, TAKEOVER)}
