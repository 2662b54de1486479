r"""LDM-1 to LDM-8 on `shapes`, 32 px: figure 6 of LDM in miniature.

How much compression suits diffusion (arXiv:2112.10752, section 4.1): U-Nets of
about the same size diffuse images (ldm1), or latents whose sides are 2, 4 or 8
times shorter. An image has one object (level 0), and its class is the
condition. For two CPU cores; needs no data. Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/ldm_compression_shapes.py:ldm4 \
      --workdir=DIR

The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  ldm4 (default), ldm1, ldm2, ldm8: the factor of the first stage.
  debug: the smallest sizes.
"""

import dataclasses

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The values in which the models differ.

  Attributes:
    channels: the width of the U-Net.
    mult: the channel factors of its levels, finest first.
    attention: the factors of the levels that attend, of 8 and fewer cells a
      side.
    steps: the number of updates, which take about the same processor time.
  """

  channels: int
  mult: tuple[int, ...]
  attention: tuple[int, ...]
  steps: int


MODELS = {
  1: Model(channels=32, mult=(1, 1, 2, 2), attention=(4, 8), steps=850),
  2: Model(channels=32, mult=(1, 2, 2), attention=(2, 4), steps=1250),
  4: Model(channels=64, mult=(1, 1), attention=(1, 2), steps=1200),
  8: Model(channels=64, mult=(1, 1), attention=(1, 2), steps=1700),
}


FIRST_STAGE_STEPS = 1200
EVALUATIONS = 5  # The number of those in training.

# The sizes of `debug`; see `common.shrink`.
SMALL = {
  'network.channel_mult': (1, 1),
  'network.attention_resolutions': (2,),
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  names = ('ldm4', *(f'ldm{f}' for f in MODELS if f != 4))
  variant = config_lib.parse_variants(arg, model=names, debug=False)
  factor = int(variant['model'].removeprefix('ldm'))
  model = MODELS[factor]
  config = config_lib.sibling(__file__, 'ldm_shapes').get_config('class')
  config.name = f'ldm_compression_shapes_{variant["model"]}'
  config.network.model_channels = model.channels
  config.network.channel_mult = model.mult
  config.network.num_res_blocks = 1
  config.network.attention_resolutions = model.attention
  # The rate is constant, so that a run is comparable at all times.
  config.train.steps, config.train.decay_steps = model.steps, 0
  every = model.steps // EVALUATIONS
  config.train.eval_every = config.train.checkpoint_every = every
  config.train.sample_every = 0
  config.ema.decay = 0.998
  config.sample.guidance, config.sample.steps = 1.0, 20
  if factor == 1:
    del config.first_stage
  else:
    config_lib.add_first_stage(config, _first_stage(factor, variant['debug']))
  if variant['debug']:
    common.shrink(config, {**common.SMALL_ENCODER, **SMALL})
  return config


def _first_stage(factor: int, debug: bool) -> ConfigDict:
  """Returns the first stage of a factor, shorter and without discriminator."""
  module = config_lib.sibling(__file__, 'ldm_autoencoder_shapes')
  names = f'kl,f{factor},debug' if debug else f'kl,f{factor}'
  config = module.get_config(names)
  if not debug:
    config.train.steps = config.train.decay_steps = FIRST_STAGE_STEPS
    config.train.checkpoint_every = FIRST_STAGE_STEPS
  config.train.sample_every = 0
  config.loss.disc_weight = 0.0
  return config
