r"""The classifier of noisy latents that guides LDM-8 on ImageNet (LDM-8-G).

arXiv:2112.10752, tables 3 and 10; CompVis/latent-diffusion:
ldm/models/diffusion/classifier.py: the way down of the U-Net of
configs/ldm_imagenet.py:v1 with a pool of attention. Published scores of LDM-8
with a scale of 10 (200 DDIM steps, eta 1): FID 8.11 and inception score 190.43
after 2.9 M steps of the denoiser, 7.76 and 209.52 after 4.8 M; without guidance
17.41 and 72.92. Batch, steps and learning rate of the classifier are not
published; those of configs/adm_classifier.py at 256 px stand here, with the
weight decay of the official code. Nothing is measured here.

  python -m pyramid_jax.main --config=configs/ldm_classifier.py \
      --config.classifier.base=LDM --config.data.root=IMAGENET --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=LDM --classifier=DIR \
      --classifier_scale=10 --eta=1 --label=207

LDM is a run of configs/ldm_imagenet.py:v1, trained or converted.

Variants:
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the classifier."""
  variant = config_lib.parse_variants(arg, debug=False)
  names = ['v1', *(['debug'] if variant['debug'] else [])]
  base = config_lib.sibling(__file__, 'ldm_imagenet').get_config(
    ','.join(names)
  )
  config = common.classifier(base)
  config.name = 'ldm_classifier_imagenet'
  config.network = ConfigDict(
    {
      'model_channels': 256,
      'channel_mult': (1, 2, 4),
      'num_res_blocks': 2,
      'attention_resolutions': (4, 2, 1),
      'num_head_channels': 32,
      'pool': 'attention',
    }
  )
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.01
  config.train.batch_size, config.train.steps = 256, 500_000
  config.train.learning_rate = 3e-4
  config.train.decay, config.train.decay_steps = 'linear', 500_000
  config.train.log_every = 50
  config.train.checkpoint_every = config.train.eval_every = 10_000
  config.train.sample_every = 100_000
  config.evaluate.count, config.evaluate.batch_size = 50_000, 64
  config.evaluate.protocol = ''
  if variant['debug']:
    common.shrink(
      config,
      {
        **common.SMALL_UNET,
        'network.num_head_channels': 16,
        'train.decay_steps': 6,
      },
    )
  return config
