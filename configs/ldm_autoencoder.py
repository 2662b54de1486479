r"""All published first stages of latent diffusion, 256 px.

arXiv:2112.10752, tables 8 and 13; CompVis/latent-diffusion: models/
first_stage_models/*/config.yaml, configs/autoencoder/*.yaml; CompVis/
taming-transformers: configs/imagenet_vqgan.yaml. Nothing is measured here. The
learning rate is 4.5e-6 times the batch size, as its --scale_lr makes it; the
batch size is that of one of its GPUs, and the steps are those of the released
weights. Of the models without a released file (see below) the paper prints
codes, channels and scores; their other values are those of the released models
with the same factor or the nearest one.

  python -m pyramid_jax.main --config=configs/ldm_autoencoder.py:kl_f8 \
      --config.data.root=OPENIMAGES/train --workdir=DIR

Reads any folder of images (config.data.name = 'image_folder'): the shorter side
becomes 384 px, and a square of 256 px is cut out.

Variants:
  kl_f4 (default), kl_f8, kl_f16, kl_f32, vq_f4, vq_f4_noattn, vq_f8,
    vq_f8_n256, vq_f16: the released models.
  kl_f2, kl_f16_c8, kl_f32_c16, vq_f2, vq_f2_n64, vq_f4_n256, vq_f32: the other
    rows of table 8.
  vq_f32_c32: the first stage of LDM-32 in table 13.
  vqgan_f16_n1024, vqgan_f16_n16384: VQGAN, trained on ImageNet.
  openimages (default), imagenet: the images of the KL models; those of ImageNet
    are squares of half the shorter side or more, 24 in a batch of two parts.
  debug: the smallest sizes.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


LEARNING_RATE = 4.5e-6  # For one image; times the batch size.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The values in which the published first stages differ.

  Attributes:
    ch_mult: the channel factors of the levels, finest first.
    channels: the number of channels of a latent.
    n_embed: the number of codes; 0 for a KL autoencoder.
    attn_resolutions: the resolutions with attention, in addition to the middle
      block.
    attn_type: 'vanilla', or 'none' for no attention at all.
    batch_size: the number of images of one GPU.
    disc_start: the first step with the adversarial loss.
    disc_weight: the weight of the adversarial loss.
    disc_layers: the number of strided convolutions of the discriminator.
    data: the images that it is trained on, 'openimages' or 'imagenet'.
    steps: the number of training steps of the released weights.
  """

  ch_mult: tuple[int, ...]
  channels: int
  n_embed: int = 0
  attn_resolutions: tuple[int, ...] = ()
  attn_type: str = 'vanilla'
  batch_size: int
  disc_start: int = 50001
  disc_weight: float = 0.5
  disc_layers: int = 3
  data: str = 'openimages'
  steps: int


