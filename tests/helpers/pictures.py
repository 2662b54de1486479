"""Pictures of noise, and their scores by a network of one layer.

It stands in for Inception, which would take minutes.
"""

import json

import jax
import numpy as np
from PIL import Image

from pyramid_jax import config as config_lib
from pyramid_jax.commands import evaluate
from pyramid_jax.interop import parts
from pyramid_jax.networks import inception as network_lib
from tests.helpers import configs
from tests.helpers import inception_weights


def small_inception(monkeypatch, tmp_path):
  """Installs it; returns a file of weights, and what they make of images."""
  network = inception_weights.Small()
  monkeypatch.setattr(network_lib, 'InceptionV3', lambda: network)
  variables = inception_weights.variables(network)
  path = tmp_path / 'weights.safetensors'
  parts.write('inception', path, variables)
  run = lambda x: network.apply(variables, network_lib.preprocess(x))
  return path, lambda images: jax.tree.map(np.asarray, jax.jit(run)(images))


def make_config(weights, reference='', **fields):
  """Returns a config; the fields are of the section `data`."""
  values = {
    'evaluate.batch_size': 5,  # and 8 on 8 devices
    'evaluate.inception': weights,
    'evaluate.reference': reference,
    'data.image_size': 16,
  }
  values |= {f'data.{name}': value for name, value in fields.items()}
  return configs.change(config_lib.base('ldm'), values).lock()


def draw(count, seed, side=10):
  rng = np.random.default_rng(seed)
  shades = rng.integers(0, 200, (count, 1, 1, 3))
  noise = rng.integers(0, 56, (count, side, side, 3))
  return (shades + noise).astype(np.uint8)


def paint(folder, images):
  folder.mkdir()
  for i, image in enumerate(images):
    Image.fromarray(image).save(folder / f'{i:03d}.png')
  return folder


def score(config, folder, **options):
  evaluate.run(config, folder, options)
  saved = folder if (folder / 'scores.json').exists() else folder / 'samples'
  saved = json.loads((saved / 'scores.json').read_text())
  return saved['scores'], saved['about']
