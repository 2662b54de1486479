"""Frido on `shapes`, 32 px, for two CPU cores; needs no data.

A small arXiv:2208.13753: a two-scale VQGAN (latents of 8 x 8 and 4 x 4), then a
PyU-Net that diffuses the coarse scale at 4 x 4 and, gated by it, the fine scale
at 8 x 8. Measured scores, curves and times: docs/results.md.

  python -m pyramid_jax.main --config=configs/frido_shapes.py --workdir=DIR

Variants:
  layout (default), text, label, scene_graph: the condition.
  long: at most 90 minutes on two cores.
  official: all scales are diffused on the fine grid, as in the release.
  gpu: 128 px, for one large GPU; not measured.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


TASKS = ('layout', 'text', 'label', 'scene_graph')

# The sizes of `debug`; see `common.shrink`.
SMALL = {
  **common.SMALL_ENCODER,
  'network.model_channels': 32,
  'network.channel_mult': (1, 1),
  'network.attention_resolutions': (2,),
  'optimizer.name': 'adamw',  # It compiles sooner.
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg, task=TASKS, long=False, official=False, gpu=False, debug=False
  )
  task = variant['task']
  config = config_lib.base('frido')
  config.name = f'frido_shapes_{task}'
  config.network = ConfigDict(
    {
      'model_channels': 64,
      'channel_mult': (1, 1),
      'num_res_blocks': 1,
      'attention_resolutions': (1,),
      'num_head_channels': 32,
      'legacy': False,  # There are several heads.
      'use_spatial_transformer': True,
      'use_spade_norm': True,
      'gate_width': 8,
      'grid_frequencies': 6,
    }
  )
  if task != 'layout':  # No token has a position, so all get the whole.
    config.network.pool_context = True
  config.data.name = 'shapes'
  config.data.level = 1
  config.data.image_size = 32
  config.data.max_objects = 4

  _condition(config, task)
  config.diffusion.native_scales = not variant['official']
  config.diffusion.loss_type = 'l2'
  config.diffusion.parameterization = 'v'  # Better than eps: docs/results.md.
  config.optimizer.name = 'muon'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9995
  config.train.steps = 4200
  config.train.batch_size = 8
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.decay_steps = 4200
  config.train.log_every = 40
  config.train.checkpoint_every = 1050
  config.train.sample_every = 2100
  config.train.eval_every = 1050
  if task != 'layout':  # A run takes less than 12 minutes of one core.
    config.train.steps = config.train.decay_steps = 1500
    config.train.batch_size = 16
    config.train.eval_every = config.train.checkpoint_every = 500
    config.train.sample_every = 1500
  config.sample.steps = 25
  config.sample.guidance = 2.0
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100

  first = config_lib.sibling(__file__, 'msvqgan_shapes')
  names = [name for name in ('long', 'gpu', 'debug') if variant[name]]
  config_lib.add_first_stage(config, first.get_config(','.join(names)))
  if variant['long']:
    config.train.steps = config.train.decay_steps = 7200
    config.ema.decay = 0.9998
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(config, SMALL)
  return config


def _condition(config: ConfigDict, task: str) -> None:
  """Sets the condition encoder of a task."""
  config.condition.task = task
  config.condition.dim, config.condition.depth = 128, 2
  config.condition.heads, config.condition.head_dim = 4, 32
  config.condition.cond_dropout = 0.1
  config.condition.max_objects = 4
  config.condition.vocab_size, config.condition.embed_std = 256, 1.0
  if task == 'layout':
    config.condition.encoder = 'boxes'
    config.condition.num_labels = 25  # Padding and 24 categories.
  elif task == 'label':
    config.condition.max_length, config.condition.no_tokens = 4, 25
  else:
    config.condition.max_length = 40
    config.condition.null_prefix = (2, 3)  # The begin and end tokens.


def _enlarge(config: ConfigDict) -> None:
  """Sets 128 px, with latents of 32 x 32 and 16 x 16."""
  net = config.network
  net.model_channels, net.num_res_blocks = 160, 2
  net.channel_mult = (1, 2, 4)
  net.attention_resolutions = (2, 4)
  net.gate_width = 128
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  config.data.level, config.data.max_objects = 2, 6
  config.condition.dim, config.condition.depth = 512, 6
  config.condition.heads, config.condition.head_dim = 8, 64
  config.condition.max_objects = 6
  config.train.batch_size = 256
  config.train.learning_rate = 2e-4
  config.train.warmup_steps = 1000
  config.train.steps = config.train.decay_steps = 50000
  config.train.checkpoint_every = config.train.sample_every = 4500
  config.train.eval_every = 4500
  config.ema.decay = 0.9999
  config.sample.steps = 50
