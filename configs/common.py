"""What several configs share: the smallest sizes, LDM's common values.

It is loaded as `config_lib.sibling(__file__, 'common')` and is no config.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


# The sizes of an encoder of sequences in a smallest run.
SMALL_ENCODER = {
  'condition.dim': 32,
  'condition.depth': 1,
  'condition.heads': 2,
  'condition.head_dim': 16,
}


def shrink(config: ConfigDict, changes: Mapping[str, Any]) -> None:
  """Makes a config the smallest that runs the same code (`debug`).

  It trains six steps of two images of 32 px, does every periodic action once,
  and samples and scores a few images.

  Args:
    config: unlocked; an autoencoder's discriminator shrinks with it.
    changes: {'network.width': 16, ...}, what else is smaller, or differs.
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
    values |= {
      'sample.steps': 4,
      'sample.count': 2,
      'sample.batch_size': 2,
    }
  config.update_from_flattened_dict({**values, **changes})


def recast(config: ConfigDict, system: str) -> ConfigDict:
  """Returns a config of another system with the fields that both have.

  Args:
    config: of any system; its network and its first stage go with it.
    system: the other one, a key of `pyramid_jax.systems.SYSTEMS`.
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
  """Returns the config of an edge predictor on a base.

  Args:
    base: the config of the base, whose data, condition and sampling it has;
      the optimizer is Adam, and the first stage is read from the base's run.
  """
  config = recast(base, 'sketch')
  config.network = ConfigDict()
  if 'first_stage' in config:
    del config.first_stage
  config.optimizer = config_lib.base('sketch').optimizer
  return config


def ldm(name: str) -> ConfigDict:
  """Returns what the published configs of LDM have in common.

  Args:
    name: of the experiment.
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
  return config


def attending_unet(**changes: Any) -> ConfigDict:
  """Returns a U-Net of LDM that attends to a context, with some changes."""
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
  """Adds the first stage, and shrinks both for `debug`.

  Args:
    config: of the second stage.
    first_stage: a variant of ldm_autoencoder.py.
    debug: whether to make everything the smallest.
  """
  first = config_lib.sibling(__file__, 'ldm_autoencoder')
  arg = f'{first_stage},debug' if debug else first_stage
  config_lib.add_first_stage(config, first.get_config(arg))
  if not debug:
    return config
  changes = {
    **SMALL_ENCODER,
    'network.model_channels': 32,
    'network.channel_mult': (1, 2),
    'network.num_res_blocks': 1,
    'network.attention_resolutions': (2,),
  }
  if config.network.get('num_head_channels', -1) > 0:
    changes['network.num_head_channels'] = 16
  shrink(config, changes)
  return config
