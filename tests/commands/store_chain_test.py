"""From images to samples with every file in a store, as on a disk."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest
from safetensors import numpy as safetensors_numpy

from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.interop import latent_checkpoint
from pyramid_jax.interop import latent_workdir
from tests.helpers import configs
from tests.helpers import folder_run
from tests.helpers import fork_server
from tests.helpers import object_server
from tests.helpers import official_fill
from tests.helpers import torch_writer


pytestmark = object_server.needs_client
STORE = f'gs://{object_server.BUCKET}/work'
CONFIG = 'ldm_imagenet.py:v2,debug'
SETTINGS = (
  f'--config={configs.FOLDER}/{CONFIG}',
  '--config.condition.num_classes=2',
  '--config.train.batch_size=4',
  '--config.train.steps=2',
  '--config.train.log_every=1',
  '--config.train.checkpoint_every=1',
  '--config.train.sample_every=0',
  '--config.train.eval_every=0',
)
# What differs in every run, or with the name of its folder.
OWN = {'checkpoints', 'logs', 'tensorboard', 'lock', 'throughput.json'}


@pytest.fixture(name='served')
def served_fixture(tmp_path):
  """The objects of a server, and the variables of its clients."""
  with object_server.serving() as (objects, variables):
    yield objects, {**variables, 'PYRAMID_JAX_CACHE': str(tmp_path / 'cache')}


def upload(objects, folder):
  for path in folder.rglob('*'):
    if path.is_file():
      name = path.relative_to(folder).as_posix()
      objects.put(f'work/{name}', path.read_bytes(), None)


def check_same(objects, folder):
  """Compares the files of a folder with the objects, bit by bit."""
  local = {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }
  there = {
    name.removeprefix('work/'): objects.get(name).data
    for name in objects.names('work/')
  }
  is_same = lambda name: not OWN & set(pathlib.PurePath(name).parts)
  assert sorted(filter(is_same, there)) == sorted(filter(is_same, local))
  for name in filter(is_same, local):
    if name.endswith(('.png', '.npz')):
      assert there[name] == local[name], name
    if name.endswith('.safetensors'):
      mine, theirs = map(safetensors_numpy.load, (there[name], local[name]))
      assert mine.keys() == theirs.keys()
      for key, array in theirs.items():
        np.testing.assert_array_equal(mine[key], array, f'{name}: {key}')
    if name.endswith('metrics.jsonl'):
      assert losses(there[name]) == losses(local[name])
  assert not objects.refused
  assert not (fork_server.ROOT / 'gs:').exists()


def losses(text):
  rows = map(json.loads, text.splitlines())
  return [(row['step'], row['loss']) for row in rows]


@pytest.mark.turns(4, group='whole runs')
def test_a_run_on_images_in_a_store(server, served, tmp_path):
  objects, variables = served
  folder = tmp_path / 'work'
  folder_run.write_images(folder / 'images', 10)
  upload(objects, folder)
  for place in (folder, STORE):
    images = f'{place}/images'
    child = folder_run.start(server, f'{place}/run', images, env=variables)
    assert child.wait() == errors.OK, child.text()
  assert (folder / 'run' / 'weights.safetensors').is_file()
  check_same(objects, folder)


def write_release(file):
  """Writes an official checkpoint of random weights."""
  system = systems.create(configs.load(CONFIG, condition__num_classes=2))
  _, report = latent_workdir.from_official('ldm', {}, system, False)
  state = {
    key: official_fill.tensor(key, shape)
    for key, shape in report.missing.items()
  }
  state |= latent_checkpoint.schedule_buffers(system.chain)
  torch_writer.write_checkpoint(file, state)


def run(server, variables, *arguments):
  child = server.start(*arguments, env=variables, before='')
  assert child.wait() == errors.OK, child.text()
  return child.text()


def chain(server, variables, place):
  """Converts, encodes, trains, ships and samples."""
  images = (
    '--config.data.name=image_folder',
    f'--config.data.root={place}/images',
  )
  first_stage = f'{place}/converted/first_stage'
  call = lambda *arguments: run(server, variables, *arguments)
  call(
    *('convert', '--family=ldm', *SETTINGS, *images),
    *(f'--checkpoint={place}/model.ckpt', f'--workdir={place}/converted'),
  )
  call(
    *('cache_latents', *SETTINGS, *images, '--shard_size=4', '--batch_size=4'),
    *(f'--first_stage={first_stage}', f'--output={place}/latents'),
  )
  call(
    *(*SETTINGS, '--config.data.name=latents'),
    *(f'--config.data.root={place}/latents', f'--workdir={place}/run'),
    f'--config.first_stage.checkpoint={first_stage}',
  )
  call('ship', f'--workdir={place}/run', f'--out={place}/shipped')
  call(
    *('--mode=sample', f'--workdir={place}/shipped', '--label=1'),
    *('--count=2', '--steps=2'),
  )
  call(
    *('convert', '--family=ldm', f'--workdir={place}/run'),
    f'--export={place}/official.safetensors',
  )


@pytest.mark.hosts
def test_every_command_in_a_store(server, served, tmp_path):
  objects, variables = served
  folder = tmp_path / 'work'
  for number, name in enumerate(['cats', 'dogs'] * 3):
    pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3))
    path = folder / 'images' / name / f'{number}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
  write_release(folder / 'model.ckpt')
  upload(objects, folder)
  for place in (folder, STORE):
    chain(server, variables, place)
  check_same(objects, folder)
  names = [name for name in objects.names('work/') if name.endswith('.png')]
  assert [name for name in names if 'shipped/samples' in name]
