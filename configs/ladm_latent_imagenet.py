r"""Laplacian latent DiffiT on ImageNet, 256 or 512 px, with classes.

This design is our own and not measured: the latents of sd-vae, 32 x 32 or
64 x 64, are diffused from 16 x 16 upwards, as LaDM (arXiv:2411.07126) diffuses
images. All stages share the blocks of one DiffiT (arXiv:2312.02139) of the
published size. The 18, 16 and 16 steps at 64, 256 and 1,024 tokens of 512 px
take, by count, 0.42 of the multiplications with weights that as many steps at
one resolution take; at 256 px 0.58.

The band powers below are NOT measured on ImageNet: they assume that half of the
power of latents of unit power is in the details, and the noise levels follow
from them. Run measure_bands and paste what it prints before training:

  python -m pyramid_jax.commands.measure_bands \
      --config=configs/ladm_latent_imagenet.py \
      --config.data.root=IMAGENET --config.first_stage.checkpoint=VAE \
      --kappa=4
  python -m pyramid_jax.commands.cache_latents \
      --config=configs/ladm_latent_imagenet.py \
      --config.data.root=IMAGENET --first_stage=VAE --output=CACHE --flips
  python -m pyramid_jax.main --config=configs/ladm_latent_imagenet.py \
      --config.data.name=latents --config.data.root=CACHE \
      --config.first_stage.checkpoint=VAE --workdir=DIR

VAE is sd-vae-ft-ema or sd-vae-ft-mse, converted: docs/weights.md. Without a
checkpoint the first stage is trained in DIR/first_stage. The data, the learning
rates and the batch sizes are those of configs/diffit_imagenet.py.

Variants:
  256 (default): two resolutions.
  512: three resolutions.
  debug: the smallest sizes.
"""

import math

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


# Placeholders, not measured: see above.
BANDS = {2: (0.7, 0.7), 3: (0.7, 0.5, 0.5)}
# The noise at a switch over the power of the band that appears there.
KAPPA = 4.0
# The mean of log sigma at the full resolution, for any number of stages.
LOG_SIGMA = 0.5
# Coarse to fine. The sum is the batch size of DiffiT.
STAGE_BATCH = {2: (160, 96), 3: (256, 160, 96)}
STEPS = {2: (28, 22), 3: (18, 16, 16)}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, size=('256', '512'), debug=False)
  is_large = variant['size'] == '512'
  levels = 3 if is_large else 2
  config = config_lib.base('ladm')
  config.name = f'ladm_latent_imagenet_{variant["size"]}'
  config.dtype = 'bfloat16'  # Norms, softmax and the loss are float32.
  config.remat = 'products'  # See configs/diffit_imagenet.py.
  config.network = ConfigDict(
    {
      'patch_size': 2,
      'hidden_size': 1152,
      'depth': 28,
      'num_heads': 16,
      'mlp_ratio': 4.0,
    }
  )
  config.data.name = 'imagenet'
  config.data.image_size = 512 if is_large else 256
  config.data.crop = config.data.eval_crop = 'adm'
  config.data.flip = True
  config.condition.task = 'class'
  config.condition.class_by = 'timestep'
  config.condition.num_classes = 1000
  config.condition.cond_dropout = 0.1

  _pyramid(config, levels)
  config.optimizer.name = 'adamw'
  config.train.batch_size = sum(STAGE_BATCH[levels])
  config.train.learning_rate = 1e-4 if is_large else 3e-4
  config.train.steps = 400_000
  config.train.log_every = 50
  config.train.checkpoint_every = 10_000
  config.train.sample_every = 20_000

  config.sample.solver, config.sample.rho = 'dpmpp_2m', 4.0
  config.sample.steps = STEPS[levels]
  config.sample.guidance = 2.0
  config.evaluate.count, config.evaluate.batch_size = 50_000, 64
  config.evaluate.protocol = 'adm'

  first = config_lib.sibling(__file__, 'ldm_autoencoder')
  names = 'kl_f8,debug' if variant['debug'] else 'kl_f8'
  config_lib.add_first_stage(config, first.get_config(names))
  config.first_stage.data.name = config.data.name
  if variant['debug']:
    common.shrink(
      config,
      {
        'dtype': 'float32',
        'network.hidden_size': 32,
        'network.depth': 2,
        'network.num_heads': 4,
        'network.patch_size': 1,
        'data.image_size': 8 * 2**config.laplacian.levels,
        'laplacian.stage_batch': (0,),
        'train.batch_size': config.laplacian.levels,
        'sample.steps': 2,
      },
    )
  return config


def _pyramid(config: ConfigDict, levels: int) -> None:
  """Sets the Laplacian process on latents and its noise levels."""
  pyramid = config.laplacian
  pyramid.network, pyramid.latent, pyramid.shared = 'diffit', True, True
  pyramid.levels = levels
  pyramid.band_rms = BANDS[levels]
  pyramid.switch_sigmas = tuple(
    KAPPA * 2**i * rms for i, rms in enumerate(BANDS[levels][:-1])
  )
  pyramid.sigma_min, pyramid.sigma_max = 0.01, 160.0
  pyramid.stage_batch = STAGE_BATCH[levels]
  config.diffusion.P_mean = LOG_SIGMA - (levels - 1) * math.log(2.0)
  config.diffusion.P_std = 1.3
  config.diffusion.scale_factor = 0.18215
