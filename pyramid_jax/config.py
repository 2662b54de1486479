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


DTYPES = ('float32', 'bfloat16')
ATTENTION = ('auto', 'xla', 'cudnn', 'flash')
PARAMETERIZATIONS = ('eps', 'x0', 'v')
OPTIMIZERS = ('adam', 'adamw')
TASKS = (
  'none',
  'text',
  'layout',
  'label',
  'scene_graph',
  'class',
  'map',
  'superres',
  'inpaint',
)
DEGRADATIONS = ('bicubic', 'bsr_light')
RESIZES = ('', 'plain', 'smooth', 'area')
ENCODERS = ('tokens', 'boxes', 'clip')
SOLVERS = ('ddim', 'plms', 'ddpm', 'dpmpp_2m', 'heun')
SPACINGS = ('official', 'exact', 'log_snr', 'quad', 'adm', 'strided')

# What may differ between a run and its resumption: nothing that the numbers
# of a finished step depend on.
RESUMABLE = (
  'train.steps',
  'train.log_every',
  'train.checkpoint_every',
  'train.sample_every',
  'train.eval_every',
  'data.root',
)
RESUMABLE_SECTIONS = ('sample.', 'evaluate.')

# One number for all scales or one for each, whatever the config holds now.
INT_OR_TUPLE = ('sample.steps',)


def base() -> ConfigDict:
  """Returns every field of a config, unlocked, with its default.

  A config with a first stage adds `first_stage` (see `add_first_stage`).
  """
  return _build(
    {
      'name': '',  # of the experiment, for logs
      'dtype': 'float32',  # of activations; weights are always float32
      'remat': False,  # recompute activations in the backward pass
      'attention': 'auto',  # auto | xla | cudnn (GPU) | flash (TPU)
      'system': {
        'name': '',  # a key of pyramid_jax.systems.SYSTEMS
        'network': 'msvqgan',  # of a first stage: msvqgan | kl | vq
      },
      'train': _train(),
      'optimizer': {
        'name': 'adam',  # adam | adamw
        'b1': 0.9,
        'b2': 0.999,
        'eps': 1e-8,
        'weight_decay': 0.0,  # adamw only, times the learning rate
      },
      'ema': {
        'decay': 0.9999,  # of update n: min(decay, (1 + n) / (10 + n))
        'halflife_images': 0.0,  # above 0: this rule instead (EDM)
        'halflife_rampup': 0.05,  # at most this part of the images so far
      },
      'mesh': {
        'data': -1,  # devices that split the batch; -1 = the rest
        'fsdp': 1,  # devices that split the batch and the parameters
        'tensor': 1,  # devices that split what the sharding rules name
        'fsdp_min_size': 2**16,  # values; smaller leaves are replicated
      },
      'data': _data(),
      'condition': _condition(),
      'network': {},  # constructor fields of the network
      'diffusion': {
        'timesteps': 1000,  # noise levels of the training chain
        'beta_schedule': 'linear',  # linear in sqrt(beta)
        'linear_start': 0.0015,  # first beta
        'linear_end': 0.0155,  # last beta
        'loss_type': 'l1',  # l1 | l2
        'parameterization': 'eps',  # what is predicted: eps | x0 | v
        'simple_weight': 1.0,  # of the mean error in the loss of ldm
        'elbo_weight': 0.0,  # of the variational bound in the loss of ldm
        'logvar_init': 0.0,  # log variance of the errors of a level
        'learn_logvar': False,  # train it, one number a level
        'scale_factor': 1.0,  # of the latents of ldm
        'scale_by_std': False,  # measure it on the first batch instead
        'noise_mix_ratio': 0.1,  # noise in the coarser scales in training
        'stage_loss_ratio': (0.5, 0.5),  # weight of each scale, coarse first
        'native_scales': False,  # diffuse each scale at its own resolution
      },
      'loss': _loss(),
      'sample': _sample(),
      'evaluate': {
        'count': 1000,  # images of a table
        'batch_size': 100,  # images at a time
      },
    }
  )


