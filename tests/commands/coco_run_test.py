"""The COCO configs on small files in the official formats."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import systems
from pyramid_jax.data import batches
from pyramid_jax.distributed import mesh
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import loop as train
from tests.helpers import coco_runs
from tests.helpers import configs


CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'frido_coco.py'


def load(tmp_path, variant):
  year = 2014 if variant == 'text' else 2017
  root = tmp_path / 'coco' / str(year)
  if not root.exists():
    coco_runs.write_coco(root, year)
    coco_runs.write_vocabulary(tmp_path / 'vocab.txt')
    coco_runs.write_ids(root)
  config = config_lib.load(f'{CONFIG}:{variant},debug')
  values = {
    'data.root': str(root),
    'condition.vocab_file': str(tmp_path / 'vocab.txt'),
  }
  config_lib.override(config, values)
  return config


@pytest.mark.parametrize('variant', ['text', 'layout', 'label', 'scene_graph'])
def test_batches_fit_the_system(tmp_path, variant):
  config = load(tmp_path, variant)
  reader = data.create(config, 'train')
  batch = batches.Batches(reader, 2, seed=0).at(0)
  finished = reader.finish(mesh.numeric(batch))
  assert finished['image'].shape == (2, 32, 32, 3)
  assert finished['image'].dtype == jnp.float32
  assert batch['condition_ids'].shape[1] <= config.condition.max_length
  system = systems.create(config)

  def loss(batch):
    params, extra = system.init(jax.random.key(0))
    frozen = {
      name: part.init(jax.random.key(1))
      for name, part in system.pretrained_parts().items()
    }
    key = jax.random.key(0)
    weights = system_lib.Weights(params, frozen, extra)
    return system.losses(weights, key, jnp.int32(0), batch)[0]

  value, _ = jax.eval_shape(loss, finished)['generator']
  assert value.shape == ()


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_both_stages_train_on_coco_files(tmp_path):
  config = load(tmp_path, 'layout')
  one_grid = {
    'network.channel_mult': 1,
    'network.attention_resolutions': (),
  }
  configs.change(config, one_grid)
  workdir = tmp_path / 'run'
  train.run(config, workdir)
  for folder in (workdir / 'first_stage', workdir):
    last = (folder / 'metrics.jsonl').read_text().splitlines()[-1]
    assert json.loads(last)['step'] == 6
    assert (folder / 'samples' / 'step_00000006.png').is_file()


def test_all_that_is_missing_is_named_in_one_line(tmp_path):
  config = config_lib.load(f'{CONFIG}:text,debug')
  config_lib.override(config, {'data.root': str(tmp_path / 'nowhere')})
  with pytest.raises(ValueError, match='missing: ') as error:
    train.run(config, tmp_path / 'run')
  line = str(error.value)
  assert '\n' not in line
  for part in ('captions_train2014.json', 'instances_val2014', 'vocab_file'):
    assert part in line
  assert not (tmp_path / 'run').exists()
