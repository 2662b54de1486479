"""LaDM on `shapes`, 64 px, for two CPU cores; needs no data.

A small arXiv:2411.07126: stages of 16, 32 and 64 px, and one network for all of
them. Wavelet packets around the network let every stage work on a 16 x 16 grid.
The report shows no numbers: all are our own choices. Measured results:
docs/results.md.

  python -m pyramid_jax.main --config=configs/ladm_shapes.py:text --workdir=DIR

Variants:
  layout (default), text, class, none: the condition.
  superres2, superres4 (also superres): super-resolution from 32 to 64 or to
    128 px, on 32 x 32 grids.
  control: a ControlNet for edges on a trained run of the same other variants,
    which --config.control.base names.
  three (default), two, one: the number of resolutions; `one` is the same
    network without a pyramid, at 64 px.
  separate: a network for each stage, as in the report.
  long: at most 45 minutes on two cores.
  gpu: 128 px, for one large GPU; not measured.
  debug: the smallest sizes.
"""

import math

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


# Tasks of super-resolution and their factors.
SUPERRES = {'superres': 4, 'superres2': 2, 'superres4': 4}
TASKS = ('layout', 'text', 'class', *SUPERRES, 'none')
TOKENS = ('layout', 'text', 'class')
# The level of the data; 1 by default.
LEVELS = {'class': 0, 'text': 2, **dict.fromkeys(SUPERRES, 2)}
OBJECTS = {0: 4, 1: 4, 2: 6}  # The number of box rows at a level.
CATEGORIES = 24
# Band powers of the images by the level of the data, finest first: of the two
# details, and of what is left at 16 px, at 32 px and of the whole image
# (python -m pyramid_jax.commands.measure_bands).
DETAILS = {0: (0.053, 0.077), 1: (0.056, 0.080), 2: (0.072, 0.100)}
REST = {
  0: (0.310, 0.320, 0.324),
  1: (0.225, 0.238, 0.245),
  2: (0.297, 0.314, 0.322),
}
# The noise at a switch over the power of the band that appears there.
KAPPA = 12.0
WAVELETS = {3: (0, 1, 2), 2: (1, 2), 1: (2,)}
STEPS = {3: (10, 8, 6), 2: (14, 10), 1: (24,)}
STAGE_BATCH = {3: (8, 5, 3), 2: (11, 5), 1: (16,)}

# The sizes of `debug`; see `common.shrink`.
SMALL = {
  **common.SMALL_ENCODER,
  'network.model_channels': 32,
  'network.num_res_blocks': 1,
  'laplacian.stage_batch': (0,),
  'train.batch_size': 6,
  'train.warmup_steps': 2,
  'train.decay_steps': 6,
  'sample.steps': 2,
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg,
    task=TASKS,
    levels=('three', 'two', 'one'),
    separate=False,
    control=False,
    long=False,
    gpu=False,
    debug=False,
  )
  task = variant['task']
  levels = {'three': 3, 'two': 2, 'one': 1}[variant['levels']]
  config = config_lib.base('ladm_control' if variant['control'] else 'ladm')
  config.name = f'ladm_shapes_{task}_{levels}'
  config.network = ConfigDict(
    {
      'model_channels': 64,
      'channel_mult': (1, 1),
      'num_res_blocks': 2,
      'attention_resolutions': (2,),
      'num_head_channels': 32,
      # Norms over groups of two channels would remove a mere shift.
      'use_scale_shift_norm': True,
      'use_spatial_transformer': task in TOKENS,
      'grid_frequencies': 6 if task in TOKENS else 0,
      'pool_context': task in ('text', 'class'),
    }
  )
  config.data.name = 'shapes'
  config.data.level = LEVELS.get(task, 1)
  config.data.image_size = 64
  config.data.max_objects = OBJECTS[config.data.level]
  _condition(config, task)

  _pyramid(config, levels)
  config.laplacian.shared = not variant['separate']
  # The content of a text is decided at more noise (docs/results.md).
  config.diffusion.P_mean = 0.6 if task == 'text' else -0.4
  config.diffusion.P_std = 1.2
  config.optimizer.name = 'muon'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9995
  config.train.batch_size = 16
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  _train_for(config, 2500)
  config.sample.solver, config.sample.rho = 'ddim', 4.0
  config.sample.steps = STEPS[levels]
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 50
  if task in SUPERRES:
    _superres(config, SUPERRES[task])
  if variant['control']:
    config.name += '_control'
    config.control.map, config.data.maps = 'edges', ('edges',)
    _train_for(config, 1500)
  if variant['long']:
    _train_for(config, 5600)
    config.ema.decay = 0.9998
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(config, SMALL)
  return config


