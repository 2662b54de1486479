r"""A classifier of noisy `shapes`, 32 px, for two CPU cores; needs no data.

A small arXiv:2105.05233: one on the latents of a run of
configs/ldm_shapes.py:class, which it guides, or one on images, which guides
configs/diffit_shapes.py. Measured on latents: docs/results.md.

  python -m pyramid_jax.main --config=configs/classifier_shapes.py \
      --config.classifier.base=LDM --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=LDM --classifier=DIR \
      --guidance=1 --classifier_scale=2 --label='red circle'

Variants:
  latents (default), images: what is classified.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

CATEGORIES = 24


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the classifier."""
  variant = config_lib.parse_variants(
    arg, states=('latents', 'images'), debug=False
  )
  if variant['states'] == 'latents':
    names = 'class,debug' if variant['debug'] else 'class'
    base = config_lib.sibling(__file__, 'ldm_shapes').get_config(names)
    config = common.classifier(base)
    levels = {'channel_mult': (1, 2), 'attention_resolutions': (2,)}
  else:
    config = config_lib.base('classifier')
    config.data.name = 'shapes'
    config.data.level, config.data.max_objects = 0, 4
    config.data.image_size = 32
    config.condition.task, config.condition.num_classes = 'class', CATEGORIES
    levels = {'channel_mult': (1, 2, 2), 'attention_resolutions': (4,)}
  config.name = f'classifier_shapes_{variant["states"]}'
  config.network = ConfigDict(
    {
      'model_channels': 32,
      'num_res_blocks': 1,
      **levels,
      'num_head_channels': 32,
      'use_scale_shift_norm': True,
      'pool': 'attention',
    }
  )
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.05
  config.ema.decay = 0.0
  config.train.batch_size, config.train.steps = 32, 1500
  config.train.learning_rate = 1e-3
  config.train.decay, config.train.decay_steps = 'linear', 1500
  config.train.warmup_steps = 50
  config.train.log_every = 50
  config.train.checkpoint_every = config.train.eval_every = 500
  config.train.sample_every = 500
  config.evaluate.count, config.evaluate.batch_size = 1000, 100
  if variant['debug']:
    common.shrink(
      config,
      {'train.warmup_steps': 0, 'train.decay_steps': 6},
    )
  return config
