r"""LDM, 256 px, conditioned on text.

arXiv:2112.10752, tables 2 and 15; CompVis/latent-diffusion: models/ldm/
text2img256/config.yaml (small), configs/latent-diffusion/
txt2img-1p4B-eval.yaml (1p4b). Published FID on COCO, 30k images: 1p4b 23.31,
with guidance 1.5 12.63 (250 DDIM steps); small 16.79, with guidance 13.89 (100
steps, README). Nothing is measured here. U-Net and encoder have 404 M and 186 M
parameters (small), 872 M and 582 M (1p4b). The variant clip attends to the
tokens of a pretrained CLIP ViT-L/14 with a U-Net of 860 M parameters, as
CompVis/stable-diffusion: configs/stable-diffusion/v1-inference.yaml.

  python -m pyramid_jax.main --config=configs/ldm_text.py:small \
      --config.data.root=CAPTIONED --workdir=DIR

Reads a folder of images with captions.jsonl. config.condition.vocab_file must
name the vocabulary; clip also needs merges_file and weights. The first stage is
trained in DIR/first_stage unless config.first_stage.checkpoint names one.

Variants:
  small (default), 1p4b, clip: the model.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


CLIP_START, CLIP_END = 49406, 49407


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg, size=('small', '1p4b', 'clip'), debug=False
  )
  size = variant['size']
  config = common.ldm(f'ldm_text_{size}')
  config.condition.task = 'text'
  config.condition.max_length = 77
  config.condition.cond_dropout = 0.1  # The rate is not published.
  config.sample.guidance = 1.5
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
  config.remat = True
  config.diffusion.linear_start = 0.00085
  config.diffusion.linear_end = 0.012
  config.diffusion.scale_factor = 0.18215
  config.train.batch_size = 680
  config.train.learning_rate = 1e-4
  config.train.steps = 390_000
  config.sample.steps = 250
  if size == 'clip':
    config.condition.encoder = 'clip'
    config.condition.vocab_size = 49408
    config.condition.dim, config.condition.depth = 768, 12
    config.condition.heads = 12
    config.condition.null_prefix = (CLIP_START, CLIP_END)
    config.condition.pad_id = CLIP_END
  else:
    config.condition.dim, config.condition.depth = 1280, 32
    config.condition.null_prefix = (101, 102)  # [CLS] and [SEP].
    config.ema.decay = 0.0  # The published weights are not averaged.
  return common.complete_ldm(config, 'kl_f8', variant['debug'])
