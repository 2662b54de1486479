"""DiffiT in image space on `shapes`, 32 px, for two CPU cores; needs no data.

A small arXiv:2312.02139, section 3.2: squares of 2 x 2 pixels are the channels
of a 16 x 16 grid; the network works on that grid and on one of half its side.
It is trained with EDM's preconditioning and sampled in 18 steps of Heun. An
image has one object (level 0), and its class is the condition. Measured
results: docs/results.md.

  python -m pyramid_jax.main --config=configs/diffit_shapes.py --workdir=DIR

Variants:
  class (default), none: the condition.
  plain: for comparison, the time token is added to the tokens of plain blocks,
    which have a fifth fewer parameters; not run.
  long: meant for 45 minutes on two cores; not run.
  gpu: 64 px, for one large GPU; 750 steps were run.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


CATEGORIES = 24

# The sizes of `debug`; see `common.shrink`.
SMALL = {
  'network.width': 16,
  'network.channel_mult': (1, 1),
  'network.num_blocks': (1, 1),
  'network.head_dim': 16,
  'network.time_dim': 32,
  'train.warmup_steps': 2,
  'train.decay_steps': 6,
  'sample.steps': 3,
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg,
    task=('class', 'none'),
    plain=False,
    long=False,
    gpu=False,
    debug=False,
  )
  config = config_lib.base('diffit')
  config.name = f'diffit_shapes_{variant["task"]}'
  config.network = ConfigDict(
    {
      'width': 64,
      'channel_mult': (1, 2),
      'num_blocks': (1, 3),  # Blocks at 16 x 16 cost the most.
      'window': 8,
      'head_dim': 32,
      'mlp_ratio': 2.0,
      'time_dim': 256,
      'time_token': 'add' if variant['plain'] else 'tmsa',
      'embedding_dim': 128,
      'stem_stride': 2,
      'dropout': 0.0,
    }
  )
  config.data.name = 'shapes'
  config.data.level = 0
  config.data.image_size = 32
  config.data.max_objects = 4
  if variant['task'] == 'class':
    config.condition.task, config.condition.class_by = 'class', 'timestep'
    config.condition.num_classes = CATEGORIES
    config.condition.cond_dropout = 0.1
    config.sample.guidance = 2.0

  config.diffusion.preconditioning = 'edm'
  config.diffusion.sigma_data = 0.32  # Measured on images of level 0.
  # EDM has -1.2 and 1.2; higher levels help outlines (docs/results.md).
  config.diffusion.P_mean, config.diffusion.P_std = -0.4, 1.0
  config.optimizer.name = 'muon'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9995
  config.train.batch_size = 16
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  _train_for(config, 4400)
  config.sample.solver = 'heun'
  config.sample.steps = 18
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100
  if variant['long']:
    _train_for(config, 9900)
    config.ema.decay = 0.9998
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(config, SMALL)
  return config


def _train_for(config: ConfigDict, steps: int) -> None:
  """Sets the length of the training and what follows from it."""
  config.train.steps = config.train.decay_steps = steps
  config.train.checkpoint_every = config.train.sample_every = steps // 4
  config.train.eval_every = steps // 2


def _enlarge(config: ConfigDict) -> None:
  """Sets 64 px and the published sizes, except for the number of blocks."""
  net = config.network
  net.width, net.channel_mult, net.num_blocks = 128, (1, 2, 2), (2, 2, 3)
  net.head_dim, net.mlp_ratio, net.time_dim = 64, 4.0, 512
  config.dtype = 'bfloat16'
  config.data.image_size = 64
  config.train.batch_size = 256
  config.train.learning_rate = 5e-4
  config.train.warmup_steps = 500
  _train_for(config, 10_000)
  config.ema.decay = 0.9995
