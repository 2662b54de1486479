r"""LDM, 256 px, conditioned on text.

arXiv:2112.10752, tables 2 and 15; CompVis/latent-diffusion: models/ldm/
text2img256/config.yaml (small), configs/latent-diffusion/
txt2img-1p4B-eval.yaml (1p4b). Published FID on COCO, 30k images: 1p4b 23.31,
with guidance 1.5 12.63 (250 DDIM steps); small 16.79, with guidance 13.89 (100
steps, README). Nothing is measured here. The released weights of 1p4b are not
averaged; training keeps averages. U-Net and encoder have 404 M and 186 M
parameters (small), 872 M and 582 M (1p4b). With a pretrained CLIP it is
configs/stable_diffusion.py.

  python -m pyramid_jax.main --config=configs/ldm_text.py:small \
      --config.data.root=CAPTIONED --workdir=DIR

Reads a folder of images with captions.jsonl. config.condition.vocab_file must
name the vocabulary. The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  small (default), 1p4b: the model.
  guided (default), unguided: guidance 1.5, or none.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    size=('small', '1p4b'),
    guidance=('guided', 'unguided'),
    debug=False,
  )
  size = variant['size']
  config = common.ldm(f'ldm_text_{size}')
  config.condition.task = 'text'
  config.condition.max_length = 77
  config.condition.cond_dropout = 0.1  # The rate is not published.
  config.sample.guidance = 1.5 if variant['guidance'] == 'guided' else 1.0
  config.evaluate.protocol, config.evaluate.count = 'coco_30k', 30_000
  if size == 'small':
    config.network = common.attending_unet(num_head_channels=32)
    config.condition.dim, config.condition.depth = 640, 32
    config.condition.null_prefix = (101, 102)  # [CLS] and [SEP].
    config.train.batch_size = 28
    config.train.learning_rate = 2e-6 * 28
    config.train.steps = 1_000_000
    config.sample.steps = 100
    return common.complete_ldm(config, 'vq_f4', variant['debug'])
  config.network = common.attending_unet(
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    attention_resolutions=(4, 2, 1),
    num_heads=8,
    legacy=False,
  )
  config.remat = 'full'
  config.diffusion.linear_start = 0.00085
  config.diffusion.linear_end = 0.012
  config.diffusion.scale_factor = 0.18215
  config.train.batch_size = 680
  config.train.learning_rate = 1e-4
  config.train.steps = 390_000
  config.sample.steps = 250
  config.condition.dim, config.condition.depth = 1280, 32
  config.condition.null_prefix = (101, 102)  # [CLS] and [SEP].
  return common.complete_ldm(config, 'kl_f8', variant['debug'])
