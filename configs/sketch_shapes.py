r"""Sketch guidance on `shapes`, 32 px: an edge predictor on a trained base.

A small arXiv:2211.13752: the predictor reads the activations of a trained
system of configs/{ldm,frido,diffit_latent,ladm,ladm_latent}_shapes.py. Needs no
data, only that run. Measured results: docs/results.md.

  python -m pyramid_jax.main --config=configs/sketch_shapes.py:ldm \
      --config.sketch.base=BASE --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=BASE \
      --config.sketch.predictor=DIR --sketch=FILE.png --prompt='a red circle'
  python -m pyramid_jax.main --mode=evaluate --workdir=BASE \
      --config.sketch.predictor=DIR

pyramid_jax/systems/sketch/fields.py says what the fields of sketch.* mean.

Variants:
  ldm (default), ladm, lapdit (Laplacian latent DiffiT), frido, diffit (latent
    DiffiT): the system of BASE.
  usual (default: class for the two transformers, text for the others), text,
    layout, class: the condition of BASE.
  pixels: the pixels of the edge map are predicted, for a first stage that
    cannot reconstruct lines.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


# Base: (its config, the usual variant, the activations that are read).
BASES = {
  'ldm': (
    'ldm_shapes',
    'text',
    ('in1', 'in2', 'in4', 'in5', 'mid1', 'out1', 'out2', 'out4', 'out5'),
  ),
  'ladm': (
    'ladm_shapes',
    'text',
    ('in1', 'in2', 'in4', 'in5', 'mid1', 'out1', 'out2', 'out4', 'out5'),
  ),
  'lapdit': (
    'ladm_latent_shapes',
    'class',
    ('block1', 'block2', 'block3', 'block4', 'block5', 'block6'),
  ),
  'frido': (
    'frido_shapes',
    'text',
    ('in0', 'in1', 'in3', 'mid0', 'mid1', 'mid2', 'out1', 'out2', 'out3'),
  ),
  'diffit': (
    'diffit_latent_shapes',
    'class',
    ('block1', 'block2', 'block3', 'block4', 'block5', 'block6'),
  ),
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the predictor."""
  variant = config_lib.parse_variants(
    arg,
    base=tuple(BASES),
    task=('usual', 'text', 'layout', 'class'),
    pixels=False,
    debug=False,
  )
  name = variant['base']
  file, task, features = BASES[name]
  if variant['task'] != 'usual':
    task = variant['task']
  names = [task, *(['debug'] if variant['debug'] else [])]
  base = config_lib.sibling(__file__, file).get_config(','.join(names))
  config = common.predictor(base)
  config.name = f'sketch_shapes_{name}'
  config.data.maps = ('edges',)
  config.sketch.features = features
  config.sketch.target_space = 'pixels' if variant['pixels'] else 'latent'

  config.train.learning_rate = 1e-3
  config.train.warmup_steps = 100
  config.train.steps = config.train.decay_steps = 3000
  config.train.batch_size = 16
  config.train.log_every = 50
  config.train.checkpoint_every = config.train.sample_every = 500
  config.train.eval_every = 500
  if variant['debug']:
    has_blocks = features[0].startswith('block')
    small = ('block1', 'block2') if has_blocks else ('in1', 'mid1', 'out0')
    common.shrink(
      config,
      {
        'sketch.features': small,
        'sketch.hidden': (32, 16),
        'train.warmup_steps': 0,
        'train.decay_steps': 0,
        'sample.steps': config.sample.steps,
      },
    )
  return config
