"""DiffiTs on latents from a folder of images to samples, at the smallest size.

That of one resolution, and that of several.
"""

import json

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import systems
from pyramid_jax.commands import cache_latents
from pyramid_jax.commands import sample
from pyramid_jax.interop import parts
from pyramid_jax.training import loop as train
from tests.helpers import configs
from tests.helpers import system_weights


def write_images(root):
  """Writes 10 images in two classes."""
  rng = np.random.default_rng(0)
  for index in range(10):
    folder = root / ('cat', 'dog')[index % 2]
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 255, (80, 70, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{index}.png')


def load(name, root, **values):
  fixed = {
    'data.name': 'image_folder',
    'data.root': str(root),
    'condition.num_classes': '2',
    'train.batch_size': '8',  # one example a device: the tests have eight
    'train.steps': '2',
    'train.sample_every': '0',
  }
  return configs.load(f'{name}.py:debug', **fixed | values)


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
@pytest.mark.parametrize('name', ['diffit_imagenet', 'ladm_latent_imagenet'])
def test_from_images_to_latents_to_samples(name, request, tmp_path):
  if name == 'ladm_latent_imagenet':  # and the other on all devices
    request.getfixturevalue('one_device')
  write_images(tmp_path / 'images')
  config = load(name, tmp_path / 'images')
  frozen = system_weights.weights_of(systems.create(config)).frozen
  first_stage = tmp_path / 'vae.safetensors'
  parts.write('ldm.autoencoder_kl', first_stage, frozen['first_stage'])
  cache_latents.run(config, str(first_stage), tmp_path / 'cache', flips=True)
  cached = load(
    name,
    tmp_path / 'cache',
    data__name='latents',
    first_stage__checkpoint=str(first_stage),
  )
  workdir = tmp_path / 'run'
  train.run(cached, workdir)
  last = json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])
  assert last['step'] == 2
  assert np.isfinite(last['loss'])
  if name == 'diffit_imagenet':
    assert last['loss'] == pytest.approx(last['mse'] + last['vb'], rel=1e-4)
  else:
    assert last['loss'] < last['loss_stage_1'] + last['loss_stage_2']
  sample.run(cached, workdir, {'count': 2, 'label': 'dog'})
  with np.load(workdir / 'samples' / 'samples.npz') as saved:
    assert saved['class'].tolist() == [2, 2]
    assert np.ptp(saved['arr_0']) > 0
