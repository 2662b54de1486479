r"""DiT on ImageNet, 256 or 512 px, conditioned on the class.

arXiv:2212.09748, tables 2 and 3; facebookresearch/DiT: models.py, train.py,
sample_ddp.py. Published scores of XL/2 after 7 M steps (3 M at 512 px), for 50k
images of 250 DDPM steps and guidance 1.5: FID 2.27 and inception score 278.24
at 256 px, 3.04 and 240.82 at 512 px. Nothing is measured here. The network has
675,129,632 parameters, its table of positions at 256 px included, and takes 119
GFLOPs (525 at 512 px) for a forward pass of one image.

A released file with Stable Diffusion's autoencoder becomes a workdir:

  python -m pyramid_jax.interop.convert --family=latent_diffit \
      --config=configs/dit_imagenet.py:xl2_256 \
      --checkpoint=DiT-XL-2-256x256.pt,sd_vae_ema --workdir=DIR

Training reads latents that are encoded once, as configs/diffit_imagenet.py
says.

Variants:
  xl2_256 (default), xl2_512: the released models.
  bfloat16 (default), float32: the type of activations, for accelerators or as
    published.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    size=('xl2_256', 'xl2_512'),
    dtype=('bfloat16', 'float32'),
    debug=False,
  )
  diffit = config_lib.sibling(__file__, 'diffit_imagenet')
  size = variant['size'].removeprefix('xl2_')
  names = (size, variant['dtype'], *(['debug'] if variant['debug'] else []))
  config = diffit.get_config(','.join(names))
  config.name = f'dit_imagenet_{variant["size"]}'
  config.system.denoiser = 'dit'
  config.train.batch_size = 2 if variant['debug'] else 256
  config.train.learning_rate = 1e-4
  if not variant['debug']:
    config.train.steps = 3_000_000 if size == '512' else 7_000_000
  config.sample.guidance, config.sample.guidance_power = 1.5, 0.0
  config.sample.to_uint8 = 'half_up'
  return config
