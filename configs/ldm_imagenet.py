r"""LDM on ImageNet, 256 px, conditioned on the class.

arXiv:2112.10752, table 10; CompVis/latent-diffusion: configs/latent-diffusion/
{cin-ldm-vq-f8,cin256-v2}.yaml. Published scores: v1 (LDM-8) has FID 17.41 and
inception score 72.9 after 2.9 M steps (79 days of a V100); v2 (LDM-4) has 10.56
and 103.5 (250 DDIM steps), with guidance 1.25 3.95 and 178.2, with guidance 1.5
3.60 and 247.7 (271 days). Nothing is measured here. The U-Nets have 395 M and
401 M parameters. The released weights of v2 are not averaged; training keeps
averages.

  python -m pyramid_jax.main --config=configs/ldm_imagenet.py:v2 \
      --config.data.root=IMAGENET --workdir=DIR

Reads the official files (docs/data.md), not mirrored and resized as OpenCV
does. The first stage is trained in DIR/first_stage unless
config.first_stage.checkpoint names one.

Variants:
  v2 (default), v1: the model; v1 has no null class, so it takes no guidance.
  scale1.5 (default), scale1.25, unguided: the guidance of v2.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# The rows of tables 3 and 10 for v2.
SCALES = {'scale1.5': 1.5, 'scale1.25': 1.25, 'unguided': 1.0}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg, version=('v2', 'v1'), guidance=tuple(SCALES), debug=False
  )
  v2 = variant['version'] == 'v2'
  config = common.ldm(f'ldm_imagenet_{variant["version"]}')
  config.condition.task = 'class'
  config.condition.num_classes = 1000
  config.condition.dim = 512
  config.condition.null_class = v2
  config.data.name = 'imagenet'
  config.data.resize = 'linear'
  if v2:
    config.network = common.attending_unet(num_heads=1)
    config.condition.cond_dropout = 0.1
    config.train.batch_size = 1200
    config.train.learning_rate = 1e-4
    config.train.steps = 178_000
    config.sample.steps = 250
    config.sample.guidance = SCALES[variant['guidance']]
  else:
    config.network = common.attending_unet(
      model_channels=256,
      channel_mult=(1, 2, 4),
      attention_resolutions=(4, 2, 1),
      num_head_channels=32,
    )
    config.train.batch_size = 64
    config.train.learning_rate = 1e-6 * 64
    config.train.steps = 2_900_000
    config.sample.eta = 1.0
    config.sample.classifier_scale = 10.0
  config.evaluate.protocol, config.evaluate.count = 'adm', 50_000
  return common.complete_ldm(
    config, 'vq_f4' if v2 else 'vq_f8', variant['debug']
  )
