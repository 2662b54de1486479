r"""First stages of latent diffusion on `shapes`, 32 px, for two CPU cores.

A latent is 8 x 8 x 4. Needs no data. Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/ldm_autoencoder_shapes.py:kl \
      --workdir=DIR

Variants:
  kl (default), vq: the kind of the autoencoder.
  f4 (default), f2, f8: the factor of the sides; a latent has as many channels.
  gpu: 128 px, for one large GPU; not measured.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# The factor of the sides -> the channel factors of the levels, finest first.
FACTORS = {'f4': (1, 2, 2), 'f2': (1, 2), 'f8': (1, 2, 2, 2)}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of a first stage."""
  variant = config_lib.parse_variants(
    arg,
    network=('kl', 'vq'),
    factor=tuple(FACTORS),
    gpu=False,
    debug=False,
  )
  factor = variant['factor']
  is_kl = variant['network'] == 'kl'
  config = config_lib.base('autoencoder')
  config.name = f'ldm_autoencoder_shapes_{variant["network"]}'
  if factor != 'f4':
    config.name += f'_{factor}'
  config.system.network = variant['network']
  config.network = _network(factor)
  if not is_kl:
    config.network.n_embed = 1024
  config.data.name = 'shapes'
  config.data.level = 2  # One first stage serves all tasks up to this level.
  config.data.image_size = 32
  config.data.max_objects = 6

  config.train.steps = 7200
  config.train.batch_size = 8
  config.train.learning_rate = 2e-3
  config.train.warmup_steps = 200
  config.train.decay_steps = 7200
  config.train.log_every = 40
  config.train.checkpoint_every = 1800
  config.train.sample_every = 1800
  config.optimizer.name = 'muon'
  config.optimizer.b2 = 0.99

  config.loss.perceptual = 'pyramid'
  config.loss.pixel_loss = 'l2'
  config.loss.kl_weight = 1e-3
  config.loss.disc_start = 5400
  config.loss.disc_weight = 0.1
  config.loss.disc_width = 16
  config.evaluate.count, config.evaluate.batch_size = 1000, 100
  if variant['gpu']:
    _enlarge(config)
  if variant['debug']:
    common.shrink(
      config,
      {
        'network.ddconfig.ch': 32,
        'network.ddconfig.num_res_blocks': 0,
        'network.ddconfig.ch_mult': (1,) * len(FACTORS[factor]),
        **({} if is_kl else {'network.n_embed': 32}),
      },
    )
  return config


def _network(factor: str) -> ConfigDict:
  """Returns an autoencoder with as many channels as its factor.

  The encoder has no residual blocks before its middle block, and the decoder
  one at every level: the strided convolutions suffice.
  """
  channels = int(factor.removeprefix('f'))
  return ConfigDict(
    {
      'ddconfig': {
        'ch': 32,
        'ch_mult': FACTORS[factor],
        'num_res_blocks': 0,
        'attn_resolutions': (),
        'attn_type': 'none',
        'resolution': 32,
        'z_channels': channels,
      },
      'embed_dim': channels,
    }
  )


def _enlarge(config: ConfigDict) -> None:
  """Sets 128 px, with latents of 32 x 32."""
  net = config.network.ddconfig
  net.num_res_blocks, net.resolution = 2, 128
  net.ch_mult = (1, 2, 4)
  net.attn_type = 'vanilla'
  if 'n_embed' in config.network:
    config.network.n_embed = 8192
  config.dtype = 'bfloat16'
  config.data.image_size = 128
  config.optimizer.name = 'adam'
  config.train.batch_size = 128
  config.train.learning_rate = 5e-4
  config.train.steps = config.train.decay_steps = 20000
  config.train.checkpoint_every = config.train.sample_every = 2000
  config.loss.disc_start = 10000
  config.loss.disc_weight, config.loss.disc_width = 0.5, 64
