"""The command line: flags, options, and overrides of the config."""

import pathlib
from typing import Any

from absl import flags

from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.config import paths


CONFIG = flags.DEFINE_string('config', '', 'FILE.py[:variant,...]')
WORKDIR = flags.DEFINE_string('workdir', '', 'folder of the run')
MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'sample', 'evaluate'], 'what to do'
)
TAKEOVER = flags.DEFINE_bool('takeover', False, 'ignore the workdir lock')

# What the config does not say: inputs and outputs of sampling and evaluation.
_TEXTS = {
  'prompt': 'sample: the caption',
  'layout': 'sample: JSON file of boxes',
  'labels': 'sample: the objects, separated by commas',
  'graph': 'sample: the scene graph',
  'label': 'sample: the class, its name or number',
  'pitch': 'sample: descending, eye level or ascending',
  'depth_of_field': 'sample: shallow or deep',
  'map': 'sample: PNG of classes',
  'image': 'sample: image to enlarge, inpaint or edit',
  'mask': 'sample: mask of --image; white is painted',
  'sketch': 'sample: sketch to follow, an image or an SVG',
  'upsampler': 'sample: run that enlarges the result',
  'coarse_latent': 'sample: file of coarse scales',
  'samples': 'evaluate: an .npz or a folder of images',
  'write_reference': 'evaluate: new .npz for the statistics of --split (train)'
  ' or of --samples',
  'split': 'sample, evaluate: train, val or test',
}
# Of these, the files and folders.
_PATHS = (
  'layout',
  'map',
  'image',
  'mask',
  'sketch',
  'upsampler',
  'coarse_latent',
  'samples',
  'write_reference',
)
_OPTIONS = (
  TAKEOVER,
  *(flags.DEFINE_string(name, None, text) for name, text in _TEXTS.items()),
  flags.DEFINE_float(
    'strength', None, 'sample: share of the steps that --image goes through'
  ),
  flags.DEFINE_integer('count', None, 'sample: images', lower_bound=1),
  flags.DEFINE_integer('seed', None, 'sample: of the noise', lower_bound=0),
  flags.DEFINE_integer('last_scale', None, 'sample: stop after this scale'),
  flags.DEFINE_integer('checkpoint_step', None, 'sample, evaluate: which step'),
)


def parse(argv: list[str]) -> dict[str, str]:
  """Parses the flags, and returns the overrides of the config.

  Args:
    argv: the command line, with the name of the program.

  Raises:
    UserError: an unknown flag, or a value that it does not take.
  """
  overrides, rest = command_line.split(argv)
  try:
    unknown = flags.FLAGS(rest)[1:]
  except flags.Error as error:
    raise errors.UserError(str(error)) from error
  if unknown:
    raise errors.UserError(f'unknown argument {unknown[0]!r}, see --help.')
  if not WORKDIR.value:
    raise errors.UserError('--workdir=DIR must be given.')
  return overrides


def values() -> dict[str, Any]:
  """Returns {option: value} of the parsed flags, the `~` of paths expanded.

  Raises:
    UserError: a path in the home folder of nobody.
  """
  given: dict[str, Any] = {x.name: x.value for x in _OPTIONS}
  for name in _PATHS:
    if given[name]:
      given[name] = paths.expand(given[name], f'--{name}')
  return given


def workdir() -> pathlib.Path:
  """Returns the folder of the run, its `~` expanded."""
  return pathlib.Path(paths.expand(WORKDIR.value, '--workdir'))
