r"""Frido on Visual Genome, 256 px: layout or scene graph to image.

arXiv:2208.13753; davidhalladay/Frido: configs/frido/{layout2i/frido_f8f4_vg,
sg2i/frido_f16f8_vg}.yaml. Published FID on the val split of google/sg2im
(davidhalladay/Frido: README.md, DDIM with eta 1): layout 17.24 (250 steps a
scale, fine-tuned from the layout model of COCO), scene graph 31.61 (200 steps).
Nothing is measured here.

  python -m pyramid_jax.main --config=configs/frido_visual_genome.py:layout \
      --config.data.root=VG --workdir=DIR

docs/data.md says how the files lie. The first stage is trained in
DIR/first_stage, on the same images, unless config.first_stage.checkpoint names
one; the published one is that of Open Images.

Variants:
  layout (default), scene_graph: the condition.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


TASKS = ('layout', 'scene_graph')
OBJECTS = 30  # The most of an image, by the filters of google/sg2im.
LABELS = 179  # These include '__image__'.


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, task=TASKS, debug=False)
  task = variant['task']
  debug = ',debug' if variant['debug'] else ''
  coco = config_lib.sibling(__file__, 'frido_coco')
  config = coco.get_config(f'{task}{debug}')
  config.name = f'frido_visual_genome_{task}'
  first = config_lib.sibling(__file__, 'msvqgan_openimages')
  scales = 'f8f4' if task == 'layout' else 'f16f8'
  config_lib.add_first_stage(config, first.get_config(f'{scales}{debug}'))
  for data in (config.data, config.first_stage.data):
    data.name = 'visual_genome'
    data.category_file = ''
    data.ids_file = ''
    data.min_area = 1e-5
    data.min_objects, data.max_objects_image = 0, 90
    data.eval_min_objects, data.eval_max_objects = 0, 90
  config.data.crop = 'random-1d'
  config.data.max_objects = OBJECTS
  config.condition.any_predicate = task == 'scene_graph'
  if task == 'layout':
    config.data.min_objects, config.data.max_objects_image = 2, OBJECTS
    config.data.eval_min_objects = 2
    config.data.eval_max_objects = OBJECTS
    config.condition.max_objects = OBJECTS
    config.condition.shift = LABELS
    config.sample.steps = 250
  return config
