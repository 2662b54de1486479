r"""Frido on COCO, 256 px: text, layout, label set or scene graph to image.

arXiv:2208.13753; davidhalladay/Frido: configs/frido/*/*.yaml. Published FID
(davidhalladay/Frido: README.md, 200 DDIM steps a scale, eta 1): text 11.24,
text_clip 10.74, layout 37.14 (fine-tuned from OpenImages), label 27.65,
label_sg2im 47.39, scene graph 46.11. The U-Net has 511.7 M parameters and the
condition encoder 166.6 M, that of the releases 19.6 M more for a head that no
step reads. The reference's learning rate of 1e-6 looks like that of a
fine-tuning.

  python -m pyramid_jax.main --config=configs/frido_coco.py:layout \
      --config.data.root=COCO/2017 --workdir=DIR

The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

The batches are those of the reference; 32 rows fill at most 32 devices.

Variants:
  text (default), text_clip: COCO 2014.
  layout, label, scene_graph: COCO 2017.
  label_sg2im: label with images of 3 to 8 large objects.
  text_mini, layout_mini: text and layout sampled in 100 steps and scored on
    1,000 and 320 images (FID 64.85 and 121.23); config.data.eval_ids_file has
    to name frido/data/image_ids_{t2i,layout2i}_coco_mini.txt of that
    repository.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


TASKS = (
  *('text', 'text_clip', 'layout', 'label', 'label_sg2im', 'scene_graph'),
  *('text_mini', 'layout_mini'),
)
CLIP_START, CLIP_END = 49406, 49407


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, task=TASKS, debug=False)
  task = variant['task']
  config = common.frido(f'frido_coco_{task}')
  config.data.name = 'coco'
  config.data.max_objects = 30
  config.data.crop, config.data.eval_crop = 'random-1d', 'center'
  {
    'text': _text,
    'text_clip': _text_clip,
    'layout': _layout,
    'label': _label,
    'label_sg2im': _label_sg2im,
    'scene_graph': _scene_graph,
    'text_mini': _text_mini,
    'layout_mini': _layout_mini,
  }[task](config)

  scales = 'f8f4' if task.startswith('layout') else 'f16f8'
  debug = ',debug' if variant['debug'] else ''
  first = config_lib.sibling(__file__, 'msvqgan_coco')
  config_lib.add_first_stage(config, first.get_config(scales + debug))
  if variant['debug']:
    common.shrink(config, {**common.SMALL_ENCODER, **common.SMALL_UNET})
  # Only the 2017 edition has the stuff by which the first stage filters.
  config.first_stage.data.year = config.data.year
  config.first_stage.data.use_stuff = config.data.use_stuff
  return config


def _objects(config: ConfigDict, area: float, low: int, high: int) -> None:
  """Keeps images with low..high objects above a relative area."""
  config.data.min_area = area
  config.data.min_objects, config.data.max_objects_image = low, high
  config.data.eval_min_objects, config.data.eval_max_objects = low, high


def _text(config: ConfigDict) -> None:
  config.data.year, config.data.use_stuff = 2014, False
  _objects(config, 1e-5, 2, 30)
  config.data.eval_min_objects, config.data.eval_max_objects = 0, 90
  config.data.flip = True
  config.train.batch_size = 32
  config.condition.task = 'text'
  config.condition.max_length = 77
  config.condition.null_prefix = (101, 102)  # [CLS] and [SEP].
  config.condition.drop_full_stops = True
  config.sample.guidance = 1.5
  config.evaluate.protocol, config.evaluate.count = 'frido_t2i', 30_000


def _text_mini(config: ConfigDict) -> None:
  _text(config)
  config.sample.steps = 100
  config.evaluate.protocol, config.evaluate.count = 'frido_t2i_mini', 1000


def _text_clip(config: ConfigDict) -> None:
  _text(config)
  config.condition.encoder = 'clip'
  config.condition.vocab_size = 49408
  config.condition.dim, config.condition.depth = 768, 12
  config.condition.heads = 12
  config.condition.null_prefix = (CLIP_START, CLIP_END)
  config.condition.pad_id = CLIP_END


def _layout(config: ConfigDict) -> None:
  config.data.year = 2017
  # The published weights are fine-tuned from those of Open Images: its 601
  # categories come first, then those of COCO that it lacks.
  config.data.category_file = 'openimages'
  _objects(config, 0.02, 3, 8)
  config.data.crop, config.data.flip = 'center', True
  config.data.max_objects = 8
  config.train.batch_size = 4
  config.condition.task = 'layout'
  config.condition.max_length = 96
  config.condition.max_objects = 8
  config.condition.no_tokens = 1024
  config.condition.encode_crop = True
  config.evaluate.protocol, config.evaluate.count = 'frido_layout', 2048


def _layout_mini(config: ConfigDict) -> None:
  _layout(config)
  config.train.batch_size = 12
  config.sample.steps = 100
  config.evaluate.protocol, config.evaluate.count = 'frido_layout_mini', 320


def _label(config: ConfigDict) -> None:
  config.data.year = 2017
  _objects(config, 1e-4, 2, 30)
  config.data.eval_crop, config.data.flip = 'none', True
  config.train.batch_size = 2
  config.condition.task = 'label'
  config.condition.max_length = 77
  config.condition.max_objects = 30
  config.condition.no_tokens = 1024


def _label_sg2im(config: ConfigDict) -> None:
  _label(config)
  _objects(config, 0.05, 3, 8)
  config.data.eval_crop = 'center'
  config.data.max_objects = config.condition.max_objects = 8
  config.train.batch_size = 32


def _scene_graph(config: ConfigDict) -> None:
  config.data.year = 2017
  _objects(config, 0.02, 3, 8)
  config.data.ids_file = 'deprecated-challenge2017/train-ids.txt'
  config.data.max_objects = 8
  config.train.batch_size = 24
  config.condition.task = 'scene_graph'
  config.condition.max_length = 180
  config.condition.null_prefix = (101, 102)  # [CLS] and [SEP].
  config.condition.drop_full_stops = True
  config.sample.guidance = 1.5
  config.evaluate.protocol, config.evaluate.count = 'frido_scene_graph', 2048
