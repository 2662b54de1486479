r"""Sketch guidance of text-to-image LDM, 256 px: a predictor on its U-Net.

arXiv:2211.13752: nine activations, four hidden layers, Adam, 3000 steps of 16
images of ImageNet with the names of their classes as captions, less than an
hour on one A100. The learning rate is not published; 1e-4 is that of public
ports. For a base of the size of Stable Diffusion v1 the predictor reads 9280
channels and has 4.9 M parameters. Edges are those of PiDiNet, as in the paper,
where config.sketch.edge_weights names its published weights, converted, and
else Sobel's. This config was not run.

  python -m pyramid_jax.main --config=configs/sketch_ldm.py:v1,imagenet \
      --config.sketch.base=BASE --config.data.root=IMAGENET --workdir=DIR \
      --config.sketch.edge_weights=PIDINET.npz

BASE is a run of configs/ldm_text.py or, of v1, v2_base and v2, of
configs/stable_diffusion.py of the same variant, trained or converted from
published weights; a folder of Stable Diffusion in the layout of diffusers
serves, too.

Variants:
  small (default), 1p4b, v1, v2_base, v2: the base.
  captioned (default): a folder of images with captions.jsonl.
  imagenet: the data of the paper, by their names of classes. A few thousand
    images were enough there: config.data.ids_file may list them.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the predictor."""
  variant = config_lib.parse_variants(
    arg,
    size=('small', '1p4b', 'v1', 'v2_base', 'v2'),
    data=('captioned', 'imagenet'),
    debug=False,
  )
  names = [variant['size'], *(['debug'] if variant['debug'] else [])]
  is_stable = variant['size'].startswith('v')
  file = 'stable_diffusion' if is_stable else 'ldm_text'
  base = config_lib.sibling(__file__, file).get_config(','.join(names))
  config = common.predictor(base)
  config.name = f'sketch_ldm_{variant["size"]}'
  config.sketch.edges = 'auto'
  if variant['data'] == 'imagenet':
    config.name += '_imagenet'
    config.data.name = 'imagenet'
    config.data.crop = 'center'  # Not published.
  config.train.learning_rate = 1e-4
  config.train.batch_size = 16
  config.train.steps = 3000
  config.train.checkpoint_every = config.train.sample_every = 500
  config.train.eval_every = 500
  config.sample.solver, config.sample.steps = 'ddim', 50
  config.sample.guidance = 8.0
  if variant['debug']:
    common.shrink(
      config,
      {
        'sketch.features': ('in1', 'mid1', 'out1'),
        'sketch.hidden': (32, 16),
      },
    )
  return config
