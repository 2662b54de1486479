"""Systems of the configs that come along, and how large their networks are."""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax.networks.layers import parameters
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import configs


# What lies under an edge predictor or a classifier, by the first word of its
# variant.
BASES = {
  '': 'ldm_imagenet.py:v1',
  'debug': 'ldm_imagenet.py:v1',
  'latents': 'ldm_shapes.py:class',
  'ldm': 'ldm_shapes.py:text',
  'ladm': 'ladm_shapes.py:text',
  'lapdit': 'ladm_latent_shapes.py:class',
  'frido': 'frido_shapes.py:text',
  'diffit': 'diffit_latent_shapes.py:class',
  'small': 'ldm_text.py:small',
  '1p4b': 'ldm_text.py:1p4b',
  'v1': 'stable_diffusion.py:v1',
}


def load(name: str, folder: pathlib.Path) -> ConfigDict:
  """Returns a config of `configs`; its base is written to a folder.

  Args:
    name: as 'ldm_text.py:small,debug'.
    folder: see `give`.
  """
  config = configs.load(name)
  give(config, name, folder)
  return config


def give(config: ConfigDict, name: str, folder: pathlib.Path) -> None:
  """Names a folder with the config of the run that a system is built on.

  Args:
    config: is changed if it is of a predictor of edges or of a classifier of
      latents.
    name: as 'ldm_text.py:small,debug', of the config.
    folder: where `config.json` is written.
  """
  section = config.get(config.system.name, {})
  if 'base' not in section or section.get('space') == 'images':
    return
  words = name.partition(':')[2].split(',')
  debug = ',debug' if 'debug' in words else ''
  base = configs.load(f'{BASES[words[0]]}{debug}')
  (folder / 'config.json').write_text(config_lib.to_json(base))
  configs.change(config, {f'{config.system.name}.base': folder})


def sizes(config: ConfigDict) -> Mapping[str, int]:
  """Returns the numbers of parameters of the parts of a system.

  Returns:
    {part: number} of each network that is trained and of each that is read;
    'all' is the sum of those that are trained for one loss, the generator's,
    and so is 'first_stage' of an autoencoder.
  """
  system = workdir_lib.create_system(config)
  params, _ = parameters.shapes_of(system.init, jax.random.key(0))
  trees = dict(params['generator'])
  for name, part in system.pretrained_parts().items():
    trees[name] = parameters.shapes_of(part.init, jax.random.key(0))
  if config.system.name == 'autoencoder':
    trees['first_stage'] = params['generator']
  trees['all'] = params['generator']
  return {name: count(tree) for name, tree in trees.items()}


def count(tree: Any) -> int:
  """Returns the number of values of all arrays of a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
