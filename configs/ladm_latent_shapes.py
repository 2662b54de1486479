r"""Laplacian latent DiffiT on `shapes`, 32 px, for two CPU cores.

Needs no data. This design is our own: the 8 x 8 x 4 latents of
configs/ldm_autoencoder_shapes.py are diffused first at 4 x 4, then at 8 x 8, as
LaDM (arXiv:2411.07126) diffuses images. Both stages share the blocks of one
DiffiT (arXiv:2312.02139) of at most 3 M parameters. Measured results:
docs/results.md.

  python -m pyramid_jax.main --config=configs/ladm_latent_shapes.py:text \
      --workdir=DIR

The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one; that of configs/ldm_shapes.py fits.

Variants:
  class (default), text, layout: the condition.
  two (default), one: the number of resolutions; `one` is the same network
    without a pyramid.
  known: the fine stage is also conditioned on the clean image of the coarse
    stage; not measured.
  long: about twice the steps; not run.
  gpu: 128 px, for one large GPU; not run.
  debug: the smallest sizes.
"""

import math

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


TASKS = ('class', 'text', 'layout')
LEVELS = {'class': 0, 'text': 2}  # The level of the data; 1 by default.
OBJECTS = {0: 4, 1: 4, 2: 6}  # The number of box rows at a level.
CATEGORIES = 24
# Band powers of the scaled latents by the level of the data: of the detail and
# of the rest at 4 x 4 (python -m pyramid_jax.commands.measure_bands).
BANDS = {0: (0.672, 0.741), 1: (0.784, 0.620), 2: (0.768, 0.641)}
# The noise at the switch over the power of the band that appears there. Latents
# have as much power in their details as in the rest. With 12, as for images,
# the coarse stage would end at six times its own power of noise and decide
# nothing; with 4 it ends at twice its power. This was not measured.
KAPPA = 4.0
# The mean of log sigma at the full resolution, for any number of stages.
LOG_SIGMA = 0.5
STEPS = {2: (14, 10), 1: (24,)}
# A step has as many tokens as 16 latents at full resolution.
STAGE_BATCH = {2: (16, 12), 1: (16,)}
UPDATES, LONG = 5000, 11_000


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    task=TASKS,
    levels=('two', 'one'),
    known=False,
    long=False,
    gpu=False,
    debug=False,
  )
  task = variant['task']
  levels = {'two': 2, 'one': 1}[variant['levels']]
  config = config_lib.base('ladm')
  config.name = f'ladm_latent_shapes_{task}_{levels}'
  # Cross-attention adds parameters, so the width is smaller with it.
  config.network = ConfigDict(
    {
      'patch_size': 1,
      'hidden_size': 160 if task == 'class' else 144,
      'depth': 7,
      'num_heads': 5 if task == 'class' else 6,
      'mlp_ratio': 4.0,
      'pool_context': True,
    }
  )
  config.data.name = 'shapes'
  config.data.level = LEVELS.get(task, 1)
  config.data.image_size = 32
  config.data.max_objects = OBJECTS[config.data.level]
  _condition(config, task)
  _pyramid(config, levels)
  config.laplacian.self_context = variant['known']
  config.diffusion.scale_by_std = True
  config.optimizer.name = 'muon'
  config.optimizer.weight_decay = 0.01
  config.optimizer.b2 = 0.99
  config.ema.decay = 0.9998 if variant['long'] else 0.9995
  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 200
  config.train.log_every = 40
  _train_for(config, LONG if variant['long'] else UPDATES)
  config.sample.solver, config.sample.rho = 'ddim', 4.0
  config.sample.guidance = 2.0
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
        **common.SMALL_ENCODER,
        'network.hidden_size': 32,
        'network.depth': 2,
        'network.num_heads': 4,
        'laplacian.stage_batch': (0,),
        'train.warmup_steps': 2,
        'train.decay_steps': 6,
        'sample.steps': 2,
      },
    )
  return config


def _condition(config: ConfigDict, task: str) -> None:
  c = config.condition
  c.task = task
  c.cond_dropout = 0.1
  c.dim, c.depth = 128, 2
  c.heads, c.head_dim = 4, 32
  c.max_objects = config.data.max_objects
  c.vocab_size, c.embed_std = 256, 1.0
  if task == 'layout':
    c.encoder = 'boxes'
    c.num_labels = CATEGORIES + 1  # Padding has a label.
  elif task == 'text':
    c.max_length = 40
    c.null_prefix = (2, 3)  # The begin and end tokens.
  elif task == 'class':
    c.class_by = 'timestep'
    c.num_classes = CATEGORIES


def _pyramid(config: ConfigDict, levels: int) -> None:
  """Sets the Laplacian process and what depends on its stages."""
  detail, rest = BANDS[config.data.level]
  pyramid = config.laplacian
  pyramid.network, pyramid.latent = 'diffit', True
  pyramid.levels, pyramid.shared = levels, True
  if levels == 1:
    pyramid.band_rms = (math.hypot(detail, rest),)
    pyramid.switch_sigmas = ()
  else:
    pyramid.band_rms = (detail, rest)
    pyramid.switch_sigmas = (KAPPA * detail,)
  pyramid.sigma_min, pyramid.sigma_max = 0.01, 80.0
  pyramid.stage_batch = STAGE_BATCH[levels]
  config.train.batch_size = sum(STAGE_BATCH[levels])
  config.diffusion.P_mean = LOG_SIGMA - (levels - 1) * math.log(2.0)
  config.diffusion.P_std = 1.3
  config.sample.steps = STEPS[levels]


def _train_for(config: ConfigDict, steps: int) -> None:
  """Sets the number of training steps and the periods of actions."""
  config.train.steps = config.train.decay_steps = steps
  config.train.checkpoint_every = config.train.sample_every = steps // 4
  config.train.eval_every = steps // 4


def _enlarge(config: ConfigDict) -> None:
  """Sets 128 px: latents of 32 x 32, 64 and 256 tokens, 50 M parameters."""
  net = config.network
  net.patch_size, net.hidden_size = 2, 512
  net.depth, net.num_heads = 12, 8
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  config.laplacian.stage_batch = tuple(
    16 * part for part in config.laplacian.stage_batch
  )
  config.train.batch_size = sum(config.laplacian.stage_batch)
  config.train.learning_rate = 3e-4
  config.train.warmup_steps = 1000
  _train_for(config, 12_000)
  config.ema.decay = 0.9995
