r"""ADM on `shapes`, 32 px, for two CPU cores; needs no data.

A small arXiv:2105.05233: a U-Net with a learned variance, which
configs/classifier_shapes.py:images guides. The level of the data is 0.

  python -m pyramid_jax.main --config=configs/adm_shapes.py --workdir=DIR

Variants:
  class (default), none: the condition.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

CATEGORIES = 24


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(arg, task=('class', 'none'), debug=False)
  config = config_lib.base('adm')
  config.name = f'adm_shapes_{variant["task"]}'
  config.network = ConfigDict(
    {
      'model_channels': 32,
      'channel_mult': (1, 2, 2),
      'num_res_blocks': 1,
      'attention_resolutions': (4,),
      'num_head_channels': 32,
      'use_scale_shift_norm': True,
      'resblock_updown': True,
    }
  )
  config.data.name = 'shapes'
  config.data.level, config.data.max_objects = 0, 4
  config.data.image_size = 32
  if variant['task'] == 'class':
    config.condition.task, config.condition.class_by = 'class', 'timestep'
    config.condition.num_classes = CATEGORIES
    config.condition.null_class = False
  config.diffusion.beta_schedule = 'cosine'
  config.diffusion.variance = 'learned_range'
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.01
  config.ema.decay = 0.9995
  config.train.batch_size = 16
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  config.train.steps = config.train.decay_steps = 4000
  config.train.checkpoint_every = config.train.sample_every = 1000
  config.train.eval_every = 2000
  config.sample.solver, config.sample.spacing = 'ddpm', 'iddpm'
  config.sample.steps = 50
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100
  if variant['debug']:
    config.train.warmup_steps = 0
    common.shrink_adm(config)
  return config
