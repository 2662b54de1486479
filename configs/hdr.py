r"""From low to high dynamic range, for panoramas of LaDM.

The report on LaDM (arXiv:2411.07126) makes panoramas of high dynamic range with
a network of which nothing is published. This one is our own and not measured:
pyramid_jax/systems/hdr.py says what it learns.

  python -m pyramid_jax.main --config=configs/hdr.py --config.data.root=HDRS \
      --workdir=DIR
  python -m pyramid_jax.commands.panorama --workdir=LADM --hdr=DIR \
      --prompt='...' --output=FILE.png

HDRS is a folder of .hdr or .npy files, with its images in train/ and val/, or
one for both (docs/data.md).

Variants:
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(arg, debug=False)
  config = config_lib.base('hdr')
  config.name = 'hdr'
  config.network = ConfigDict(
    {
      'model_channels': 32,
      'channel_mult': (1, 2, 4, 4),
      'num_res_blocks': 1,
      'attention_resolutions': (),
      'num_heads': 4,
    }
  )
  config.data.name = 'hdr'
  config.data.image_size = 256
  config.data.crop, config.data.flip = 'random-2d', True
  config.ema.decay = 0.999
  config.train.steps = 50_000
  config.train.batch_size = 16
  config.train.learning_rate = 2e-4
  config.train.warmup_steps = 500
  config.train.checkpoint_every = config.train.sample_every = 2500
  config.train.eval_every = 2500
  config.evaluate.count = 100
  if variant['debug']:
    common.shrink(config, {'train.warmup_steps': 2, 'evaluate.count': 2})
    config.network.channel_mult = (1, 2)
  return config
