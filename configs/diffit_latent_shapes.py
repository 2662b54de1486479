r"""Latent DiffiT on `shapes`, 32 px, for two CPU cores; needs no data.

A small arXiv:2312.02139: the autoencoder of configs/ldm_autoencoder_shapes.py,
whose latents are 8 x 8 x 4, then a transformer of 2.8 M parameters on their 64
positions, conditioned on the class of the one object of an image (level 0).
Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/diffit_latent_shapes.py \
      --workdir=DIR

The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one; that of configs/ldm_shapes.py fits.

Variants:
  class (default), none: the condition.
  plain: the attention of the blocks does not depend on the noise level and the
    class, whose embeddings are added to the tokens instead.
  long: about twice the steps; not run.
  gpu: 128 px, for one large GPU; not run.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


CATEGORIES = 24
STEPS, LONG = 5000, 11_000  # A step has 16 images.


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    task=('class', 'none'),
    plain=False,
    long=False,
    gpu=False,
    debug=False,
  )
  task = variant['task']
  config = config_lib.base('latent_diffit')
  config.name = f'diffit_latent_shapes_{task}'
  config.network = ConfigDict(
    {
      'patch_size': 1,
      'hidden_size': 160,
      'depth': 7,
      'num_heads': 5,
      'mlp_ratio': 4.0,
      'learn_sigma': False,
      'time_token': 'add' if variant['plain'] else 'tmsa',
    }
  )
  config.data.name = 'shapes'
  config.data.level = 0
  config.data.image_size = 32
  config.data.max_objects = 4
  config.condition.task = task
  if task == 'class':
    config.condition.class_by = 'timestep'
    config.condition.num_classes = CATEGORIES
    config.condition.cond_dropout = 0.1
    config.sample.guidance = 2.0

  config.diffusion.parameterization = 'v'
  config.diffusion.scale_by_std = True
  config.optimizer.name = 'muon'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9998 if variant['long'] else 0.9995
  steps = LONG if variant['long'] else STEPS
  config.train.steps = config.train.decay_steps = steps
  config.train.batch_size = 16
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  config.train.checkpoint_every = config.train.sample_every = steps // 4
  config.train.eval_every = steps // 4
  config.sample.steps = 25
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100

  first = config_lib.sibling(__file__, 'ldm_autoencoder_shapes')
  names = [name for name in ('gpu', 'debug') if variant[name]]
  config_lib.add_first_stage(config, first.get_config(','.join(names)))
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(
      config,
      {
        'network.hidden_size': 32,
        'network.depth': 2,
        'network.num_heads': 4,
      },
    )
  return config


def _enlarge(config: ConfigDict) -> None:
  """128 px, 32 x 32 latents, 256 tokens; 48 M parameters."""
  net = config.network
  net.patch_size, net.hidden_size = 2, 512
  net.depth, net.num_heads = 12, 8
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  config.train.batch_size = 256
  config.train.learning_rate = 3e-4
  config.train.warmup_steps = 1000
  config.train.steps = config.train.decay_steps = 12_000
  config.train.checkpoint_every = config.train.sample_every = 3000
  config.train.eval_every = 3000
  config.ema.decay = 0.9995
  config.sample.steps = 50
