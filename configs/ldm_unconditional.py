r"""Unconditional LDM, 256 px: faces, bedrooms, churches.

arXiv:2112.10752, tables 1 and 12; CompVis/latent-diffusion: models/ldm/
{celeba256,ffhq256,lsun_beds256,lsun_churches256}/config.yaml. Published FID:
celebahq 5.11 (500 DDIM steps), ffhq 4.98 (200, eta 1), lsun_bedrooms 2.95 (200,
eta 1), lsun_churches 4.02 (200). Training took 14 to 60 days of one V100
(table 18); nothing is measured here. The U-Nets have 274 M and 295 M
parameters. The learning rate is that of the released config times its batch
size.

  python -m pyramid_jax.main --config=configs/ldm_unconditional.py:ffhq \
      --config.data.root=FFHQ --workdir=DIR

Reads the official files (docs/data.md): faces without mirroring, resized as
OpenCV does, 25,000 and 5,000 of CelebA-HQ, 60,000 and 10,000 of FFHQ; scenes as
middle squares, resized by Pillow's bicubic filter and mirrored. Any folder of
images takes --config.data.name=image_folder, --config.data.ids_file= and
--config.data.eval_ids_file=. The first stage is trained in DIR/first_stage
unless config.first_stage.checkpoint names one.

Variants:
  celebahq (default), ffhq, lsun_bedrooms, lsun_churches: the model.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


MODELS = ('celebahq', 'ffhq', 'lsun_bedrooms', 'lsun_churches')
STEPS = {
  'celebahq': 410_000,
  'ffhq': 635_000,
  'lsun_bedrooms': 1_900_000,
  'lsun_churches': 500_000,
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, model=MODELS, debug=False)
  model = variant['model']
  churches = model == 'lsun_churches'
  config = common.ldm(f'ldm_unconditional_{model}')
  if churches:
    config.network = ConfigDict(
      {
        'model_channels': 192,
        'channel_mult': (1, 2, 2, 4, 4),
        'num_res_blocks': 2,
        'attention_resolutions': (1, 2, 4, 8),
        'num_heads': 8,
        'use_scale_shift_norm': True,
        'resblock_updown': True,
      }
    )
    config.diffusion.linear_end = 0.0155
    config.diffusion.loss_type = 'l1'
    config.diffusion.scale_by_std = True
    config.train.batch_size = 96
    config.train.learning_rate = 5e-5
    config.train.warmup_steps = 10_000
  else:
    config.network = ConfigDict(
      {
        'model_channels': 224,
        'channel_mult': (1, 2, 3, 4),
        'num_res_blocks': 2,
        'attention_resolutions': (8, 4, 2),
        'num_head_channels': 32,
      }
    )
    config.train.batch_size = 42 if model == 'ffhq' else 48
    config.train.learning_rate = 2e-6 * config.train.batch_size
  config.train.steps = STEPS[model]
  if model.startswith('lsun'):
    config.data.name = 'lsun'
    config.data.crop = config.data.eval_crop = 'square'
    config.data.resize = 'bicubic'
    config.data.flip = True
  else:
    config.data.name = model
    config.data.crop = 'center'
    config.data.resize = 'linear'
    config.data.ids_file = f'{model}train'
    config.data.eval_ids_file = f'{model}validation'
  config.sample.steps = 500 if model == 'celebahq' else 200
  config.sample.eta = float(model in ('ffhq', 'lsun_bedrooms'))
  config.evaluate.protocol, config.evaluate.count = 'ldm_uncond', 50_000
  return common.complete_ldm(
    config, 'kl_f8' if churches else 'vq_f4', variant['debug']
  )
