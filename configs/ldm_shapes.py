"""LDM on `shapes`, 32 px, every task, for two CPU cores; needs no data.

A small arXiv:2112.10752: an autoencoder with 8 x 8 x 4 latents, then a U-Net on
them. The level of the data is 0 for class; 1 for layout, label and none; 2 for
text, superres, inpaint and map. Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/ldm_shapes.py:text --workdir=DIR

The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  layout (default), class, label, text, superres, inpaint, map, none: the task.
  kl (default), vq: the first stage.
  long: at most 90 minutes on two cores.
  gpu: 128 px, for one large GPU; not measured.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


TASKS = (
  'layout',
  'class',
  'label',
  'text',
  'superres',
  'inpaint',
  'map',
  'none',
)
# Tasks whose condition is tokens or a class; the conditions of the others are
# concatenated with the latent.
TOKENS = ('layout', 'class', 'label', 'text')
LEVELS = {'class': 0, 'text': 2, 'superres': 2, 'inpaint': 2, 'map': 2}
# Training steps, of 16 images for texts and of 8 otherwise; 4800 by default.
STEPS = {'text': 6000, 'superres': 4000, 'inpaint': 4000}
# Tasks trained with Muon, which AdamW does not learn in minutes
# (docs/results.md).
MUON = ('class', 'label', 'text')
OBJECTS = {0: 4, 1: 4, 2: 6}  # The number of box rows at a level.
CATEGORIES = 24
BACKGROUNDS = 4


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    task=TASKS,
    network=('kl', 'vq'),
    long=False,
    gpu=False,
    debug=False,
  )
  task = variant['task']
  config = config_lib.base('ldm')
  config.name = f'ldm_shapes_{task}_{variant["network"]}'
  config.network = _network(task)
  config.data.name = 'shapes'
  config.data.level = LEVELS.get(task, 1)
  config.data.image_size = 32
  config.data.max_objects = OBJECTS[config.data.level]
  config.data.lr_factor = 4
  _condition(config, task)

  config.diffusion.loss_type = 'l2'
  config.diffusion.parameterization = 'eps' if task == 'text' else 'v'
  config.diffusion.scale_by_std = True
  config.optimizer.name = 'muon' if task in MUON else 'adamw'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9995
  config.train.steps = config.train.decay_steps = STEPS.get(task, 4800)
  config.train.batch_size = 16 if task == 'text' else 8
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  config.train.checkpoint_every = config.train.steps // 4
  config.train.sample_every = config.train.steps // 4
  config.train.eval_every = config.train.steps // 4
  config.sample.steps = 25
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100

  first = config_lib.sibling(__file__, 'ldm_autoencoder_shapes')
  names = [variant['network']]
  names += [name for name in ('gpu', 'debug') if variant[name]]
  config_lib.add_first_stage(config, first.get_config(','.join(names)))
  if variant['long']:
    config.train.steps = config.train.decay_steps = 24000
    config.ema.decay = 0.9998
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(
      config,
      {
        **common.SMALL_ENCODER,
        'network.model_channels': 32,
        'network.channel_mult': (1, 1),
        'network.num_res_blocks': 1,
        'network.attention_resolutions': (2,),
      },
    )
  return config


def _network(task: str) -> ConfigDict:
  """Returns a U-Net of at most 3 M parameters."""
  if task in TOKENS:
    return ConfigDict(
      {
        'model_channels': 64,
        'channel_mult': (1, 1),
        'num_res_blocks': 2,
        'attention_resolutions': (1,),
        'num_head_channels': 32,
        'use_spatial_transformer': True,
        'grid_frequencies': 6,
        'pool_context': task != 'layout',
      }
    )
  return ConfigDict(
    {
      'model_channels': 64,
      'channel_mult': (1, 2),
      'num_res_blocks': 1,
      'attention_resolutions': (2,),
      'num_head_channels': 32,
    }
  )


def _condition(config: ConfigDict, task: str) -> None:
  c = config.condition
  c.task = task
  if task in TOKENS:
    config.sample.guidance = 2.0
    c.cond_dropout = 0.1
  c.dim, c.depth = 128, 2
  c.heads, c.head_dim = 4, 32
  c.max_objects = config.data.max_objects
  c.vocab_size, c.embed_std = 256, 1.0
  if task == 'layout':
    c.encoder = 'boxes'
    c.num_labels = CATEGORIES + 1  # Padding has a label.
  elif task == 'label':
    c.max_length, c.no_tokens = c.max_objects, CATEGORIES + 1
  elif task == 'text':
    c.max_length = 40
    c.null_prefix = (2, 3)  # The begin and end tokens.
  elif task == 'class':
    c.num_classes = CATEGORIES
  elif task == 'map':
    c.map_classes = 1 + CATEGORIES + BACKGROUNDS
    c.map_channels = 8


def _enlarge(config: ConfigDict) -> None:
  """Sets 128 px, with latents of 32 x 32."""
  net = config.network
  net.model_channels, net.channel_mult = 160, (1, 2, 4)
  net.num_res_blocks, net.attention_resolutions = 2, (2, 4)
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  c = config.condition
  if c.task not in ('class', 'none'):
    config.data.level, config.data.max_objects = 2, 6
  c.max_objects = config.data.max_objects
  if c.task == 'label':
    c.max_length = c.max_objects
  c.dim, c.depth = 512, 6
  c.heads, c.head_dim = 8, 64
  config.train.batch_size = 256
  config.train.learning_rate = 2e-4
  config.train.warmup_steps = 1000
  config.train.steps = config.train.decay_steps = 50000
  config.train.checkpoint_every = config.train.sample_every = 4500
  config.train.eval_every = 4500
  config.ema.decay = 0.9999
  config.sample.steps = 50
