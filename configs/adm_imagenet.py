r"""ADM on ImageNet, 64 to 512 px, conditioned on the class.

arXiv:2105.05233, tables 5 and 11; openai/guided-diffusion: README.md,
guided_diffusion/script_util.py. Published scores of 50k images of 250 steps,
guided by the classifier of configs/adm_classifier.py of that size (ADM-G): FID
2.07 at 64 px, 2.97 at 128 px, 4.59 at 256 px, 7.72 at 512 px. Nothing is
measured here. The U-Nets have 296 M, 422 M, 554 M and 559 M parameters; batch,
steps, learning rate and parameters are cited from memory of the paper. The
original trains with float16, but for 512 px; here it is bfloat16.

  python -m pyramid_jax.main --config=configs/adm_imagenet.py:256 \
      --config.data.root=IMAGENET --workdir=DIR

A released file becomes a workdir, which another one guides:

  python -m pyramid_jax.commands.convert --family=adm \
      --config=configs/adm_imagenet.py:256 --checkpoint=256x256_diffusion.pt \
      --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=DIR \
      --classifier=CLASSIFIER --label=207

Variants:
  256 (default), 64, 128, 512: pixels.
  class (default), none: the condition; the released model without one has 256
    px, and a classifier of scale 10 guides it.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# Pixels: (batch, steps, learning rate) of training, and the guidance scale.
SIZES = {
  '64': (2048, 540_000, 3e-4, 1.0),
  '128': (256, 4_360_000, 1e-4, 0.5),
  '256': (256, 1_980_000, 1e-4, 1.0),
  '512': (256, 1_940_000, 1e-4, 4.0),
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg,
    size=('256', '64', '128', '512'),
    task=('class', 'none'),
    debug=False,
  )
  size = variant['size']
  batch, steps, rate, scale = SIZES[size]
  config = config_lib.base('adm')
  config.name = f'adm_imagenet_{size}_{variant["task"]}'
  config.dtype = 'float32' if size == '512' else 'bfloat16'
  config.network = _network(int(size))
  common.adm_data(config, int(size))
  if variant['task'] == 'class':
    config.condition.task, config.condition.class_by = 'class', 'timestep'
    config.condition.num_classes = 1000
    config.condition.null_class = False
  else:
    scale = 10.0

  config.diffusion.variance = 'learned_range'

  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.0
  config.ema.decay, config.ema.warmup = 0.9999, False
  config.train.batch_size, config.train.steps = batch, steps
  config.train.learning_rate = rate
  config.train.log_every = 50
  config.train.checkpoint_every = 10_000
  config.train.sample_every = 20_000

  config.sample.solver, config.sample.spacing = 'ddpm', 'iddpm'
  config.sample.steps = 250
  config.sample.classifier_scale = scale
  config.sample.to_uint8 = 'truncate'
  config.evaluate.count, config.evaluate.batch_size = 50_000, 64
  config.evaluate.protocol = 'adm'
  if variant['debug']:
    common.shrink_adm(config)
  return config


def _network(size: int) -> ConfigDict:
  """Returns the U-Net of images of so many pixels."""
  is_small = size == 64
  heads = {'num_heads': 4} if size == 128 else {'num_head_channels': 64}
  return ConfigDict(
    {
      'model_channels': 192 if is_small else 256,
      'num_res_blocks': 3 if is_small else 2,
      **common.adm_levels(size),
      **heads,
      'use_new_attention_order': is_small,
      'dropout': 0.1 if is_small else 0.0,
    }
  )
