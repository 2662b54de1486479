r"""LaDM with a ControlNet: text and a map to image at 256 px.

arXiv:2411.07126 shows additional control by edges, depth and inpainting, with a
weight; how a branch is attached is that of arXiv:2302.05543. All numbers are
our choices, and nothing of it is measured.

  python -m pyramid_jax.main --config=configs/ladm_controlnet.py:edges \
      --config.control.base=BASE --config.data.root=CAPTIONED --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=DIR --prompt='...' \
      --sketch=FILE.png --config.control.weight=0.8

BASE is a run of configs/ladm_text.py:256, which stays as it is. Variants: edges
(default; Canny edges of the images), depth (one grey map beside every image,
NAME.map.png), inpaint (holes made in training); debug: the smallest size. Data
and files of the text encoder as of the base.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


MAPS = {'edges': 'edges', 'depth': 'mask', 'inpaint': 'inpaint_mask'}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the branches."""
  variant = config_lib.parse_variants(arg, map=tuple(MAPS), debug=False)
  base = config_lib.sibling(__file__, 'ladm_text')
  names = '256,debug' if variant['debug'] else '256'
  config = common.recast(base.get_config(names), 'ladm_control')
  config.name = f'ladm_controlnet_{variant["map"]}'
  config.control.map = variant['map']
  config.data.maps = (MAPS[variant['map']],)
  if variant['map'] == 'depth':
    config.condition.map_classes = 256  # grey values
  if not variant['debug']:
    config.train.learning_rate = 1e-5
    config.train.steps = 100_000
  return config
