r"""LaDM: from 1024 to 4096 px, tuned from the model of 1024 px.

The report (arXiv:2411.07126) shows samples of 4096 px. As far as its text is
known here, there was too little data of that size, so that the model of 1024 px
was tuned: with noise levels that are scaled, and a ControlNet that is
conditioned on the image of 1024 px. It publishes no numbers. All of them, and
how the parts are joined, are our own; nothing is measured.

The networks are those of configs/ladm_text.py:1k, one for each stage, at four
times the resolution: stages of 1024, 2048 and 4096 px on a grid of 1024. The
same noise on a pixel hides less of an image that has four times as many pixels
along a side, so the highest level and the mean of the levels of training are
four times those of that config; the switches follow the band powers. The
branches read the image of 1024 px at the resolution of a stage, with the noise
that it has as a condition.

  python -m pyramid_jax.main --config=configs/ladm_upsampler.py \
      --config.control.base=DIR_1K --config.data.root=CAPTIONED --workdir=DIR
  python -m pyramid_jax.main --config=configs/ladm_upsampler.py:tuned \
      --config.control.base=DIR_1K --config.train.init_from=DIR \
      --config.data.root=CAPTIONED --workdir=DIR_4K
  python -m pyramid_jax.main --mode=sample --workdir=DIR_4K --prompt='...' \
      --image=FILE_1024.png

DIR_1K is a run of configs/ladm_text.py:1k; data and files of the text encoder
are set as for that config. With --upsampler=DIR_4K a run of 1024 px samples
4096 px. A batch holds 16 images, of which the last stage trains on two.

Variants:
  control (default): branches on the frozen model of 1024 px.
  tuned: the model is trained with its branches, which begin as those of a run
    of `control`.
  photos (default).
  shapes: from 64 to 128 px on `shapes`, for two CPU cores; the base is a run of
    configs/ladm_shapes.py:superres2. Not run.
  debug: the smallest sizes.
"""

import math

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# Band powers that an image of a quarter of the side leaves open, finest first.
# Those of 4096 px are a guess: from 256 to 1024 px those of ladm_text.py fall
# by 0.6, and here they do once more. Measure them (measure_bands).
BANDS = (0.031, 0.034, 0.011)
# Those that images of 64 px of `shapes` leave open in ones of 128 px
# (python -m pyramid_jax.commands.measure_bands
# --config=configs/ladm_shapes.py:superres2 --config.data.image_size=128).
SHAPES_BANDS = (0.0347, 0.0022)
# The noise at a switch over the power of the band there.
KAPPA = 12.0


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the model of 4096 px."""
  variant = config_lib.parse_variants(
    arg, phase=('control', 'tuned'), data=('photos', 'shapes'), debug=False
  )
  is_small = variant['data'] == 'shapes'
  file, size = ('ladm_shapes', 'superres2') if is_small else ('ladm_text', '1k')
  names = f'{size},debug' if variant['debug'] else size
  base = config_lib.sibling(__file__, file).get_config(names)
  config = common.recast(base, 'ladm_control')
  config.name = f'ladm_upsampler_{variant["phase"]}_{variant["data"]}'
  config.control.map = 'low_resolution'
  factor = config.data.lr_factor
  config.data.image_size *= factor
  config.evaluate.protocol = ''
  config.evaluate.count = min(1000, config.evaluate.count)
  pyramid = config.laplacian
  pyramid.sigma_max *= factor
  config.diffusion.P_mean += math.log(factor)
  pyramid.band_rms = SHAPES_BANDS if is_small else BANDS
  pyramid.switch_sigmas = tuple(
    KAPPA * 2**i * rms for i, rms in enumerate(pyramid.band_rms[:-1])
  )
  if not is_small:
    config.train.learning_rate = 1e-5
  if not (is_small or variant['debug']):
    pyramid.stage_batch, config.train.batch_size = (8, 6, 2), 16
    config.train.steps, config.train.warmup_steps = 50_000, 1000
  if variant['phase'] == 'tuned':
    config.control.train_base = True
  return config
