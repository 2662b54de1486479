r"""MS-VQGAN of Frido on COCO 2017, 256 px: things and stuff, 2 to 30 objects.

davidhalladay/Frido: configs/msvqgan/msvqgan_f16f8_coco.yaml. Frido released an
f8f4 model for OpenImages only; here f8f4 has the same recipe on COCO. Nothing
is measured here.

  python -m pyramid_jax.main --config=configs/msvqgan_coco.py \
      --config.data.root=COCO/2017 --workdir=DIR

Variants:
  f16f8 (default), f8f4: the downsampling factors of the two scales.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


LEARNING_RATE = 4.5e-6  # For one image; times the batch size.


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of a first stage."""
  variant = config_lib.parse_variants(
    arg, scales=('f16f8', 'f8f4'), debug=False
  )
  config = config_lib.sibling(__file__, 'msvqgan_openimages').get_config(arg)
  config.name = f'msvqgan_coco_{variant["scales"]}'

  config.data.name = 'coco'
  config.data.year = 2017
  config.data.use_stuff = True
  config.data.min_area = 1e-5
  config.data.min_objects, config.data.max_objects_image = 2, 30
  config.data.eval_min_objects, config.data.eval_max_objects = 2, 30
  config.data.max_objects = 30
  if not variant['debug']:
    config.train.batch_size = 4
    config.train.learning_rate = LEARNING_RATE * config.train.batch_size
    config.train.steps = 2_900_000  # These are 100 epochs.
  return config
