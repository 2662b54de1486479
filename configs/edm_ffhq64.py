r"""EDM on faces of 64 px: the U-Nets DDPM++ and NCSN++ (arXiv:2206.00364).

See edm_cifar10.py. EDM trained each network for four days on 8 V100
(NVlabs/edm: README.md). On FFHQ its FID is 2.39 with DDPM++ and 2.53 with
NCSN++, on AFHQv2 1.96 and 2.16 (from memory); nothing is measured here. DDPM++
has 61.8 M parameters.

  python -m pyramid_jax.main --config=configs/edm_ffhq64.py \
      --config.data.root=FFHQ --workdir=DIR

Reads all 70,000 images of the official folders (docs/data.md), or of the zip
that EDM's data set tool wrote, and resizes those that have not 64 px as it
does, by Lanczos's filter. AFHQv2 is read from a folder of images.

Variants:
  ffhq (default), afhqv2: the images.
  vp (default), ve: the network, DDPM++ or NCSN++.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg, data=('ffhq', 'afhqv2'), network=('vp', 've'), debug=False
  )
  common = config_lib.sibling(__file__, 'common')
  cifar10 = config_lib.sibling(__file__, 'edm_cifar10')
  config = common.edm(f'edm_{variant["data"]}64', 256)
  config.name += f'_{variant["network"]}'
  config.data.name = 'ffhq' if variant['data'] == 'ffhq' else 'image_folder'
  config.data.image_size = 64
  config.data.crop = config.data.eval_crop = 'square'
  config.data.resize = 'lanczos'
  config.train.learning_rate = 2e-4
  config.diffusion.augment = 0.15
  config.sample.steps = 40  # Heun takes 79 network calls.
  dropout = 0.05 if variant['data'] == 'ffhq' else 0.25
  cifar10.set_network(config, variant['network'], (1, 2, 2, 2), dropout)
  if variant['debug']:
    cifar10.shrink(config)
  return config
