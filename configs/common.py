"""Functions that several configs share; this module itself is not a config.

Configs load it by `config_lib.sibling(__file__, 'common')`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


# Training images of EDM, repetitions counted.
EDM_IMAGES = 200_000_000
EDM_WARMUP_IMAGES = 10_000_000

# The sizes of a condition encoder in a `debug` variant.
SMALL_ENCODER = {
  'condition.dim': 32,
  'condition.depth': 1,
  'condition.heads': 2,
  'condition.head_dim': 16,
}
# The sizes of a U-Net in a `debug` variant.
SMALL_UNET = {
  'network.model_channels': 32,
  'network.channel_mult': (1, 2),
  'network.num_res_blocks': 1,
  'network.attention_resolutions': (2,),
}


def shrink(config: ConfigDict, changes: Mapping[str, Any]) -> None:
  """Sets the smallest sizes that run the same code, for the variant `debug`.

  A run then trains six steps of two images of 32 px, does every periodic action
  at least once, and samples and scores a few images.

  Args:
    config: unlocked, changed in place. The discriminator of an autoencoder is
      made smaller, too.
    changes: {'network.width': 16, ...}, the fields that are set in addition.
  """
  is_autoencoder = config.system.name == 'autoencoder'
  scored = 8 if config.data.name == 'shapes' else 2
  values: dict[str, Any] = {
    'data.image_size': 32,
    'train.steps': 6,
    'train.batch_size': 2,
    'train.log_every': 1,
    'train.checkpoint_every': 3,
    'train.sample_every': 3,
    'train.eval_every': 3 if config.train.eval_every else 0,
    'evaluate.count': scored,
    'evaluate.batch_size': scored,
  }
  if is_autoencoder:
    values |= {
      'loss.perceptual': 'pyramid',
      'loss.disc_width': 8,
      'loss.disc_start': 2,
    }
  else:
    values |= {'sample.count': 2, 'sample.batch_size': 2}
    if 'steps' in config.sample:
      values['sample.steps'] = 4
  config.update_from_flattened_dict({**values, **changes})


def recast(config: ConfigDict, system: str) -> ConfigDict:
  """Returns the config of another system, with the values of shared fields.

  Args:
    config: a config of any system. Its network and its first stage are copied.
    system: the other system, a key of `pyramid_jax.systems.SYSTEMS`.
  """
  other = config_lib.base(system)
  for name, section in config.items():
    if name == 'system':
      continue
    is_whole = name in ('network', 'first_stage')
    if is_whole or not isinstance(section, ConfigDict):
      other[name] = section
    elif name in other:
      known = {k: v for k, v in section.items() if k in other[name]}
      other[name].update(known)
  return other


def predictor(base: ConfigDict) -> ConfigDict:
  """Returns the config of an edge predictor on a trained base.

  The optimizer is Adam, and the first stage is read from the base's run.

  Args:
    base: the config of the base, whose data, condition and sampling are copied.
  """
  config = recast(base, 'sketch')
  config.network = ConfigDict()
  if 'first_stage' in config:
    del config.first_stage
  config.optimizer = config_lib.base('sketch').optimizer
  return config


def classifier(base: ConfigDict) -> ConfigDict:
  """Returns the config of a classifier of the latents of a trained base.

  The network is not set.

  Args:
    base: the config of the base, whose data, condition and noise are copied.
  """
  config = recast(base, 'classifier')
  config.classifier.space = 'latents'
  config.network = ConfigDict()
  if 'first_stage' in config:
    del config.first_stage
  config.optimizer = config_lib.base('classifier').optimizer
  config.ema = config_lib.base('classifier').ema
  config.ema.decay = 0.0
  config.condition.cond_dropout = 0.0
  return config


def adm_levels(size: int) -> dict[str, Any]:
  """Returns what networks of ADM have in common at so many pixels."""
  levels = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
  }
  return {
    'channel_mult': levels[size],
    'attention_resolutions': tuple(size // side for side in (32, 16, 8)),
    'use_scale_shift_norm': True,
    'resblock_updown': True,
  }


def adm_data(config: ConfigDict, size: int) -> None:
  """Sets the images and the noise of ADM on ImageNet, in place."""
  config.data.name = 'imagenet'
  config.data.image_size = size
  config.data.crop = config.data.eval_crop = 'adm'
  config.data.flip = True
  d = config.diffusion
  d.beta_schedule = 'cosine' if size == 64 else 'linear'
  d.linear_start, d.linear_end = 1e-4, 0.02


def shrink_adm(config: ConfigDict) -> None:
  """Sets the smallest sizes of a network of ADM, for `debug`; see `shrink`."""
  changes = {
    'dtype': 'float32',
    **SMALL_UNET,
  }
  if 'num_head_channels' in config.network:
    changes['network.num_head_channels'] = 16
  if config.train.decay_steps:
    changes['train.decay_steps'] = 6
  shrink(config, changes)


def ldm(name: str) -> ConfigDict:
  """Returns the values that the published configs of LDM share.

  Args:
    name: the name of the experiment.
  """
  config = config_lib.base('ldm')
  config.name = name
  config.diffusion.linear_start = 0.0015
  config.diffusion.linear_end = 0.0195
  config.diffusion.loss_type = 'l2'
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.01
  config.train.log_every = 50
  config.train.checkpoint_every = 5000
  config.train.sample_every = 10000
  config.data.name = 'image_folder'
  config.data.image_size = 256
  config.data.crop = 'random-1d'
  config.sample.steps = 200
  config.sample.to_uint8 = 'truncate'
  return config


def frido(name: str) -> ConfigDict:
  """Returns the values that the published configs of Frido share.

  Args:
    name: the name of the experiment.
  """
  config = config_lib.base('frido')
  config.name = name
  config.network = ConfigDict(
    {
      'model_channels': 192,
      'channel_mult': (1, 2, 3, 5),
      'num_res_blocks': 2,
      'attention_resolutions': (8, 4, 2),
      'num_head_channels': 32,  # With `legacy` there is one head anyway.
      'use_spatial_transformer': True,
      'transformer_depth': 1,
      'legacy': True,
      'use_spade_norm': True,
    }
  )
  config.optimizer.name = 'adamw'
  config.optimizer.weight_decay = 0.01
  config.train.learning_rate = 1e-6
  config.train.steps = 1_000_000
  config.train.log_every = 50
  config.train.checkpoint_every = 5000
  config.train.sample_every = 10000
  config.sample.steps, config.sample.eta = 200, 1.0
  config.sample.to_uint8 = 'truncate'
  config.data.image_size = 256
  return config


def edm(name: str, batch_size: int) -> ConfigDict:
  """Returns the values that EDM trains and samples all its networks with.

  NVlabs/edm: train.py and training/training_loop.py.

  Args:
    name: the name of the experiment.
    batch_size: the number of images of a training step.
  """
  config = config_lib.base('diffit')
  config.name = name
  config.diffusion.preconditioning = 'edm'
  config.diffusion.sigma_data = 0.5
  config.optimizer.nan_to_zero = True
  config.ema.halflife_images = 500_000.0
  config.ema.halflife_rampup = 0.05
  config.train.batch_size = batch_size
  config.train.steps = EDM_IMAGES // batch_size
  config.train.warmup_steps = EDM_WARMUP_IMAGES // batch_size
  config.train.log_every = 50
  config.train.checkpoint_every = 2500
  config.train.sample_every = 10_000
  config.data.crop = 'center'  # The augmentation shifts and mirrors images.
  config.sample.solver = 'heun'
  config.sample.batch_size = 64
  config.evaluate.protocol, config.evaluate.count = 'edm', 50_000
  config.sample.to_uint8 = 'half_up'
  return config


def attending_unet(**changes: Any) -> ConfigDict:
  """Returns the U-Net of LDM with cross-attention, with some changes."""
  return ConfigDict(
    {
      'model_channels': 192,
      'channel_mult': (1, 2, 3, 5),
      'num_res_blocks': 2,
      'attention_resolutions': (8, 4, 2),
      'use_spatial_transformer': True,
      'transformer_depth': 1,
      **changes,
    }
  )


def complete_ldm(
  config: ConfigDict, first_stage: str, debug: bool
) -> ConfigDict:
  """Adds the first stage, and sets the smallest sizes for `debug`.

  Args:
    config: the config of the second stage.
    first_stage: a variant of ldm_autoencoder.py; empty for none.
    debug: whether both stages get the smallest sizes.
  """
  if first_stage:
    first = config_lib.sibling(__file__, 'ldm_autoencoder')
    arg = f'{first_stage},debug' if debug else first_stage
    config_lib.add_first_stage(config, first.get_config(arg))
    config.first_stage.data.name = config.data.name
  if not debug:
    return config
  changes = {**SMALL_ENCODER, **SMALL_UNET}
  if config.network.get('num_head_channels', -1) > 0:
    changes['network.num_head_channels'] = 16
  if 'transformer_depth' in config.network:
    changes['network.transformer_depth'] = 1
  shrink(config, changes)
  return config
