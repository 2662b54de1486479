r"""LDM, 256 or 512 px, conditioned on boxes with their categories.

arXiv:2112.10752, tables 9 and 15; CompVis/latent-diffusion: models/ldm/
layout2img-openimages256/config.yaml. Published FID: openimages 32.02,
openimages_512 35.80, coco 42.06 (LDM-8 trained from scratch, 100 steps),
coco_tuned 40.91 (LDM-4, 200 steps). Nothing is measured here. The U-Net of
openimages has 246 M parameters and the encoder of 92 tokens 59 M.

  python -m pyramid_jax.main --config=configs/ldm_layout.py:coco \
      --config.data.root=COCO/2017 --workdir=DIR

The variant openimages reads the official files of Open Images, as docs/data.md
says: --config.data.root=OPENIMAGES. The code of the paper's data was never
released; filters and crops are those of CompVis/taming-transformers: configs/
{coco,open_images}_scene_images_transformer.yaml, with the group bit alone.
The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  openimages (default), coco: the model.
  openimages_512: openimages at 512 px. Its batch size, its learning rate and
    its steps are not published.
  coco_tuned: openimages, tuned on COCO. config.train.init_from has to name a
    run of openimages, whose 601 categories are the first; its steps are not
    published and are those of coco.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


OBJECTS = 30


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    data=('openimages', 'openimages_512', 'coco', 'coco_tuned'),
    debug=False,
  )
  name = variant['data']
  is_coco = name.startswith('coco')
  config = common.ldm(f'ldm_layout_{name}')
  config.condition.task = 'layout'
  config.condition.max_objects = OBJECTS
  config.condition.encode_crop = True
  config.condition.max_length = 3 * OBJECTS + 2
  config.condition.no_tokens = config.condition.vocab_size = 8192
  config.condition.dim, config.condition.depth = 512, 16
  config.diffusion.linear_end = 0.0205
  config.diffusion.loss_type = 'l1'

  config.data.name = 'coco' if is_coco else 'openimages'
  config.data.image_size = 512 if name == 'openimages_512' else 256
  config.data.year = 2017
  config.data.max_objects = OBJECTS
  config.data.min_area = 1e-5 if is_coco else 1e-4
  config.data.min_objects, config.data.max_objects_image = 2, OBJECTS
  config.data.eval_min_objects, config.data.eval_max_objects = 2, OBJECTS
  config.data.crop = 'random-1d' if is_coco else 'random-2d'
  config.data.flip = True
  config.evaluate.protocol, config.evaluate.count = 'ldm_layout', 2048
  if name == 'coco':
    _set_scratch(config)
  else:
    _set_openimages(config)
  if name == 'coco_tuned':
    config.train.batch_size, config.train.steps = 48, 170_000
    config.train.learning_rate = 1e-6 * 48
    config.data.unlisted_categories = 'append'
  first = 'vq_f8' if name == 'coco' else 'vq_f4'
  config = common.complete_ldm(config, first, variant['debug'])
  # The autoencoder is trained on all images, whatever objects they have.
  config.first_stage.data.year = 2017
  return config


def _set_scratch(config: ConfigDict) -> None:
  """Sets the network and the training of LDM-8 on COCO."""
  config.network = common.attending_unet(
    channel_mult=(1, 2, 4),
    attention_resolutions=(4, 2, 1),
    num_head_channels=32,
    transformer_depth=2,
    dropout=0.1,
  )
  config.train.batch_size = 48
  config.train.steps = 170_000
  config.train.learning_rate = 1e-6 * 48
  config.sample.steps = 100


def _set_openimages(config: ConfigDict) -> None:
  """Sets the network and the training of LDM-4 on Open Images."""
  # The model knows the 601 categories of Open Images and no others.
  config.data.category_file = 'openimages'
  config.data.unlisted_categories = 'drop'
  config.network = common.attending_unet(
    model_channels=128,
    channel_mult=(1, 2, 3, 4),
    num_head_channels=32,
    transformer_depth=3,
  )
  config.train.batch_size = 24
  config.train.steps = 4_400_000
  config.train.learning_rate = 2e-6 * 24
