"""The COCO configs on small files in the official formats."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import systems
from pyramid_jax.data import batches
from pyramid_jax.distributed import mesh
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import loop as train
from tests.helpers import configs


CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'frido_coco.py'
IMAGES = 4
NAMES = {2014: 'COCO_{split}2014_{id:012d}.jpg', 2017: '{id:012d}.jpg'}


def write_coco(root, year):
  """Writes `IMAGES` images a split with things, stuff and captions."""
  (root / 'annotations').mkdir(parents=True)
  rng = np.random.default_rng(0)
  for offset, split in enumerate(('train', 'val')):
    (root / f'{split}{year}').mkdir()
    images, things, stuff, captions = [], [], [], []
    for i in range(IMAGES):
      number = 1 + i + IMAGES * offset
      name = NAMES[year].format(split=split, id=number)
      pixels = rng.integers(0, 255, (40, 48, 3), np.uint8)
      Image.fromarray(pixels).save(root / f'{split}{year}' / name)
      images.append(
        {'id': number, 'file_name': name, 'width': 48, 'height': 40}
      )
      for k, box in enumerate(
        [[2, 2, 20, 18], [24, 8, 20, 24], [8, 22, 16, 14]]
      ):
        things.append(annotation(10 * number + k, number, 1 + k % 2, box))
      stuff.append(annotation(10 * number, number, 92, [0, 20, 48, 20]))
      captions.append(
        {'id': number, 'image_id': number, 'caption': 'A dog near a kite.'}
      )
    contents = {
      'instances': {'annotations': things, 'categories': categories(1, 2)},
      'stuff': {'annotations': stuff, 'categories': categories(92)},
      'captions': {'annotations': captions},
    }
    for kind, content in contents.items():
      file = root / 'annotations' / f'{kind}_{split}{year}.json'
      file.write_text(json.dumps({'images': images, **content}))


def annotation(number, image, category, box):
  x, y, w, h = box
  return {
    'id': number,
    'image_id': image,
    'category_id': category,
    'bbox': box,
    'area': w * h,
    'iscrowd': 0,
    'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
  }


def categories(*ids):
  return [{'id': i, 'name': f'thing {i}', 'supercategory': 'a'} for i in ids]


def write_vocabulary(path):
  words = ['[PAD]', *(f'[unused{i}]' for i in range(99)), '[UNK]', '[CLS]']
  words += ['[SEP]', '[MASK]', 'a', 'dog', 'near', 'kite', 'thing', '1', '2']
  path.write_text('\n'.join(words))


def load(tmp_path, variant):
  year = 2014 if variant == 'text' else 2017
  root = tmp_path / 'coco' / str(year)
  if not root.exists():
    write_coco(root, year)
    write_vocabulary(tmp_path / 'vocab.txt')
    (root / 'annotations' / 'deprecated-challenge2017').mkdir()
    for split, first in (('train', 1), ('val', 1 + IMAGES)):
      ids = '\n'.join(f'{first + i:012d}' for i in range(IMAGES))
      folder = root / 'annotations' / 'deprecated-challenge2017'
      (folder / f'{split}-ids.txt').write_text(ids)
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


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_both_stages_train_on_coco_files(tmp_path):
  config = load(tmp_path, 'layout')
  one_grid = {'network.channel_mult': 1, 'network.attention_resolutions': 1}
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
