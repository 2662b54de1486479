r"""LDM: inpainting.

arXiv:2112.10752, tables 6, 7 and 15; CompVis/latent-diffusion: models/ldm/
inpainting_big/config.yaml. Published on Places at 512 px, with holes of 40 to
50 %: big FID 12.89 and LPIPS 0.257, big_512 9.39 and 0.246, vq_attn 11.87 and
0.257, vq 12.60 and 0.259. Nothing is measured here. The U-Net of big has 387 M
parameters, that of the others 215 M. The input has the latent, the latent of
the image with its holes in black, and the mask: 7 channels.

  python -m pyramid_jax.main --config=configs/ldm_inpaint.py \
      --config.data.root=PLACES --workdir=DIR

Reads Places365 (docs/data.md), any folder of images with
--config.data.name=image_folder, and draws the holes at random. As in the paper
(appendix E.2.2), squares of 256 px are cut out of photographs whose shorter
side has 512 px, the size of the official large images; half of them are
mirrored, as LaMa does, whose code made the published holes. The learning rate
of big warms up and falls to zero in 50000 steps, nearly as the reference's
multiplier does; the batch sizes are that of table 15. The first stage is
trained in DIR/first_stage unless config.first_stage.checkpoint names one.

Variants:
  big (default): the released model, 256 px.
  big_512: big, tuned at 512 px for half an epoch; config.train.init_from has to
    name a run of big. Its batch size and learning rate are not published.
  vq, vq_attn, kl_attn: LDM-4 of table 6 on first stages without and with
    attention. vq is the model of table 15.
  pixels: LDM-1 of table 6, which has no first stage. Its sizes are not
    published and are those of LDM-4 here.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


# Models -> their first stages, variants of ldm_autoencoder.py.
FIRST_STAGES = {
  'big': 'vq_f4_noattn',
  'big_512': 'vq_f4_noattn',
  'vq': 'vq_f4_noattn',
  'vq_attn': 'vq_f4',
  'kl_attn': 'kl_f4',
  'pixels': '',
}
HALF_EPOCH = 1_803_460 // 2  # Of the training images of Places.


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg, model=tuple(FIRST_STAGES), debug=False
  )
  model = variant['model']
  name = '' if model == 'big' else f'_{model}'
  config = common.ldm(f'ldm_inpaint{name}')
  big = model.startswith('big')
  config.network = _big() if big else _small()
  config.condition.task = 'inpaint'
  config.diffusion.linear_end = 0.0205
  config.diffusion.loss_type = 'l1'
  config.data.name = 'places'
  config.data.short_side = 512
  config.data.flip = True
  config.train.batch_size = 128
  config.train.learning_rate = 1e-6
  config.train.steps = 360_000
  if big:
    config.train.learning_rate = 0.1 * 1e-6 * 128
    config.train.warmup_steps = 1000
    config.train.steps = config.train.decay_steps = 50_000
  if model == 'big_512':
    config.data.image_size = 512
    config.train.warmup_steps = config.train.decay_steps = 0
    config.train.steps = HALF_EPOCH // config.train.batch_size
  config.sample.steps = 50
  config.evaluate.protocol, config.evaluate.count = 'inpaint_30k', 30_000
  return common.complete_ldm(config, FIRST_STAGES[model], variant['debug'])


def _big() -> ConfigDict:
  """Returns the released U-Net."""
  return ConfigDict(
    {
      'model_channels': 256,
      'channel_mult': (1, 2, 3, 4),
      'num_res_blocks': 2,
      'attention_resolutions': (8, 4, 2),
      'num_heads': 8,
      'resblock_updown': True,
    }
  )


def _small() -> ConfigDict:
  """Returns the U-Net of table 15; only its middle block attends."""
  return ConfigDict(
    {
      'model_channels': 128,
      'channel_mult': (1, 4, 8),
      'num_res_blocks': 2,
      'attention_resolutions': (),
      'num_heads': 1,
    }
  )
