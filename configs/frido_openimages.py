r"""Frido on Open Images, 256 px: layout to image.

arXiv:2208.13753; davidhalladay/Frido: configs/frido/layout2i/
frido_f8f4_openimage.yaml. Published FID on 2,048 images (davidhalladay/Frido:
README.md, 200 DDIM steps a scale, eta 1): 29.04. Nothing is measured here.

There is no reader of Open Images: the boxes are those of COCO 2017, whose
categories have the numbers of Open Images; those that it lacks are left out.

  python -m pyramid_jax.main --config=configs/frido_openimages.py \
      --config.data.root=COCO/2017 --workdir=DIR

The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, debug=False)
  coco = config_lib.sibling(__file__, 'frido_coco')
  config = coco.get_config('layout,debug' if variant['debug'] else 'layout')
  config.name = 'frido_openimages'
  config.train.batch_size = 2
  config.condition.max_objects = config.data.max_objects = 30
  config.condition.no_tokens = 8192
  config.data.unlisted_categories = 'drop'
  config.data.crop = 'random-1d'
  config.data.min_area = 1e-5
  config.data.min_objects, config.data.max_objects_image = 2, 30
  config.data.eval_min_objects, config.data.eval_max_objects = 2, 30
  return config
