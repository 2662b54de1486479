r"""LDM-1 to LDM-32: how much compression suits diffusion, 256 px.

arXiv:2112.10752, section 4.1, tables 13 (ImageNet, conditioned on the class)
and 14 (CelebA-HQ). One network of about the same size diffuses images (ldm1) or
the latents of first stages that halve the sides up to five times (ldm2 to
ldm32). Published for ImageNet after 2 M steps, with 100 DDIM steps: the FID of
ldm1 is larger than that of ldm8 by 38. Nothing is measured here.

  python -m pyramid_jax.main --config=configs/ldm_compression.py:ldm8 \
      --config.data.root=IMAGENET --workdir=DIR

Reads the official files (docs/data.md) as the configs ldm_imagenet.py and
ldm_unconditional.py do. The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one. The values of celebahq were not
compared with the paper: they are from memory.

Variants:
  ldm4 (default), ldm1, ldm2, ldm8, ldm16, ldm32: the factor of the first stage.
  imagenet (default), celebahq: the images.
  debug: the smallest sizes.
"""

import dataclasses

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The values in which the models of a table differ.

  Attributes:
    channels: the width of the U-Net.
    mult: the channel factors of its levels, finest first.
    batch_size: the number of images of a step, on one GPU.
    learning_rate: the learning rate, which is constant.
  """

  channels: int
  mult: tuple[int, ...]
  batch_size: int
  learning_rate: float


# Factor of the first stage -> its variant of ldm_autoencoder.py.
FIRST_STAGES = {
  1: '',
  2: 'vq_f2',
  4: 'vq_f4',
  8: 'vq_f8',
  16: 'vq_f16',
  32: 'vq_f32_c32',
}
# Factors of the levels of the U-Net that attend: those of 32, 16 and 8 px, or
# all three.
ATTENTION = {
  1: (8, 16, 32),
  2: (4, 8, 16),
  4: (2, 4, 8),
  8: (1, 2, 4),
  16: (1, 2, 4),
  32: (1, 2, 4),
}
_WIDE = {'channels': 256, 'mult': (1, 2, 4)}
_DEEP = {'channels': 192, 'mult': (1, 1, 2, 2, 4, 4)}
_MIDDLE = {'channels': 192, 'mult': (1, 2, 2, 4, 4)}
IMAGENET = {
  1: Model(**_DEEP, batch_size=7, learning_rate=4.9e-5),
  2: Model(**_MIDDLE, batch_size=9, learning_rate=6.3e-5),
  4: Model(channels=192, mult=(1, 2, 3, 5), batch_size=40, learning_rate=8e-5),
  8: Model(**_WIDE, batch_size=64, learning_rate=6.4e-5),
  16: Model(**_WIDE, batch_size=112, learning_rate=4.5e-5),
  32: Model(**_WIDE, batch_size=112, learning_rate=4.5e-5),
}
CELEBAHQ = {
  1: Model(**_DEEP, batch_size=9, learning_rate=9e-5),
  2: Model(**_MIDDLE, batch_size=11, learning_rate=1.1e-4),
  4: Model(
    channels=224, mult=(1, 2, 3, 4), batch_size=48, learning_rate=9.6e-5
  ),
  8: Model(**_WIDE, batch_size=96, learning_rate=9.6e-5),
  16: Model(**_WIDE, batch_size=128, learning_rate=1.3e-4),
  32: Model(**_WIDE, batch_size=128, learning_rate=1.3e-4),
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  names = ('ldm4', *(f'ldm{f}' for f in FIRST_STAGES if f != 4))
  variant = config_lib.parse_variants(
    arg, model=names, data=('imagenet', 'celebahq'), debug=False
  )
  factor = int(variant['model'].removeprefix('ldm'))
  on_imagenet = variant['data'] == 'imagenet'
  model = (IMAGENET if on_imagenet else CELEBAHQ)[factor]
  config = common.ldm(f'ldm_compression_{variant["data"]}_{variant["model"]}')
  if on_imagenet:
    config.network = common.attending_unet(num_heads=1)
    config.condition.task = 'class'
    config.condition.num_classes = 1000
    config.condition.dim = 512
    config.condition.null_class = False
    config.train.steps = 2_000_000
  else:
    config.network = ConfigDict({'num_res_blocks': 2, 'num_head_channels': 32})
    config.data.crop = 'center'
    config.data.ids_file = 'celebahqtrain'
    config.data.eval_ids_file = 'celebahqvalidation'
    config.train.steps = 500_000
  config.network.model_channels = model.channels
  config.network.channel_mult = model.mult
  config.network.attention_resolutions = ATTENTION[factor]
  config.data.name = variant['data']
  config.data.resize = 'linear'
  config.train.batch_size = model.batch_size
  config.train.learning_rate = model.learning_rate
  config.sample.steps = 100
  config.evaluate.protocol, config.evaluate.count = 'ldm_5k', 5000
  config = common.complete_ldm(config, FIRST_STAGES[factor], variant['debug'])
  if variant['debug']:
    # The coarsest level of the network has two cells a side.
    config.data.image_size = max(32, 4 * factor)
  return config
