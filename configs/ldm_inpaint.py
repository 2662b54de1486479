r"""LDM, 256 px: inpainting.

arXiv:2112.10752, tables 7 and 15; CompVis/latent-diffusion: models/ldm/
inpainting_big/config.yaml. Published on Places at 512 px, with holes of 40 to
50 %: FID 12.89, LPIPS 0.257 (9.39 and 0.246 after half an epoch at 512 px).
Nothing is measured here. The U-Net has 387 M parameters and 7 input channels:
the latent, the latent of the image with its holes in black, and the mask.

  python -m pyramid_jax.main --config=configs/ldm_inpaint.py \
      --config.data.root=PLACES --workdir=DIR

Reads any folder of images and draws the holes at random. The learning rate
warms up and falls to zero in 50000 steps, nearly as the reference's multiplier
does; the batch size is that of table 15. The first stage is trained in
DIR/first_stage unless config.first_stage.checkpoint names one.

Variants:
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, debug=False)
  config = common.ldm('ldm_inpaint')
  config.network = ConfigDict(
    {
      'model_channels': 256,
      'channel_mult': (1, 2, 3, 4),
      'num_res_blocks': 2,
      'attention_resolutions': (8, 4, 2),
      'num_heads': 8,
      'resblock_updown': True,
    }
  )
  config.condition.task = 'inpaint'
  config.diffusion.linear_end = 0.0205
  config.diffusion.loss_type = 'l1'
  config.data.crop = 'random-2d'
  config.data.flip = True
  config.train.batch_size = 128
  config.train.learning_rate = 0.1 * 1e-6 * 128
  config.train.warmup_steps = 1000
  config.train.steps = config.train.decay_steps = 50_000
  config.sample.steps = 50
  return common.complete_ldm(config, 'vq_f4_noattn', variant['debug'])
