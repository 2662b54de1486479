r"""Retrieval-augmented LDM, 768 px: texts by the neighbours of images.

arXiv:2204.11824; CompVis/latent-diffusion: configs/
retrieval-augmented-diffusion/768x768.yaml and scripts/knn2img.py. The U-Net has
1335 M parameters and attends to embeddings of CLIP ViT-L/14. No score of this
size is published, and nothing is measured here. The published yaml has no batch
size, number of steps or rate of the null condition: those here are our own.

  python -m pyramid_jax.main --config=configs/ldm_retrieval.py \
      --config.data.root=IMAGES --config.condition.neighbour_index=EMBEDDINGS \
      --config.condition.neighbour_rows=TRAIN.npz \
      --config.condition.eval_neighbour_rows=VAL.npz --workdir=DIR

Trains on the embeddings of the nearest neighbours of each image, which
pyramid_jax.commands.find_neighbours finds in EMBEDDINGS (docs/data.md), and
samples texts with the weights of CLIP's text tower:

  python -m pyramid_jax.main --mode=sample --workdir=DIR --prompt=TEXT \
      --config.condition.weights=clip_l --config.condition.vocab_file=clip_l \
      --config.condition.merges_file=clip_l \
      --config.condition.prompt_neighbours=10

With prompt_neighbours = 0, as published by default, the text alone is the
condition. The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


CLIP_START, CLIP_END = 49406, 49407


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, debug=False)
  config = common.ldm('ldm_retrieval')
  config.network = common.attending_unet(
    model_channels=448,
    channel_mult=(1, 2, 3, 4),
    attention_resolutions=(4, 2, 1),
    num_head_channels=32,
  )
  config.remat = 'full'
  config.diffusion.linear_end = 0.015
  config.diffusion.scale_factor = 0.22765929
  config.data.image_size = 768

  c = config.condition
  c.task, c.encoder, c.pooled = 'retrieval', 'clip', True
  c.max_length, c.vocab_size = 77, 49408
  c.null_prefix, c.pad_id = (CLIP_START, CLIP_END), CLIP_END
  c.dim, c.depth, c.heads = 768, 12, 12
  c.neighbours = 4
  c.cond_dropout = 0.1

  config.train.batch_size = 256
  config.train.learning_rate = 1e-4
  config.train.steps = 500_000
  config.sample.steps = 50
  config.sample.guidance = 5.0
  return common.complete_ldm(config, 'kl_f16', variant['debug'])
