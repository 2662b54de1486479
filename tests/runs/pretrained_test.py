"""Element types and shardings of weights that are only read."""

import types

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import pretrained as parts
from pyramid_jax.networks import t5
from pyramid_jax.networks.layers import parameters
from pyramid_jax.runs import pretrained


IDS = jnp.arange(8).reshape(1, 8)
IMAGE = jnp.sin(jnp.arange(16 * 16 * 3)).reshape(1, 16, 16, 3)


def _networks(dtype):
  """Returns {name: (network, an input)}."""
  sizes = {'ch': 32, 'ch_mult': (1, 2), 'num_res_blocks': 1, 'z_channels': 4}
  autoencoder = first_stages.AutoencoderKL(
    embed_dim=4, ddconfig=sizes, dtype=dtype
  )
  encoder = t5.T5Encoder(
    vocab_size=32,
    dim=64,
    depth=2,
    heads=4,
    head_dim=16,
    mlp_dim=128,
    dtype=dtype,
  )
  return {'condition': (encoder, IDS), 'first_stage': (autoencoder, IMAGE)}


def _system(networks, **fields):
  """Returns a system with these parts."""

  def part(network, example):
    init = lambda key: network.init(key, example)['params']
    return parts.PretrainedPart(init=init, family='', **fields)

  found = {name: part(*pair) for name, pair in networks.items()}
  return types.SimpleNamespace(pretrained_parts=lambda: found)


@pytest.mark.parametrize('name', ['condition', 'first_stage'])
def test_types_in_use_change_no_result(name):
  network, example = _networks(jnp.bfloat16)[name]
  system = _system({name: (network, example)})
  tree = network.init(jax.random.key(0), example)['params']
  given = jax.tree.map(jnp.copy, tree)  # what is converted is deleted
  used = pretrained.in_use(system, {name: given})[name]
  found = {k: x.dtype for k, x in sharding.leaves(used).items()}
  kernels = {k for k in found if k.endswith('/kernel')}
  short = {k for k, dtype in found.items() if dtype == jnp.bfloat16}
  assert short & kernels
  assert all(found[k] == jnp.float32 for k in found if 'norm' in k)
  # Operation by operation: XLA's CPU leaves out roundings that it fuses.
  apply = lambda tree: network.apply({'params': tree}, example)
  jax.tree.map(np.testing.assert_array_equal, apply(used), apply(tree))


def test_float32_and_denoisers_stay():
  networks = _networks(jnp.float32)
  short = _networks(jnp.bfloat16)
  for system in (_system(networks), _system(short, is_denoiser=True)):
    trees = {
      name: parameters.shapes_of(part.init, jax.random.key(0))
      for name, part in system.pretrained_parts().items()
    }
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), trees)
    used = pretrained.in_use(system, zeros)
    assert {x.dtype for x in jax.tree.leaves(used)} == {np.dtype('float32')}


def _axes(system, **sizes):
  """Returns the mesh axes that split weights of T5."""
  mesh = mesh_lib.create(ConfigDict({'fsdp': 1, 'tensor': 1, **sizes}))
  tree = pretrained.abstract(system, mesh, 256)['condition']
  specs = {k: x.sharding.spec for k, x in sharding.leaves(tree).items()}
  return {
    name: set(jax.tree.leaves(tuple(specs[f'{name}'])))
    for name in ('block_0/q/kernel', 'shared/embedding', 'block_0/wo/kernel')
  }


def test_all_devices_share_large_parts(monkeypatch):
  system = _system(_networks(jnp.float32))
  assert not any(_axes(system, data=8).values())
  monkeypatch.setattr(pretrained, '_LARGE', 1000)
  assert all(axes == {'data'} for axes in _axes(system, data=8).values())
  both = _axes(system, data=2, fsdp=4).values()
  assert all(axes == {'data', 'fsdp'} for axes in both)
  denoiser = _system(_networks(jnp.float32), is_denoiser=True)
  assert not any(_axes(denoiser, data=8).values())
