r"""DDPM++ and NCSN++ on `shapes`, 32 px, for two CPU cores; needs no data.

The U-Nets of EDM (arXiv:2206.00364), small, trained and sampled as in
diffit_shapes.py: an image has one object (level 0), and its class is the
condition. `tmsa` is table 5 of DiffiT (arXiv:2312.02139) in miniature. Measured
results of 600 steps: docs/results.md.

  python -m pyramid_jax.main --config=configs/edm_shapes.py --workdir=DIR

Variants:
  class (default), none: the condition.
  vp (default), ve: the network, DDPM++ or NCSN++.
  tmsa: attention becomes TMSA.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


# The sizes of `debug`; see `common.shrink`.
SMALL = {
  'network.model_channels': 8,
  'network.channel_mult': (1, 1),
  'train.warmup_steps': 2,
  'train.decay_steps': 6,
  'sample.steps': 3,
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg,
    task=('class', 'none'),
    network=('vp', 've'),
    tmsa=False,
    debug=False,
  )
  diffit = config_lib.sibling(__file__, 'diffit_shapes')
  cifar10 = config_lib.sibling(__file__, 'edm_cifar10')
  config = diffit.get_config(variant['task'])
  config.name = f'edm_shapes_{variant["task"]}_{variant["network"]}'
  cifar10.set_network(config, variant['network'], (1, 2, 2), 0.0)
  config.network.model_channels = 16
  config.network.num_blocks = 1
  if variant['tmsa']:
    config.name += '_tmsa'
    config.network.tmsa = True
  if variant['debug']:
    common = config_lib.sibling(__file__, 'common')
    common.shrink(config, SMALL)
  return config