MODELS = {
  'kl_f4': Model(ch_mult=(1, 2, 4), channels=3, batch_size=10, steps=176_991),
  'kl_f8': Model(ch_mult=(1, 2, 4, 4), channels=4, batch_size=4, steps=246_803),
  'kl_f16': Model(
    ch_mult=(1, 1, 2, 2, 4),
    channels=16,
    attn_resolutions=(16,),
    batch_size=6,
    steps=442_998,
  ),
  'kl_f32': Model(
    ch_mult=(1, 1, 2, 2, 4, 4),
    channels=64,
    attn_resolutions=(16, 8),
    batch_size=6,
    steps=406_763,
  ),
  'vq_f4': Model(
    ch_mult=(1, 2, 4),
    channels=3,
    n_embed=8192,
    batch_size=8,
    disc_start=0,
    disc_weight=0.75,
    steps=533_066,
  ),
  'vq_f4_noattn': Model(
    ch_mult=(1, 2, 4),
    channels=3,
    n_embed=8192,
    attn_type='none',
    batch_size=8,
    disc_start=11,
    disc_weight=0.75,
    steps=658_131,
  ),
  'vq_f8': Model(
    ch_mult=(1, 2, 2, 4),
    channels=4,
    n_embed=16384,
    attn_resolutions=(32,),
    batch_size=10,
    disc_start=1,
    disc_weight=0.6,
    disc_layers=2,
    steps=971_043,
  ),
  'vq_f8_n256': Model(
    ch_mult=(1, 2, 2, 4),
    channels=4,
    n_embed=256,
    attn_resolutions=(32,),
    batch_size=10,
    disc_start=250_001,
    disc_weight=0.75,
    steps=1_608_649,
  ),
  'vq_f16': Model(
    ch_mult=(1, 1, 2, 2, 4),
    channels=8,
    n_embed=16384,
    attn_resolutions=(16,),
    batch_size=14,
    disc_start=250_001,
    disc_weight=0.75,
    disc_layers=2,
    steps=1_101_166,
  ),
}
# The paper prints codes, channels and scores of these.
_KL_F16, _KL_F32 = MODELS['kl_f16'], MODELS['kl_f32']
_VQ_F4, _VQ_F16 = MODELS['vq_f4'], MODELS['vq_f16']
_VQ_F2 = dataclasses.replace(_VQ_F4, ch_mult=(1, 2), channels=2, n_embed=2048)
_VQ_F32 = dataclasses.replace(
  _VQ_F16, ch_mult=_KL_F32.ch_mult, channels=16, attn_resolutions=(16, 8)
)
_VQGAN = Model(
  ch_mult=(1, 1, 2, 2, 4),
  channels=256,
  n_embed=1024,
  attn_resolutions=(16,),
  batch_size=12,
  disc_start=250_001,
  disc_weight=0.8,
  data='imagenet',
  steps=1_000_000,  # Those of the released weights are not published.
)
MODELS |= {
  'kl_f2': dataclasses.replace(MODELS['kl_f4'], ch_mult=(1, 2), channels=2),
  'kl_f16_c8': dataclasses.replace(_KL_F16, channels=8),
  'kl_f32_c16': dataclasses.replace(_KL_F32, channels=16),
  'vq_f2': _VQ_F2,
  'vq_f2_n64': dataclasses.replace(_VQ_F2, n_embed=64),
  'vq_f4_n256': dataclasses.replace(_VQ_F4, n_embed=256),
  'vq_f32': _VQ_F32,
  'vq_f32_c32': dataclasses.replace(_VQ_F32, channels=32),
  'vqgan_f16_n1024': _VQGAN,
  'vqgan_f16_n16384': dataclasses.replace(_VQGAN, n_embed=16384),
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of a first stage."""
  variant = config_lib.parse_variants(
    arg,
    model=tuple(MODELS),
    data=('openimages', 'imagenet'),
    debug=False,
  )
  model = MODELS[variant['model']]
  config = config_lib.base('autoencoder')
  config.name = f'ldm_autoencoder_{variant["model"]}'
  config.system.network = 'vq' if model.n_embed else 'kl'
  config.network = network(variant['model'])

  _set_data(config, model, variant['data'] == 'imagenet')
  config.train.steps = model.steps
  config.train.learning_rate = LEARNING_RATE * config.train.batch_size
  config.evaluate.protocol, config.evaluate.count = 'first_stage_50k', 50_000
  config.train.log_every = 50
  config.train.checkpoint_every = 5000
  config.train.sample_every = 5000
  config.optimizer.b1, config.optimizer.b2 = 0.5, 0.9

  # config.loss.perceptual_weights names the file of its weights.
  config.loss.perceptual = 'lpips'
  config.loss.codebook_weight = 1.0
  config.loss.kl_weight = 1e-6
  config.loss.disc_weight = model.disc_weight
  config.loss.disc_start = model.disc_start
  config.loss.disc_layers = model.disc_layers
  if variant['debug']:
    changes = _small_network(config)
    if config.data.short_side:
      changes['data.short_side'] = 48
    common.shrink(config, changes)
  return config


def _set_data(config: ConfigDict, model: Model, imagenet: bool) -> None:
  """Sets the images and the batch size; `imagenet` is that of KL models.

  CompVis/latent-diffusion: ldm/data/imagenet.py (ImageNetSR), configs/
  autoencoder/*.yaml; CompVis/taming-transformers: taming/data/imagenet.py.

  Raises:
    ValueError: a VQ model with `imagenet`, which was not published.
  """
  config.data.image_size = 256
  config.train.batch_size = model.batch_size
  if imagenet:
    if model.n_embed:
      raise ValueError("config variant 'imagenet' is one of KL models.")
    config.data.name = 'imagenet'
    config.data.crop, config.data.eval_crop = 'random-half', 'square'
    config.data.resize = 'area'
    config.train.batch_size, config.train.accumulate = 24, 2
  elif model.data == 'imagenet':
    config.data.name = 'imagenet'
    config.data.resize = 'linear'
  else:
    config.data.name = 'image_folder'
    config.data.short_side = 384


def network(name: str) -> ConfigDict:
  """Returns the constructor fields of a model, a key of `MODELS`."""
  model = MODELS[name]
  fields = {
    'ddconfig': {
      'ch': 128,
      'ch_mult': model.ch_mult,
      'num_res_blocks': 2,
      'attn_resolutions': model.attn_resolutions,
      'attn_type': model.attn_type,
      'resolution': 256,
      'z_channels': model.channels,
    },
    'embed_dim': model.channels,
  }
  if model.n_embed:
    fields['n_embed'] = model.n_embed
  return ConfigDict(fields)


def _small_network(config: ConfigDict) -> dict[str, Any]:
  """Returns the sizes of the smallest network that runs the same code."""
  net = config.network.ddconfig
  sizes: dict[str, Any] = {
    'ddconfig.ch': 32,
    'ddconfig.num_res_blocks': 1,
    'ddconfig.ch_mult': (1,) * len(net.ch_mult),
    # The nominal resolutions are an eighth, as the image is.
    'ddconfig.attn_resolutions': tuple(r // 8 for r in net.attn_resolutions),
    'ddconfig.resolution': 32,
  }
  if 'n_embed' in config.network:
    sizes['n_embed'] = 32
  return {f'network.{name}': size for name, size in sizes.items()}
