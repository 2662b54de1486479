"""The flags of `python -m pyramid_jax.main`, by group, and their help."""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.config import names


PLAN = 'plan'
MODES = ('train', 'sample', 'evaluate', PLAN)
_SAMPLERS = ('sample', 'evaluate')
_PROGRAM = 'python -m pyramid_jax.main'


@dataclasses.dataclass(frozen=True)
class Flag:
  """A flag; its value is None unless it is given."""

  doc: str
  value: str = 'TEXT'  # what stands for the value in the help; '' for a switch
  kind: Callable[[str], Any] = str


@dataclasses.dataclass(frozen=True)
class Group:
  """Flags that serve one purpose."""

  modes: tuple[str, ...]  # those that take the flags
  example: str  # what follows the name of the program
  flags: Mapping[str, Flag]


def _file(doc: str, value: str = 'FILE') -> Flag:
  return Flag(doc, value, command_line.path)


def _integer(doc: str, low: int = 0) -> Flag:
  return Flag(doc, 'N', command_line.at_least(low))


def _scale(text: str) -> int | str:
  return int(text) if text.isdecimal() else text


# Fields of config.sample with flags of their own -> what they mean.
SAMPLER = {
  'steps': 'steps of the solver, one number or one for each stage: 20,50',
  'guidance': 'scale of classifier-free guidance; 1 is none',
  'classifier': 'run of a classifier that guides, docs/sampling.md',
  'classifier_scale': "factor of the classifier's gradient",
  'solver': 'ddim, plms, ddpm, dpmpp_2m, unipc, heun or euler',
  **dict.fromkeys(
    (
      *('shape', 'guidance_interval', 'guidance_channels', 'guidance_power'),
      *('guidance_parts', 'spacing', 'rho', 'eta', 'temperature', 'project'),
      *('discretization', 'sigma_min', 'sigma_max', 'churn', 'churn_min'),
      *('churn_max', 'churn_noise', 'windows'),
    ),
    'see --help_config',
  ),
}

GROUPS: Mapping[str, Group] = {
  'what to do': Group(
    MODES,
    '--config=configs/frido_shapes.py:debug --config.train.steps=100',
    {
      'mode': Flag('train (default), sample, evaluate or plan', 'MODE'),
      'config': Flag(
        'the configuration; without it, that of --workdir',
        'NAME or FILE.py[:VARIANT]',
      ),
      'workdir': _file(
        'the folder of the run; runs/NAME of the config if it is not given',
        'DIR',
      ),
      'verbosity': Flag('-1 logs warnings only, 1 more', 'N', int),
    },
  ),
  'train': Group(
    ('train',),
    '--config=configs/frido_shapes.py --workdir=runs/frido_shapes',
    {'takeover': Flag('ignore the lock of the workdir', '')},
  ),
  'sample: conditions': Group(
    ('sample',),
    "--mode=sample --workdir=runs/text --prompt='a red circle'",
    {
      'prompt': Flag("the caption; '' is the empty one"),
      'layout': _file('JSON of boxes: [{"label": ..., "box": [0, 0, 1, 1]}]'),
      'labels': Flag('the objects, separated by commas'),
      'graph': Flag("relations: 'red circle, left of, blue square; ...'"),
      'label': Flag('the class, its name or number'),
      'map': _file('image of classes or, for a control, of depth'),
      'pitch': Flag('of the camera: descending, eye level or ascending'),
      'depth_of_field': Flag('of the camera: shallow or deep'),
    },
  ),
  'sample: images to begin with': Group(
    ('sample',),
    '--mode=sample --workdir=runs/inpaint --image=a.png --mask=b.png',
    {
      'image': _file('image to enlarge, inpaint or edit'),
      'mask': _file('mask of --image; white is painted'),
      'strength': Flag(
        'share of the steps that --image goes through', 'N', float
      ),
      'sketch': _file('sketch to follow, an image or an SVG'),
      'coarse_latent': _file('latents.npz whose finer scales are sampled'),
    },
  ),
  'sample: how many, how far': Group(
    ('sample',),
    '--mode=sample --workdir=runs/text --count=8 --seed=0',
    {
      'count': _integer('the number of images', low=1),
      'seed': _integer('the seed of the noise'),
      'last_scale': Flag(
        'stop after this scale, by number or name', 'SCALE', _scale
      ),
      'upsampler': _file('run that enlarges the result', 'DIR'),
    },
  ),
  'sample and evaluate': Group(
    _SAMPLERS,
    '--mode=sample --workdir=runs/text --steps=25 --guidance=2',
    {
      'split': Flag('train, val or test: whose conditions are taken', 'SPLIT'),
      'checkpoint_step': _integer('the checkpoint; the newest without it'),
      **{
        name: Flag(f'--config.sample.{name}: {doc}', 'VALUE')
        for name, doc in SAMPLER.items()
      },
    },
  ),
  'evaluate': Group(
    ('evaluate',),
    '--mode=evaluate --workdir=runs/text --samples=runs/text/samples',
    {
      'samples': _file('an .npz or a folder of images to score'),
      'write_reference': _file(
        'new .npz for the statistics of --split (train) or of --samples'
      ),
    },
  ),
  'plan': Group(
    (PLAN,),
    '--mode=plan --config=configs/diffit_imagenet.py --topology=v5e:16x16',
    {
      'topology': Flag(
        'the chips: v5e:16x16, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4; or h100:8x4,'
        ' 8 GPUs a node and 4 nodes'
      ),
      'slices': _integer('slices of TPUs, joined by a network', low=1),
      'programs': Flag('train, sampler or, without it, train,sampler'),
      'until': Flag('end (default) or partitioner, which is sooner', 'STAGE'),
      'one_batch': Flag('do not look for the largest batch', ''),
    },
  ),
  'help': Group(
    MODES,
    '--config=configs/frido_shapes.py --help_config',
    {
      'help': Flag('these lines; after --mode=MODE, what that mode takes', ''),
      'help_config': Flag('every field of --config or --workdir', ''),
      'list_configs': Flag('the configs that come along', ''),
    },
  ),
}
MAY_BE_EMPTY = ('prompt',)


