r"""Frido on Open Images, 256 px: layout to image.

arXiv:2208.13753; davidhalladay/Frido: configs/frido/layout2i/
frido_f8f4_openimage.yaml. Published FID on 2,048 images (davidhalladay/Frido:
README.md, 200 DDIM steps a scale, eta 1): 29.04. Nothing is measured here.

  python -m pyramid_jax.main --config=configs/frido_openimages.py \
      --config.data.root=OPENIMAGES --workdir=DIR

docs/data.md says how the files lie. The published score is that of the images
whose ids are in frido/data/image_ids_layout2i_oi_2048.txt of that repository,
which config.data.eval_ids_file has to name.

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
  debug = ',debug' if variant['debug'] else ''
  coco = config_lib.sibling(__file__, 'frido_coco')
  config = coco.get_config(f'layout{debug}')
  config.name = 'frido_openimages'
  config.train.batch_size = 2
  config.condition.max_objects = config.data.max_objects = 30
  config.condition.no_tokens = 8192
  config.data.name = 'openimages'
  config.data.unlisted_categories = 'drop'
  config.data.crop = 'random-1d'
  first = config_lib.sibling(__file__, 'msvqgan_openimages')
  config_lib.add_first_stage(config, first.get_config(f'f8f4{debug}'))
  # Both stages see the images with boxes.
  config.first_stage.data.name = 'openimages'
  for data in (config.data, config.first_stage.data):
    data.min_area = 1e-5
    data.min_objects, data.max_objects_image = 2, 30
    data.eval_min_objects, data.eval_max_objects = 2, 30
  return config