def _pyramid(config: ConfigDict, levels: int) -> None:
  """Sets the Laplacian process for the band powers of the data."""
  pyramid = config.laplacian
  pyramid.levels = levels
  details = DETAILS[config.data.level][: levels - 1]
  pyramid.band_rms = (*details, REST[config.data.level][3 - levels])
  pyramid.switch_sigmas = tuple(
    KAPPA * 2**i * rms for i, rms in enumerate(details)
  )
  pyramid.sigma_max = 80.0 * 2 ** (levels - 1)
  pyramid.stage_batch = STAGE_BATCH[levels]
  pyramid.wavelets = WAVELETS[levels]


def _condition(config: ConfigDict, task: str) -> None:
  c = config.condition
  c.task = task
  if task not in TOKENS:
    return
  config.sample.guidance = 2.0
  c.cond_dropout = 0.1
  c.dim, c.depth = 128, 2
  c.heads, c.head_dim = 4, 32
  c.max_objects = config.data.max_objects
  c.vocab_size, c.embed_std = 256, 1.0
  if task == 'layout':
    c.encoder = 'boxes'
    c.num_labels = CATEGORIES + 1  # Padding has a label.
  elif task == 'text':
    c.dim, c.heads = 96, 3
    c.max_length = 40
    c.null_prefix = (2, 3)  # The begin and end tokens.
  elif task == 'class':
    c.num_classes = CATEGORIES


def _superres(config: ConfigDict, factor: int) -> None:
  """Sets super-resolution from 32 px, the size of the coarsest stage."""
  config.condition.task = 'superres'
  config.data.lr_factor = factor
  config.data.image_size = 32 * factor
  pyramid = config.laplacian
  pyramid.levels = 1 + factor // 2
  # Band powers of what the low-resolution image leaves open.
  details = (0.051,) if factor == 2 else (0.040, 0.051)
  pyramid.band_rms = (*details, 0.0023)
  # The noise is half of that of the other tasks, because the coarse stage has
  # little to decide. This was not measured.
  pyramid.switch_sigmas = tuple(
    KAPPA / 2 * 2**i * rms for i, rms in enumerate(details)
  )
  pyramid.sigma_max = 4.0
  pyramid.wavelets = (0, 1, 2)[: pyramid.levels]
  # The coarsest stage has the least to learn.
  pyramid.stage_batch = (2, 6) if factor == 2 else (1, 3, 4)
  config.diffusion.P_mean = math.log(0.05 / factor)
  config.network.num_res_blocks = 1
  config.train.batch_size = 8
  config.condition.lr_noise_sampling = 0.01
  config.sample.steps = (2, 6) if factor == 2 else (1, 3, 4)
  _train_for(config, 1300)


def _train_for(config: ConfigDict, steps: int) -> None:
  """Sets the number of training steps and the periods of actions."""
  config.train.steps = config.train.decay_steps = steps
  config.train.checkpoint_every = config.train.sample_every = steps // 4
  config.train.eval_every = steps // 4


def _enlarge(config: ConfigDict) -> None:
  """Sets 128 px, on 32 x 32 grids."""
  net = config.network
  net.model_channels, net.channel_mult = 128, (1, 2, 4)
  net.num_res_blocks, net.attention_resolutions = 2, (2, 4)
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  config.train.batch_size = 192
  config.laplacian.stage_batch = tuple(
    12 * part for part in config.laplacian.stage_batch
  )
  config.train.learning_rate = 5e-4
  config.train.warmup_steps = 500
  _train_for(config, 20_000)
  config.ema.decay = 0.9998
