r"""The classifiers of noisy ImageNet that guide ADM, 64 to 512 px.

arXiv:2105.05233, section 4 and table 12; openai/guided-diffusion: README.md,
guided_diffusion/script_util.py, scripts/classifier_train.py. The README has the
flags of 128 px; what differs at other sizes is cited from memory of the paper.
Nothing is measured here. The networks have 65 M, 43 M, 54 M and 54 M
parameters.

  python -m pyramid_jax.main --config=configs/adm_classifier.py:256 \
      --config.data.root=IMAGENET --workdir=DIR
  python -m pyramid_jax.commands.convert --family=classifier \
      --config=configs/adm_classifier.py:256 \
      --checkpoint=256x256_classifier.pt --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=ADM --classifier=DIR

Variants:
  256 (default), 64, 128, 512: pixels.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# Pixels: (batch, steps, learning rate, weight decay) of training.
SIZES = {
  '64': (1024, 300_000, 6e-4, 0.2),
  '128': (256, 300_000, 3e-4, 0.05),
  '256': (256, 500_000, 3e-4, 0.05),
  '512': (256, 500_000, 3e-4, 0.05),
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg, size=('256', '64', '128', '512'), debug=False
  )
  size = variant['size']
  batch, steps, rate, decay = SIZES[size]
  config = config_lib.base('classifier')
  config.name = f'adm_classifier_{size}'
  config.dtype = 'bfloat16'
  config.network = ConfigDict(
    {
      'model_channels': 128,
      'num_res_blocks': 4 if size == '64' else 2,
      **common.adm_levels(int(size)),
      'num_head_channels': 64,
      'pool': 'attention',
    }
  )
  common.adm_data(config, int(size))
  config.data.crop = 'adm-random'
  config.condition.task, config.condition.num_classes = 'class', 1000
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = decay
  config.ema.decay = 0.0
  config.train.batch_size, config.train.steps = batch, steps
  config.train.learning_rate = rate
  config.train.decay, config.train.decay_steps = 'linear', steps
  config.train.log_every = 50
  config.train.checkpoint_every = config.train.eval_every = 10_000
  config.train.sample_every = 100_000
  config.evaluate.count, config.evaluate.batch_size = 50_000, 64
  if variant['debug']:
    common.shrink_adm(config)
  return config