def _train() -> Mapping[str, Any]:
  return {
    'steps': 1000,  # updates; no schedule depends on it
    'batch_size': 16,  # examples of an update, over all devices
    'learning_rate': 1e-4,  # peak
    'seed': 0,  # of weights, noise and order of the data
    'log_every': 10,  # steps between lines of metrics
    'checkpoint_every': 500,  # steps; the last step is always saved
    'sample_every': 500,  # steps between grids; 0 = the last step only
    'eval_every': 0,  # steps between evaluations; 0 = never
    'accumulate': 1,  # microbatches of an update
    'clip_norm': 0.0,  # global norm of a player's gradients; 0 = off
    'decay_steps': 0,  # length of the cosine decay; 0 = constant
    'warmup_steps': 0,  # of linear warm-up from zero
    'keep': 3,  # newest checkpoints that stay
  }


def _data() -> Mapping[str, Any]:
  return {
    'name': 'shapes',  # a key of pyramid_jax.data.READERS
    'root': '',  # directory of the files; unused by shapes
    'image_size': 32,  # px, both sides
    'lr_factor': 4,  # side of an image over its low-resolution version's
    'degradation': 'bicubic',  # of photographs: bicubic | bsr_light
    'level': 1,  # difficulty of shapes, 0..3
    'seed': 0,  # of the scenes of shapes
    'year': 2014,  # edition of coco: 2014 | 2017
    'max_objects': 8,  # boxes of an example, the rest is padding
    # In training: center | random-1d | random-2d | none | square |
    # random-half | adm, see data/transforms.py.
    'crop': 'random-1d',
    'eval_crop': 'center',  # in validation and test
    'resize': '',  # plain | smooth | area; empty = what the reader prefers
    'flip': False,  # mirror every second training image
    'min_area': 0.0,  # smallest box, as a part of the image
    'min_objects': 0,  # images with fewer boxes are left out
    'max_objects_image': 30,  # and so are images with more
    'eval_min_objects': 0,  # the same in validation and test
    'eval_max_objects': 30,
    'use_stuff': True,  # add the stuff annotations of coco
    'category_file': '',  # MID,Name rows that renumber the categories
    'ids_file': '',  # image ids to train on; empty = all
    'eval_ids_file': '',  # image ids to evaluate on; empty = all
    'workers': 2,  # decoding threads
    # Of tfds/NAME: what train, val and test read, e.g. ('train[:90%]',
    # 'train[90%:]', 'train[90%:]'); empty = the splits of those names.
    'splits': (),
  }


def _condition() -> Mapping[str, Any]:
  return {
    # none | text | layout | label | scene_graph | class | map | superres |
    # inpaint
    'task': 'none',
    'encoder': 'tokens',  # tokens | boxes | clip
    'vocab_file': '',  # of the tokenizer
    'merges_file': '',  # of the CLIP tokenizer
    'max_length': 77,  # tokens of a sequence
    'no_tokens': 1024,  # coordinate tokens, a square number of places
    'max_objects': 8,  # objects of a layout or label sequence
    'encode_crop': False,  # append the crop to a layout
    'shift': 0,  # first coordinate token
    'dim': 640,  # width of the encoder and of its tokens
    'depth': 32,  # blocks of the encoder
    'heads': 8,
    'head_dim': 64,
    'vocab_size': 30522,  # rows of the token embedding
    'num_labels': 25,  # categories of the box encoder, padding included
    'num_classes': 1000,  # classes, the one for none not counted
    'null_class': True,  # whether there is a class for none
    'class_by': 'crossattn',  # crossattn | adm (with the noise level)
    'also': '',  # a second condition: '' | class
    'map_classes': 182,  # values of a semantic map
    'map_channels': 3,  # of a semantic map beside the latent
    'null_prefix': (),  # first tokens of the null text, the rest is padding
    'pad_id': 0,  # padding token of a text
    'weights': '',  # file of a frozen encoder
    'drop': 0.0,  # share of training conditions replaced by the null one
  }


def _loss() -> Mapping[str, Any]:
  return {  # of a first stage
    'perceptual': 'pyramid',  # lpips | pyramid (L1 + L2 of pyramids) | none
    'perceptual_weight': 1.0,
    'perceptual_weights': '',  # file of LPIPS with its VGG16
    'codebook_weight': 1.0,
    'kl_weight': 1e-6,  # of the divergence of a kl network
    'logvar_init': 0.0,  # log variance of the reconstruction of a kl network
    'train_logvar': False,  # whether it is trained; the reference does not
    'disc_weight': 0.8,  # of the adversarial term; 0 = no discriminator
    'disc_start': 30001,  # first step with the adversarial term
    'disc_loss': 'hinge',  # hinge | vanilla
    'disc_width': 64,  # channels after the first convolution
    'disc_layers': 2,  # strided convolutions of the discriminator
  }


