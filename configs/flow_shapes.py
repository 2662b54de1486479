"""Flow matching on `shapes`, 32 px, for two CPU cores; needs no data.

A small arXiv:2210.02747: a U-Net predicts the velocity from noise to an image
of one object (level 0), conditioned on its class. Eight steps of Heun or
sixteen of Euler integrate it. Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/flow_shapes.py --workdir=DIR

Variants:
  latents (default): the 8 x 8 x 4 latents of the KL autoencoder of
    ldm_autoencoder_shapes.py, which is trained in DIR/first_stage unless
    config.first_stage.checkpoint names one.
  pixels: the images themselves.
  class (default), none: the condition.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

CATEGORIES = 24


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg, space=('latents', 'pixels'), task=('class', 'none'), debug=False
  )
  config = config_lib.base('flow')
  config.name = f'flow_shapes_{variant["task"]}_{variant["space"]}'
  config.network = _network(variant['space'])
  config.data.name = 'shapes'
  config.data.level = 0
  config.data.image_size = 32
  config.data.max_objects = 4
  if variant['task'] == 'class':
    config.condition.task = 'class'
    config.condition.class_by = 'timestep'
    config.condition.num_classes = CATEGORIES
    config.condition.cond_dropout = 0.1
    config.sample.guidance = 2.0

  config.diffusion.scale_by_std = True
  config.optimizer.name = 'muon'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9995
  config.train.steps = config.train.decay_steps = 4800
  config.train.batch_size = 8
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  config.train.checkpoint_every = config.train.sample_every = 1200
  config.train.eval_every = 1200
  config.sample.solver = 'heun'
  config.sample.steps = 8
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100

  if variant['space'] == 'latents':
    first = config_lib.sibling(__file__, 'ldm_autoencoder_shapes')
    names = ['kl', *(['debug'] if variant['debug'] else [])]
    config_lib.add_first_stage(config, first.get_config(','.join(names)))
  if variant['debug']:
    common.shrink(
      config,
      {
        'network.model_channels': 32,
        'network.channel_mult': (1, 1),
        'network.num_res_blocks': 1,
        'network.attention_resolutions': (2,),
      },
    )
  return config


def _network(space: str) -> ConfigDict:
  """Returns a U-Net of at most 3 M parameters."""
  in_pixels = space == 'pixels'
  return ConfigDict(
    {
      'model_channels': 32 if in_pixels else 64,
      'channel_mult': (1, 2, 2) if in_pixels else (1, 1),
      'num_res_blocks': 1 if in_pixels else 2,
      'attention_resolutions': (4,) if in_pixels else (1,),
      'num_head_channels': 32,
      # Norms over few channels would remove a mere shift by the class.
      'use_scale_shift_norm': True,
    }
  )
