"""The fake system on a real folder of images, and a command with it.

Also a config file, like `fake_run`; `before='tests.helpers.folder_run:install'`
puts the system in place and leaves the readers.
"""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from pyramid_jax import systems
from pyramid_jax.evaluation import scoring
from tests.helpers import fake_run


BEFORE = 'tests.helpers.folder_run:install'


def get_config(arg=''):
  del arg
  config = fake_run.get_config()
  config.data.name = 'image_folder'
  config.data.image_size = 8
  config.train.steps = 6
  config.train.checkpoint_every = 2
  return config


class System(fake_run.System):
  """The same on the pixels of images."""

  image_size = 8

  def losses(self, weights, key, step, batch):
    x = batch['image'].reshape(batch['image'].shape[0], -1)[:, :8]
    return super().losses(
      weights, key, step, {'x': x, 'y': jnp.mean(x, 1, keepdims=True)}
    )


def install():
  """Puts the system in place."""
  systems.create = lambda config, base=None: System(config)
  scoring.during_training = lambda pipe, request, config, reader: (
    lambda pipe: {'score': 0.5}
  )


def write_images(root, count=24, splits=('train', 'val')):
  """Writes images of different colours and sizes of files."""
  for split in splits:
    (root / split).mkdir(parents=True)
    for number in range(count):
      pixels = np.random.default_rng(number).integers(0, 256, (9, 10, 3))
      image = Image.fromarray(pixels.astype(np.uint8))
      image.save(root / split / f'{number:03d}.png')


def start(server, workdir, data, *arguments, **options):
  """Starts a training run on a folder."""
  return server.start(
    f'--config={__file__}',
    f'--workdir={workdir}',
    f'--config.data.root={data}',
    *arguments,
    before=BEFORE,
    **options,
  )