def _sample() -> Mapping[str, Any]:
  return {
    'steps': 50,  # solver steps of every scale, or (coarse, ..., fine)
    'guidance': 1.0,  # classifier-free guidance; 1 = none
    'guidance_interval': (0.0, 1.0),  # parts of the chain's time it acts in
    'eta': 0.0,  # noise of ddim: 0 = deterministic, 1 = ancestral
    'temperature': 1.0,  # factor of the noise of ddim and ddpm
    'solver': 'ddim',  # ddim | plms | ddpm | dpmpp_2m | heun
    # of levels: official | exact | log_snr | quad | adm | strided
    'spacing': 'official',
    'windows': (0, 0),  # (side, stride) in a latent larger than they are
    'batch_size': 16,  # images at a time
    'count': 16,  # images of --mode=sample
    'seed': 0,
  }


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
  _validate(config, '')
  if 'first_stage' in config:
    _validate(config.first_stage, 'first_stage.')


def _validate(config: ConfigDict, prefix: str) -> None:
  fields = flatten(config)

  def check(name: str, ok: bool, allowed: str) -> None:
    if not ok:
      raise errors.UserError(
        f'config.{prefix}{name} is {fields[name]!r}, must be {allowed}.'
      )

  def at_least(low: float, *names: str) -> None:
    for name in names:
      values = fields[name]
      values = values if isinstance(values, tuple) else (values,)
      check(name, all(v >= low for v in values), f'at least {low}')

  def one_of(name: str, allowed: tuple[str, ...]) -> None:
    check(name, fields[name] in allowed, f'one of {", ".join(allowed)}')

  one_of('dtype', DTYPES)
  one_of('attention', ATTENTION)
  one_of('diffusion.parameterization', PARAMETERIZATIONS)
  one_of('optimizer.name', OPTIMIZERS)
  one_of('condition.task', TASKS)
  one_of('condition.encoder', ENCODERS)
  one_of('data.resize', RESIZES)
  one_of('data.degradation', DEGRADATIONS)
  one_of('sample.solver', SOLVERS)
  one_of('sample.spacing', SPACINGS)
  for name in ('steps', 'batch_size', 'log_every', 'checkpoint_every'):
    at_least(1, f'train.{name}')
  at_least(1, 'train.accumulate', 'train.keep', 'data.image_size')
  at_least(1, 'condition.num_classes', 'condition.map_classes')
  at_least(1, 'condition.map_channels')
  at_least(1, 'data.workers', 'data.lr_factor', 'diffusion.timesteps')
  at_least(1, 'sample.steps', 'sample.batch_size', 'sample.count')
  at_least(1, 'evaluate.count', 'evaluate.batch_size', 'mesh.fsdp_min_size')
  at_least(0, 'train.sample_every', 'train.eval_every', 'train.seed')
  at_least(0, 'train.clip_norm', 'train.decay_steps', 'train.warmup_steps')
  at_least(0, 'train.learning_rate', 'optimizer.weight_decay')
  at_least(0, 'sample.guidance', 'sample.eta', 'sample.seed', 'data.seed')
  at_least(0, 'sample.temperature')
  interval = fields['sample.guidance_interval']
  check(
    'sample.guidance_interval',
    len(interval) in (0, 2) and sorted((0, *interval, 1)) == [0, *interval, 1],
    'two numbers 0 <= from <= to <= 1, or ()',
  )
  windows = fields['sample.windows']
  check(
    'sample.windows',
    len(windows) == 2 and min(0, *windows) == 0 and windows[1] <= windows[0],
    'two numbers, the side of a window and at most as long a stride',
  )
  check(
    'sample.windows', windows[1] > 0 or windows[0] == 0, 'with a stride above 0'
  )
  accumulate = fields['train.accumulate']
  check(
    'train.batch_size',
    fields['train.batch_size'] % accumulate == 0,
    f'divisible by config.{prefix}train.accumulate = {accumulate}',
  )
  at_least(0, 'ema.halflife_images', 'ema.halflife_rampup')
  check('ema.decay', 0 <= fields['ema.decay'] < 1, 'in [0, 1)')
  check('condition.drop', 0 <= fields['condition.drop'] <= 1, 'in [0, 1]')
  for axis in ('data', 'fsdp', 'tensor'):
    size = fields[f'mesh.{axis}']
    check(
      f'mesh.{axis}', size == -1 or size >= 1, '-1 (the rest) or at least 1'
    )


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
