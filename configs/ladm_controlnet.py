r"""LaDM with a ControlNet: text and a map to image at 256 px.

arXiv:2411.07126 shows control by edges, depth and inpainting, with a weight;
the branch is attached as in arXiv:2302.05543. All numbers are our own choices,
and nothing is measured.

  python -m pyramid_jax.main --config=configs/ladm_controlnet.py:edges \
      --config.control.base=BASE --config.data.root=CAPTIONED --workdir=DIR
  python -m pyramid_jax.main --mode=sample --workdir=DIR --prompt='...' \
      --sketch=FILE.png --config.control.weight=0.8

BASE is a run of configs/ladm_text.py:256, whose weights stay as they are. The
data and the files of the text encoder are set as for that config.

Variants:
  edges (default): Canny edges of the images.
  depth: a grey map of each image, NAME.map.png in its folder.
  inpaint: holes that are drawn in training.
  debug: the smallest sizes.
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
    config.condition.map_classes = 256  # The number of grey values.
  if not variant['debug']:
    config.train.learning_rate = 1e-5
    config.train.steps = 100_000
  return config
