r"""Frido without a condition, 256 px: faces and scenes.

arXiv:2208.13753 (davidhalladay/Frido: configs/frido) has no file of an
unconditional model: the network and its training are those of configs/
frido_coco.py with self-attention in place of cross-attention, the images and
their preparation those of configs/ldm_unconditional.py. No value is published,
and nothing is measured here.

  python -m pyramid_jax.main --config=configs/frido_unconditional.py:ffhq \
      --config.data.root=FFHQ --workdir=DIR

Reads the official files (docs/data.md). The first stage, that of Open Images in
the releases, is trained in DIR/first_stage unless config.first_stage.checkpoint
names one.

Variants:
  celebahq (default), ffhq, lsun_bedrooms, lsun_churches: the images.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')
MODELS = ('celebahq', 'ffhq', 'lsun_bedrooms', 'lsun_churches')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, model=MODELS, debug=False)
  debug = ',debug' if variant['debug'] else ''
  config = common.frido(f'frido_unconditional_{variant["model"]}')
  config.network.use_spatial_transformer = False
  ldm = config_lib.sibling(__file__, 'ldm_unconditional')
  config.data.update(ldm.get_config(variant['model']).data)
  config.train.batch_size = 32
  config.evaluate.protocol, config.evaluate.count = 'ldm_uncond', 50_000
  first = config_lib.sibling(__file__, 'msvqgan_openimages')
  config_lib.add_first_stage(config, first.get_config(f'f16f8{debug}'))
  config.first_stage.data.name = config.data.name
  if variant['debug']:
    common.shrink(config, common.SMALL_UNET)
  return config
