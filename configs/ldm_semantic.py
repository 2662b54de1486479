r"""LDM, 256 or 512 px, conditioned on a semantic map.

arXiv:2112.10752, table 15; CompVis/latent-diffusion: models/ldm/
semantic_synthesis{256,512}/config.yaml. No score is published, and nothing is
measured here. The U-Net has 215 M parameters. The one-hot map is halved twice
and mapped to 3 channels, which are concatenated with the latent.

  python -m pyramid_jax.main --config=configs/ldm_semantic.py \
      --config.data.root=LANDSCAPES --workdir=DIR

Reads images and maps in two folders (docs/data.md); ADE20K takes these flags:

      --config.data.name=ade20k --config.condition.map_classes=151

A folder with 1.map.png beside 1.jpg takes --config.data.name=image_folder.
Squares are cut out of images whose shorter side has 384 px (768 px for 512).
The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

A model of 256 px makes larger images of maps of their shape, as in the paper's
figure 9, of 1024 x 384 px:

  python -m pyramid_jax.main --mode=sample --workdir=DIR --map=MAP.png \
      --config.sample.shape=384,1024

Variants:
  px256 (default), px512: pixels.
  square (default), wide: the shape of samples; wide is that of figure 9.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg, size=('px256', 'px512'), shape=('square', 'wide'), debug=False
  )
  large = variant['size'] == 'px512'
  config = common.ldm(f'ldm_semantic_{variant["size"]}')
  config.network = ConfigDict(
    {
      'model_channels': 128,
      'channel_mult': (1, 4, 8),
      'num_res_blocks': 2,
      # No level is so coarse: as published, only the middle block attends.
      'attention_resolutions': (32, 16, 8),
      'num_heads': 8,
    }
  )
  config.condition.task = 'map'
  config.condition.map_classes = 182
  config.condition.map_channels = 3
  config.diffusion.linear_end = 0.0205
  config.diffusion.loss_type = 'l1'
  config.data.image_size = 512 if large else 256
  config.data.name = 'landscapes'
  config.data.short_side = 768 if large else 384
  config.train.batch_size = 8 if large else 48
  config.train.learning_rate = 1e-6 * config.train.batch_size
  config.train.steps = 360_000
  if variant['shape'] == 'wide':
    config.sample.shape = (32, 64) if variant['debug'] else (384, 1024)
  return common.complete_ldm(config, 'vq_f4', variant['debug'])
