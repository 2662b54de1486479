r"""MS-VQGAN of Frido on OpenImages, 256 px: the two released first stages.

arXiv:2208.13753; davidhalladay/Frido: configs/msvqgan/msvqgan_{f16f8,f8f4}_
openimage.yaml. The reference took 50 epochs on GPUs; nothing is measured here.
The learning rate is 4.5e-6 times the global batch size, as its --scale_lr makes
it.

  python -m pyramid_jax.main --config=configs/msvqgan_openimages.py:f16f8 \
      --config.data.root=OPENIMAGES/train --workdir=DIR

Reads any folder of images (config.data.name = 'image_folder').

Variants:
  f16f8 (default), f8f4: the downsampling factors of the two scales.
  debug: the smallest sizes.
"""

from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


LEARNING_RATE = 4.5e-6  # For one image; times the batch size.


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of a first stage."""
  variant = config_lib.parse_variants(
    arg, scales=('f16f8', 'f8f4'), debug=False
  )
  f16f8 = variant['scales'] == 'f16f8'
  config = config_lib.base('autoencoder')
  config.name = f'msvqgan_openimages_{variant["scales"]}'
  config.network = network(variant['scales'])

  config.data.name = 'image_folder'
  config.data.image_size = 256
  config.data.crop = 'random-1d'
  config.data.flip = True

  config.train.batch_size = 6 if f16f8 else 4
  # These are 50 epochs.
  config.train.steps = 15_000_000 // config.train.batch_size
  config.train.learning_rate = LEARNING_RATE * config.train.batch_size
  config.train.log_every = 50
  config.train.checkpoint_every = 5000
  config.train.sample_every = 5000
  config.optimizer.b1, config.optimizer.b2 = 0.5, 0.9

  # config.loss.perceptual_weights names the file of its weights.
  config.loss.perceptual = 'lpips'
  config.loss.disc_weight = 0.8 if f16f8 else 0.75
  config.loss.disc_start = 30001 if f16f8 else 0
  config.loss.disc_layers = 2 if f16f8 else 3
  if variant['debug']:
    common.shrink(config, _small_network(config))
  return config


def network(scales: str) -> ConfigDict:
  """Returns the constructor fields of MSVQGAN for 'f16f8' or 'f8f4'."""
  f16f8 = scales == 'f16f8'
  z = 4 if f16f8 else 3  # The channels of a scale.
  common = {'ch': 128, 'num_res_blocks': 2, 'resolution': 256}
  attention = (32,) if f16f8 else (64,)
  return ConfigDict(
    {
      'edconfig': {
        'ch_mult': (1, 1, 2, 2, 4) if f16f8 else (1, 1, 2, 4),
        'attn_resolutions': attention,
        'z_channels': (z, z),
        **common,
      },
      'ddconfig': {
        'ch_mult': (1, 1, 2, 4) if f16f8 else (1, 2, 4),
        'attn_resolutions': attention,
        'z_channels': 2 * z,
        **common,
      },
      'embed_dim': (z, z),
      'n_embed': (8192, 8192) if f16f8 else (4096, 4096),
      'shared_ch': 128,
      'shared_num_res_blocks': 2,
    }
  )


def _small_network(config: ConfigDict) -> dict[str, Any]:
  """Returns the sizes of the smallest network that runs the same code."""
  sizes: dict[str, Any] = {
    'n_embed': (32,) * len(config.network.n_embed),
    'shared_ch': 32,
    'shared_num_res_blocks': 1,
  }
  for name in ('edconfig', 'ddconfig'):
    part = config.network[name]
    sizes |= {
      f'{name}.ch': 32,
      f'{name}.num_res_blocks': 1,
      f'{name}.ch_mult': (1,) * len(part.ch_mult),
      # The nominal resolutions are an eighth, as the image is.
      f'{name}.attn_resolutions': tuple(r // 8 for r in part.attn_resolutions),
      f'{name}.resolution': 32,
    }
  return {f'network.{name}': size for name, size in sizes.items()}
