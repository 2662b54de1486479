"""A system and a reader that train in milliseconds, and a command with them.

Also a config file: `python tests/helpers/fake_run.py --config=THIS_FILE ...` is
the command line of the library with these two in place of the real ones.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import systems
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import scoring
from pyramid_jax.networks import pretrained
from pyramid_jax.runs import entry
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs


def get_config(arg=''):
  variant = config_lib.parse_variants(arg, two=False, attention=False)
  config = config_lib.base('ldm')
  config.name = 'fake'
  config.network = {'width': 8, 'poison': -1, 'pause': 0.0}
  config.network.attends = variant['attention']
  config.data.name = 'fake'
  config.data.image_size = 4
  config.data.workers = 1
  config.ema.decay = 0.9
  config.train.steps = 4
  config.train.batch_size = 8
  config.train.learning_rate = 0.01
  config.train.log_every = config.train.checkpoint_every = 1
  config.train.sample_every = 0
  config.sample.batch_size = 2
  config.mesh.fsdp_min_size = 16
  if variant['two']:
    config_lib.add_first_stage(config, get_config())
  return config


def config(arg='', **fields):
  """Returns the config with fields changed: `section__field=value`."""
  return configs.change(get_config(arg), fields)


class System:
  """Two losses; noise, a running count, a parameter that is not averaged."""

  outputs = system_lib.RECONSTRUCTIONS
  image_size = 4

  def __init__(self, config):
    self.width = config.network.width
    self.attends = config.network.attends  # by a kernel that `tensor` splits
    self.dtype = config.dtype
    self.two = 'first_stage' in config
    self.path = config.first_stage.checkpoint if self.two else ''
    if self.width < 1:
      raise ValueError(f'config.network.width is {self.width}, must be > 0.')

  def init(self, key):
    keys = jax.random.split(key)
    generator = {
      'w': jax.random.normal(keys[0], (8, self.width)),
      'b': jnp.zeros((self.width,)),
    }
    if self.attends:
      kernel = {'kernel': 0.1 * jax.random.normal(key, (8, 8))}
      generator['attention'] = {'to_q': kernel}
    critic = {'v': jax.random.normal(keys[1], (self.width,))}
    extra = {'count': jnp.zeros((), jnp.int32)}
    return {'generator': generator, 'critic': critic}, extra

  def pretrained_parts(self):
    if not self.two:
      return {}
    part = pretrained.PretrainedPart(
      init=lambda key: self.init(key)[0]['generator'],
      family='none',
      path=self.path,
      field='first_stage.checkpoint',
    )
    return {'first_stage': part}

  def losses(self, weights, key, step, batch):
    params, x = weights.params, batch['x']
    if self.two:
      first = weights.frozen['first_stage']['w']
      x = x + x @ first @ jnp.ones((self.width, 8)) / 8
    if self.attends:
      x = x + x @ params['generator']['attention']['to_q']['kernel']
    w = params['generator']['w'].astype(self.dtype)
    made = (x.astype(self.dtype) @ w).astype(x.dtype)
    made += params['generator']['b']
    made += 0.1 * jax.random.normal(key, made.shape[1:])
    error = jnp.mean(jnp.square(made - batch['y']))
    critic = lambda z: jnp.mean(z @ params['critic']['v'])
    losses = {
      'generator': (error - 0.1 * critic(made), {'error': error}),
      'critic': (
        critic(made) ** 2 + jnp.sum(params['critic']['v'] ** 2),
        {'step': step},
      ),
    }
    return losses, {'count': weights.extra['count'] + 1}

  def ema_patterns(self):
    return ['generator/w']

  def check_extra(self, extra):
    del extra

  def reconstruct(self, weights, image, scales=None):
    del scales
    return jnp.zeros_like(image) + weights.params['generator']['b'][0], []


class Reader:
  """Rows that are functions of their index and draw."""

  label_names = ('padding', 'thing')
  buckets = None

  def __init__(self, config):
    self.config = config
    self.report = {'broken': 1}

  def __len__(self):
    return 50

  def identity(self):
    return {'source': {'rows': len(self)}}

  def batch(self, indices, draws):
    time.sleep(self.config.network.pause)
    place = np.arange(8) * 0.7 + indices[:, None]
    x = np.sin(place) + (draws[:, None] % 7) * 0.1
    x = x.astype(np.float32)
    # The poisoned batch is known by its place in the run.
    step = self.config.network.poison
    rows = len(indices) * processes.process_part()[1]
    if step >= 0 and rows == self.config.train.batch_size:
      x = np.where(draws[0] == _draw(self.config, step), np.nan, x)
    image = np.zeros((len(indices), 4, 4, 3), np.uint8)
    caption = np.array(['a thing'] * len(indices))
    return {'x': x.astype(np.float32), 'image': image, 'caption': caption}

  def finish(self, batch):
    image = batch['image'].astype(jnp.float32) / 127.5 - 1.0
    return {**batch, 'image': image, 'y': jnp.cos(batch['x'][:, :1])}


def _draw(config, step):
  from pyramid_jax.data import batches

  reader = Reader(config)
  order = batches.Batches(reader, config.train.batch_size, config.train.seed)
  return order.order(step)[1][0]


def install(setattr=setattr):
  """Puts the fakes in place; pass `monkeypatch.setattr` to undo it."""
  setattr(systems, 'create', lambda config, base=None: System(config))
  setattr(data, 'create', lambda config, split: Reader(config))
  setattr(data, 'missing_inputs', lambda config: [])
  setattr(
    scoring,
    'during_training',
    lambda pipe, request, config, reader: lambda pipe: {'score': 0.5},
  )


if __name__ == '__main__':
  install()
  entry.run('pyramid_jax.main', 'run')
