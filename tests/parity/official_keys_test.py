"""The converters on key lists that the official modules printed themselves."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.interop import latent_checkpoint
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import parts
from tests.parity.families import autoencoder
from tests.parity.families import discriminator
from tests.parity.families import text_encoders
from tests.parity.families import unet


HERE = pathlib.Path(__file__).resolve().parent
NETWORKS = json.loads((HERE / 'official_keys.json').read_text())['networks']
CONFIGS = HERE.parents[1] / 'configs'
IMAGE = jnp.zeros((1, 16, 16, 3))
BUILDERS = {
  'bert': text_encoders.build,
  'discriminator': discriminator.build,
  'ldm.autoencoder_kl': autoencoder.build_kl,
  'ldm.vq': autoencoder.build_vq,
  'ldm.unet': unet.build,
}
# What we have no use for: running statistics count no batches.
UNUSED = 'num_batches_tracked'


def state_of(name, prefix=''):
  """Returns a state dict under the official names and shapes."""
  rng = np.random.default_rng(0)
  return {
    prefix + key: np.asarray(rng.normal(size=shape), np.float32)
    for key, shape in NETWORKS[name]['keys'].items()
  }


def template(name):
  """Returns the shapes of our network of an official config."""
  network = NETWORKS[name]
  module = BUILDERS[network['family']](network['config'])
  arguments = [IMAGE]
  if network['family'] == 'bert':
    arguments = [jnp.zeros((1, 7), jnp.int32)]
  elif network['family'] == 'ldm.unet':
    classes, width = (
      network['config'].get(field) for field in ('num_classes', 'context_dim')
    )
    context = jnp.zeros((1, 5, width)) if width else None
    arguments += [jnp.zeros(1), context, jnp.zeros(1, int) if classes else None]
  variables = jax.eval_shape(module.init, jax.random.key(0), *arguments)
  is_whole = network['family'] == 'discriminator'
  return variables if is_whole else variables['params']


@pytest.mark.parametrize('name', sorted(NETWORKS))
def test_every_official_key_has_its_place(name):
  family, state = NETWORKS[name]['family'], state_of(name)
  params, report = parts.to_flax(family, state, template(name))
  report.require_complete()
  assert all(key.endswith(UNUSED) for key in report.unused)
  back = parts.to_official(family, params)
  assert back.keys() == state.keys() - report.unused.keys()
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_a_key_more_or_less_is_seen():
  state = state_of('unet_headch')
  state['extra'] = state.pop('out.2.bias')
  _, report = parts.to_flax('ldm.unet', state, template('unet_headch'))
  assert list(report.missing) == ['out.2.bias']
  assert list(report.unused) == ['extra']


def test_a_whole_checkpoint():
  config = config_lib.load(f'{CONFIGS}/ldm_unconditional.py:celebahq,debug')
  with config.unlocked():
    fields = NETWORKS['vq']['config']['ddconfig']
    network = config.first_stage.network
    for field in network.ddconfig.keys() & fields.keys():
      value = fields[field]
      network.ddconfig[field] = (
        tuple(value) if isinstance(value, list) else value
      )
  system = systems.create(config)
  state = state_of('unet_headch', 'model.diffusion_model.')
  averages = {
    'model_ema.' + key.removeprefix('model.').replace('.', ''): value + 1
    for key, value in state.items()
  }
  state |= averages | state_of('vq', 'first_stage_model.')
  state['model_ema.decay'] = np.asarray(0.9999, np.float32)
  state['model_ema.num_updates'] = np.asarray(7, np.int32)
  state |= latent_checkpoint.schedule_buffers(system.chain)
  weights, report = latent_workdir.from_official('ldm', state, system, False)
  report.require_complete()
  assert not report.unused
  layout = latent_workdir.layout_of('ldm', system)
  back = latent_checkpoint.to_official(weights, system.chain, 0.9999, layout)
  assert back.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
