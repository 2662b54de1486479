"""Converted layout models: their label names, tokens and data."""

import json
import pathlib

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert
from pyramid_jax.commands import evaluate
from pyramid_jax.data import category_lists
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.interop import latent_workdir
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import coco_files
from tests.helpers import torch_writer


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
BOX = [0.5, 0.25, 1.0, 1.0]


def converted(family, name, folder):
  """Converts a release of zeros; returns config, labels and the workdir."""
  path = f'{CONFIGS}/{name},debug'
  system = systems.create(config_lib.load(path))
  _, report = latent_workdir.from_official(family, {}, system, False)
  state = {k: np.zeros(s, np.float32) for k, s in report.missing.items()}
  file = torch_writer.write_checkpoint(folder / 'model.ckpt', state)
  flags = [f'--family={family}', f'--config={path}', f'--checkpoint={file}']
  root = f'--config.data.root={folder}'
  assert convert.main([*flags, root, f'--workdir={folder}/run']) == 0
  workdir = folder / 'run'
  return (
    workdir_lib.read_config(workdir),
    workdir_lib.read_labels(workdir),
    workdir,
  )


@pytest.fixture(scope='module')
def frido(tmp_path_factory):
  folder = tmp_path_factory.mktemp('frido')
  return converted('frido', 'frido_coco.py:layout', folder)


def tokens(config, names, *labels):
  request = request_lib.Request(layout=[(label, BOX) for label in labels])
  rows = conditions.condition(request, config, names)
  return rows['condition_ids'][0].tolist()


def test_a_layout_of_frido_has_the_tokens_of_its_release(frido):
  config, names, _ = frido
  assert len(names) == 691
  # Places on a grid of 32; nothing is 1023, and the crop is the whole image.
  place = [8 * 32 + 16, 1023]
  ids = tokens(config, names, 'person', 'Suitcase', 'cow')
  assert ids[:3] == [68, *place]
  assert ids[3:6] == [600, *place]
  cow = names.index('cow')
  assert cow > 601
  assert ids[6:9] == [cow - 1, *place]
  assert ids[9:] == [1023] * 15 + [0, 1023]
  with pytest.raises(errors.UserError, match="'unicorn' is not known"):
    tokens(config, names, 'unicorn')


def test_a_layout_of_ldm_has_the_tokens_of_its_release(tmp_path):
  config, names, _ = converted('ldm', 'ldm_layout.py:openimages', tmp_path)
  assert names[1:602] == tuple(
    category_lists.read(category_lists.path_of('openimages')).values()
  )
  assert len(names) == 602
  ids = tokens(config, names, 'Person', 'Suitcase')
  # Places on a grid of 90; halves go to the even cell: 22.25 is 22, 44.5 is 44.
  assert ids[:6] == [68, 22 * 90 + 44, 8099, 600, 22 * 90 + 44, 8099]
  assert ids[6:] == [8191] * 84 + [0, 8099]


def write_coco(folder, categories):
  """Writes a split whose images have a person and a dog."""
  base = folder / 'annotations'
  picture = coco_files.image(9)
  things = [
    coco_files.thing(9, 1, [0, 0, 8, 4]),
    coco_files.thing(9, 18, [0, 0, 8, 4]),
    coco_files.thing(9, 21, [0, 0, 8, 4]),
  ]
  stuff = {i: name for i, name in categories.items() if i > 90}
  for kind, objects, names in [
    ('instances', things, categories.keys() - stuff.keys()),
    ('stuff', [], stuff.keys()),
  ]:
    named = [
      {'id': i, 'name': categories[i], 'supercategory': ''} for i in names
    ]
    coco_files.write(base / f'{kind}_val2017.json', objects, [picture], named)
  coco_files.draw_jpeg(folder / 'val2017' / picture['file_name'])


def test_splits_of_coco_have_the_numbers_of_the_release(frido, tmp_path):
  config, names, workdir = frido
  rows = category_lists.read(category_lists.path_of('coco'))
  published = {int(i): name for i, name in rows.items()}
  write_coco(tmp_path, published)
  with config.unlocked():
    config.data.root = str(tmp_path)
  reader = data.create(config, 'test')
  assert reader.label_names == names
  batch = reader.batch(np.zeros(1, int), np.zeros(1, np.uint64))
  found = sorted(names[i] for i in batch['labels'][0] if i)
  assert found == ['Dog', 'Person', 'cow']
  ids = batch['condition_ids'][0]
  assert sorted(ids[:9:3].tolist()) == sorted(
    names.index(name) - 1 for name in found
  )

  few = {i: published[i] for i in (1, 18, 21, 92)}
  write_coco(tmp_path, few)
  message = "label 602 is 'cardboard' for the model and 'cow' in the data"
  with pytest.raises(errors.UserError, match=message):
    evaluate.run(config, workdir, {})
  with config.unlocked():
    config.data.category_file = ''
  with pytest.raises(errors.UserError, match="'Tortoise' .* and 'person' in"):
    evaluate.run(config, workdir, {})


def test_labels_of_a_run_and_of_data_must_agree():
  config = config_lib.base('ldm')
  names = ('', 'cat', 'dog')
  check = reader_lib.check_labels
  config.condition.task = 'class'
  check(config, names, names)
  check(config, (), names)
  check(config, ('padding',), names)
  with pytest.raises(errors.UserError, match="label 1 is 'cat' .* and 'dog'"):
    check(config, names, ('', 'dog'))
  with pytest.raises(errors.UserError, match="2 is 'dog' .* '' .*1 labels d"):
    check(config, names, names[:2])
  config.condition.task = 'text'
  check(config, names, ('', 'dog'))


def test_texts_have_the_vocabulary_of_their_releases(frido, tmp_path):
  config = config_lib.load(f'{CONFIGS}/frido_coco.py:text_clip,debug')
  latent_workdir.name_files(config)
  assert config.condition.vocab_file == config.condition.merges_file == 'clip_l'
  config = config_lib.load(f'{CONFIGS}/ldm_text.py:small,debug')
  latent_workdir.name_files(config)
  assert config.condition.vocab_file == 'bert'
  assert config.condition.merges_file == ''
  config.condition.vocab_file = 'mine.txt'
  latent_workdir.name_files(config)
  assert config.condition.vocab_file == 'mine.txt'
  config = config_lib.load(f'{CONFIGS}/ldm_imagenet.py:v2,debug')
  latent_workdir.name_files(config)
  assert config.data.category_file == 'imagenet'
  assert json.loads((frido[2] / 'labels.json').read_text())[69] == 'Person'
