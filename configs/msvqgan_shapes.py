"""MS-VQGAN on `shapes`, 32 px, scales f8 and f4, for two CPU cores.

Needs no data. Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/msvqgan_shapes.py --workdir=DIR

Variants:
  long: two thirds more steps.
  gpu: 128 px, for one large GPU; not measured.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# The sizes of `debug`; see `common.shrink`.
SMALL = {
  'network.edconfig.ch': 32,
  'network.ddconfig.ch': 32,
  'network.ddconfig.ch_mult': (1, 1, 1),
  'network.n_embed': (32, 32),
  'network.shared_ch': 32,
  'optimizer.name': 'adam',  # It compiles sooner.
  'loss.disc_weight': 0.1,  # A run has all terms of the loss.
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of a first stage."""
  variant = config_lib.parse_variants(arg, long=False, gpu=False, debug=False)
  config = config_lib.base('autoencoder')
  config.name = 'msvqgan_shapes'
  config.network = ConfigDict(
    {
      # The encoder has no residual blocks before the last level: the strided
      # convolutions suffice.
      'edconfig': {
        'ch': 64,
        'ch_mult': (1, 1, 1, 1),
        'num_res_blocks': 0,
        'attn_resolutions': (),
        'resolution': 32,
        'z_channels': (8, 8),
        'attn_type': 'none',
      },
      'ddconfig': {
        'ch': 32,
        'ch_mult': (1, 2, 2),
        'num_res_blocks': 0,
        'attn_resolutions': (),
        'resolution': 32,
        'z_channels': 16,
        'resamp_with_conv': False,
        'attn_type': 'none',
      },
      'embed_dim': (8, 8),
      'n_embed': (1024, 1024),
      'shared_ch': 64,
      'shared_num_res_blocks': 0,
    }
  )
  config.data.name = 'shapes'
  config.data.level = 1
  config.data.image_size = 32
  config.data.max_objects = 4

  # After the same images, batches of 8 are far better than batches of 32.
  config.train.steps = 5400
  config.train.batch_size = 8
  config.train.learning_rate = 2e-3
  config.train.warmup_steps = 200
  config.train.decay_steps = 5400
  config.train.log_every = 40
  config.train.checkpoint_every = 1800
  config.train.sample_every = 1800
  # Outlines are lost with Adam, an absolute loss, a pyramid loss or a
  # discriminator: docs/results.md.
  config.optimizer.name = 'muon'
  config.optimizer.b2 = 0.99
  config.loss.pixel_loss = 'l2'
  config.loss.perceptual = 'none'
  config.loss.disc_weight = 0.0
  config.evaluate.count, config.evaluate.batch_size = 1000, 100
  if variant['long']:
    config.train.steps = config.train.decay_steps = 9000
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(config, SMALL)
  return config


def _enlarge(config: ConfigDict) -> None:
  """Sets 128 px, with scales f8 and f4."""
  net = config.network
  for part in (net.edconfig, net.ddconfig):
    part.ch, part.num_res_blocks, part.resolution = 64, 2, 128
    part.attn_type, part.attn_resolutions = 'vanilla', (16,)
  net.edconfig.ch_mult, net.ddconfig.ch_mult = (1, 1, 2, 4), (1, 2, 4)
  net.ddconfig.resamp_with_conv = True
  net.n_embed = (2048, 2048)
  net.shared_ch, net.shared_num_res_blocks = 128, 2
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  config.data.level, config.data.max_objects = 2, 6
  config.train.batch_size = 128
  config.train.learning_rate = 5e-4
  config.train.steps = config.train.decay_steps = 20000
  config.train.checkpoint_every = config.train.sample_every = 2000
  config.loss.perceptual = 'pyramid'
  config.loss.disc_start = 10000
  config.loss.disc_weight, config.loss.disc_width = 0.5, 64
