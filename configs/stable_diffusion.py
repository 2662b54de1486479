r"""Stable Diffusion 1.x and 2.x: LDM on texts by a pretrained CLIP.

arXiv:2112.10752; CompVis/stable-diffusion: configs/stable-diffusion/
v1-inference.yaml; Stability-AI/stablediffusion: configs/stable-diffusion/
v2-inference.yaml, v2-inference-v.yaml. The U-Nets have 860 M (v1) and 866 M
parameters. v1 attends to the last states of CLIP ViT-L/14; v2 to the states of
OpenCLIP ViT-H/14 before its last block, so the encoder has 23 blocks here.
Nothing is measured here.

Released files become workdirs:

  python -m pyramid_jax.interop.convert --family=ldm \
      --config=configs/stable_diffusion.py:v1 --checkpoint=v1-5.ckpt \
      --workdir=DIR

A folder in the layout of diffusers needs no config and no conversion:
--workdir=FOLDER --mode=sample. Training from scratch reads a folder of images
with captions.jsonl; config.condition.weights, vocab_file and merges_file name
the files of the encoder, and the learning rate and the batch size are those of
v1's last phase.

Variants:
  v1 (default): 512 px, 1.1 to 1.5 and what was fine-tuned from them.
  v2_base: 512 px, 2.0-base and 2.1-base.
  v2: 768 px, 2.0 and 2.1; the network predicts the velocity.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


CLIP_START, CLIP_END = 49406, 49407


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg, version=('v1', 'v2_base', 'v2'), debug=False
  )
  version = variant['version']
  is_second = version != 'v1'
  config = common.ldm(f'stable_diffusion_{version}')
  config.network = common.attending_unet(
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    attention_resolutions=(4, 2, 1),
    legacy=False,
    **({'num_head_channels': 64} if is_second else {'num_heads': 8}),
  )
  config.remat = 'full'
  config.data.image_size = 768 if version == 'v2' else 512
  config.diffusion.linear_start = 0.00085
  config.diffusion.linear_end = 0.012
  config.diffusion.scale_factor = 0.18215
  if version == 'v2':
    config.diffusion.parameterization = 'v'

  c = config.condition
  c.task, c.encoder = 'text', 'clip'
  c.max_length, c.vocab_size = 77, 49408
  c.null_prefix, c.pad_id = (CLIP_START, CLIP_END), CLIP_END
  c.dim, c.depth, c.heads = 768, 12, 12
  if is_second:
    c.dim, c.depth, c.heads = 1024, 23, 16
    c.hidden_act, c.pad_id = 'gelu', 0
  c.cond_dropout = 0.1

  config.train.batch_size = 2048
  config.train.learning_rate = 1e-4
  config.train.steps = 225_000
  config.sample.solver = 'ddim' if is_second else 'plms'
  config.evaluate.protocol, config.evaluate.count = 'coco_30k', 30_000
  config.sample.steps = 50
  config.sample.guidance = 9.0 if is_second else 7.5
  return common.complete_ldm(config, 'kl_f8', variant['debug'])
