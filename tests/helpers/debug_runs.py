"""Whole runs of `debug` variants, on `shapes` in place of official files."""

import json
import pathlib

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.training import loop
from tests.helpers import config_systems
from tests.helpers import configs
from tests.helpers import documented_runs
from tests.helpers import system_weights


# Fields of official files, which `shapes` does not have.
SHAPES = {
  'data.name': 'shapes',
  'data.ids_file': '',
  'data.eval_ids_file': '',
  'data.category_file': '',
  'data.min_side': 0,
}
# Fewer steps, and no scores while training: other tests have both.
SHORT = {'train.steps': 2, 'train.sample_every': 0, 'train.eval_every': 0}
# In place of encoders whose weights do not come along.
TOKENS = {'condition.encoder': 'tokens', 'condition.pooled': False}
ENCODERS = ('clip', 't5')
CLASSES = 24  # Of `shapes`.
NOT_SAMPLED = ('autoencoder', 'classifier', 'sketch')


def config_of(name: str, folder: pathlib.Path) -> ConfigDict:
  """Returns the debug variant of a config, with a run of what is under it.

  Args:
    name: as 'ldm_text.py:small'.
    folder: for the run of the base, if the config needs one.
  """
  config = on_shapes(config_systems.load(_debug(name), folder))
  if (folder / 'config.json').exists():  # of what the system is built on
    text = (folder / 'config.json').read_text()
    _write_base(config_lib.from_json(text), folder / 'run')
    configs.change(config, {f'{config.system.name}.base': folder / 'run'})
  if config.system.name == 'sketch':  # Random weights keep no edges.
    configs.change(config, {'sketch.target_space': 'pixels'})
  if config.system.name == 'ladm_control':
    base = '1k' if name.startswith('ladm_upsampler.py') else '256'
    _write_base(configs.load(f'ladm_text.py:{base},debug'), folder / 'run')
    configs.change(config, {'control.base': folder / 'run'})
  if 'first_stage' in config and not config.first_stage.checkpoint:
    # Training first stages is the matter of the configs of autoencoders.
    system = workdir_lib.create_system(config)
    file = system_weights.write_first_stage(system, folder)
    configs.change(config, {'first_stage.checkpoint': file})
  return config


def on_shapes(config: ConfigDict) -> ConfigDict:
  """Returns the same config, changed so that it needs no files."""
  configs.change(config, SHAPES | SHORT)
  if 'first_stage' in config:
    short = {f'first_stage.{name}': value for name, value in SHORT.items()}
    configs.change(config, {'first_stage.data.name': 'shapes', **short})
  if config.condition.task == 'class':
    configs.change(config, {'condition.num_classes': CLASSES})
  if config.condition.also == 'camera':  # It is in no scene of `shapes`.
    configs.change(config, {'condition.also': ''})
  if config.condition.encoder in ENCODERS:
    configs.change(config, TOKENS)
  return config


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
  """Trains, samples and evaluates; returns the scores.

  Autoencoders, classifiers and edge predictors are not sampled.
  """
  loop.run(config, workdir)
  if config.system.name not in NOT_SAMPLED:
    sample.run(config, workdir, {})
    with np.load(workdir / 'samples' / 'samples.npz') as file:
      assert len(file['arr_0']) == config.sample.count
  evaluate.run(config, workdir, {})
  found = json.loads((workdir / 'samples' / 'scores.json').read_text())
  return {name: row['value'] for name, row in found['scores'].items()}


def _debug(name: str) -> str:
  return f'{name},debug' if ':' in name else f'{name}:debug'


def _write_base(config: ConfigDict, folder: pathlib.Path) -> None:
  config = on_shapes(config)
  labels = data.create(config, 'test').label_names
  documented_runs.write_run(folder, config, labels)