@dataclasses.dataclass(frozen=True)
class CommandLine:
  """What was given; None stands for what was not."""

  mode: str
  values: dict[str, Any]  # of every flag but those of `SAMPLER`
  overrides: command_line.Overrides  # of the config


def _flags() -> Iterator[tuple[str, Flag, Group]]:
  for group in GROUPS.values():
    for name, flag in group.flags.items():
      yield name, flag, group


def parser(mode: str | None = None) -> command_line.Parser:
  """Returns the parser of the flags of a mode, or of all of them."""
  whole = command_line.Parser(
    _PROGRAM, 'Trains, samples, evaluates and plans.', add_help=False
  )
  whole.usage = f'{_PROGRAM} [--mode=MODE] [--config=FILE.py] [--workdir=DIR]'
  for title, group in GROUPS.items():
    if mode is None or mode in group.modes:
      example = f'{_PROGRAM} {group.example}'
      section = whole.add_argument_group(title, example)
      for name, flag in group.flags.items():
        _add(section, name, flag)
  return whole


def _add(section: Any, name: str, flag: Flag) -> None:
  text = flag.doc.replace('%', '%%')
  flags = [f'--{name}', '-h'] if name == 'help' else [f'--{name}']
  if flag.value:
    section.add_argument(*flags, type=flag.kind, metavar=flag.value, help=text)
  else:
    section.add_argument(*flags, action='store_const', const=True, help=text)


def help_of(arguments: Sequence[str]) -> str:
  """Returns the help of all flags, or of those of the mode that is given."""
  only_mode = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  only_mode.add_argument('--mode', nargs='?')
  mode = only_mode.parse_known_args(arguments)[0].mode
  if mode is not None:
    _check_mode(mode)
  return parser(mode).format_help()


def parse(arguments: Sequence[str]) -> CommandLine:
  """Parses a command line.

  Raises:
    UserError: an unknown flag, one that the mode does not take, or a value
      that a flag does not take.
  """
  flags, overrides = parser().parse(arguments, MAY_BE_EMPTY)
  values = dict(vars(flags))
  mode = values['mode'] or 'train'
  _check_mode(mode)
  for name, _, group in _flags():
    if values[name] is not None and mode not in group.modes:
      raise errors.UserError(
        f'--{name} is a flag of --mode={" and --mode=".join(group.modes)}, not'
        f' of --mode={mode}.'
      )
  for name in SAMPLER:
    value = values.pop(name)
    if value is not None:
      overrides.setdefault(f'sample.{name}', value)
  return CommandLine(mode, values, overrides)


def _check_mode(mode: str) -> None:
  if mode not in MODES:
    raise errors.UserError(
      f'--mode={mode}: must be {", ".join(MODES[:-1])} or {MODES[-1]}'
      f'{names.nearest(mode, MODES)}'
    )
