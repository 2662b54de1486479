r"""LDM, super-resolution from 64 to 256 px.

arXiv:2112.10752, tables 5, 11 and 15; CompVis/latent-diffusion: models/ldm/
bsr_sr/config.yaml. Published on ImageNet for bicubic downsampling: FID 2.8,
PSNR 24.4 (100 steps, eta 1; 169 M parameters, which are the U-Net's 114 M and
the first stage's 55 M); big FID 2.4, PSNR 24.7 (552 M); pixels FID 5.1. Nothing
is measured here. The low-resolution image is concatenated with the latent as it
is, and with the pixels after a bicubic enlargement.

  python -m pyramid_jax.main --config=configs/ldm_superres.py:bsr \
      --config.data.root=IMAGES --workdir=DIR

Reads the official files (docs/data.md): Open Images (bsr, bsr_full), or
ImageNet without images whose shorter side has less than 256 px (bicubic,
appendix E.3.4): squares of half the shorter side or more, resized by means over
areas. Any folder of images takes --config.data.name=image_folder, and for
bicubic --config.data.min_side=0 in addition. The first stage is trained in
DIR/first_stage unless config.first_stage.checkpoint names one.

Variants:
  bsr (default): blind degradation, its light version, as released.
  bsr_full: blind degradation with the parameters of BSRGAN, which the paper
    found too strong (appendix D.6.1).
  bicubic: bicubic downsampling.
  released (default): the released U-Net.
  big: a U-Net with which all parameters are 552 M. Its widths are not published
    and are our own.
  pixels: the released U-Net on pixels, without a first stage; the sizes of the
    paper's are not published.
  guided: samples of 50 steps, guided by LPIPS on the low-resolution image
    (appendix C; table 5: FID 4.4, PSNR 25.8); config.sample.image_weights has
    to name its weights. The factor of the gradient is not published. With
    debug the distance is half the squared error.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    degradation=('bsr', 'bsr_full', 'bicubic'),
    network=('released', 'big', 'pixels'),
    guided=False,
    debug=False,
  )
  degradation = variant['degradation']
  kinds = {'bsr': 'bsr_light', 'bsr_full': 'bsr', 'bicubic': 'bicubic'}
  big = variant['network'] == 'big'
  name = '' if variant['network'] == 'released' else f'_{variant["network"]}'
  config = common.ldm(f'ldm_superres_{degradation}{name}')
  config.network = ConfigDict(
    {
      'model_channels': 256 if big else 160,
      'channel_mult': (1, 3, 4, 4) if big else (1, 2, 2, 4),
      'num_res_blocks': 2,
      'attention_resolutions': (16, 8),
      'num_head_channels': 32,
      **({'resblock_updown': True} if big else {}),
    }
  )
  config.condition.task = 'superres'
  config.diffusion.linear_end = 0.0155
  config.data.lr_factor = 4
  config.data.degradation = kinds[degradation]
  if degradation == 'bicubic':
    config.data.name, config.data.min_side = 'imagenet', 256
  else:
    config.data.name, config.data.category_subset = 'openimages', 'all'
  config.data.crop, config.data.eval_crop = 'random-half', 'square'
  config.data.resize = 'area'
  config.train.batch_size = 64
  config.train.learning_rate = 1e-6 * 64
  config.train.steps = 860_000
  config.sample.steps, config.sample.eta = 100, 1.0
  config.evaluate.protocol, config.evaluate.count = 'sr_50k', 50_000
  if variant['guided']:
    config.sample.steps = 50
    config.sample.image_distance = 'l2' if variant['debug'] else 'lpips'
  first_stage = '' if variant['network'] == 'pixels' else 'vq_f4'
  return common.complete_ldm(config, first_stage, variant['debug'])
