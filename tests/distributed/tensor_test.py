"""What the axis `tensor` of a mesh does to the layers that the rules name."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks import dit
from pyramid_jax.networks import latent_diffit
from pyramid_jax.networks import t5
from pyramid_jax.networks import text_encoders
from pyramid_jax.networks.layers import blocks
from pyramid_jax.networks.layers import transformer
from pyramid_jax.planning import program


ROWS, MIN_SIZE = 8, 256
ONE = {'data': 1, 'fsdp': 1, 'tensor': 1}
TWO = {'data': 2, 'fsdp': 2, 'tensor': 2}
_map = lambda *shape: jnp.sin(jnp.arange(np.prod(shape))).reshape(shape)
_ids = jnp.arange(ROWS * 8).reshape(ROWS, 8) % 32
_LATENT = {
  'input_size': 8,
  'hidden_size': 64,
  'depth': 2,
  'num_heads': 4,
  'num_classes': 0,
  'class_dropout_prob': 0.0,
}
_latents = (_map(ROWS, 8, 8, 4), jnp.linspace(0.0, 1.0, ROWS))
NETWORKS = {
  'diffit': (latent_diffit.LatentDiffiT(**_LATENT), _latents),
  'dit': (dit.DiT(**_LATENT), _latents),
  'spatial': (
    transformer.SpatialTransformer(heads=4, head_dim=16),
    (_map(ROWS, 4, 4, 64), _map(ROWS, 8, 32)),
  ),
  'attention': (
    blocks.AttentionBlock(heads=4, use_new_attention_order=True),
    (_map(ROWS, 4, 4, 64),),
  ),
  'residual': (
    blocks.ResBlock(out_channels=64),
    (_map(ROWS, 4, 4, 64), _map(ROWS, 64)),
  ),
  'bert': (
    text_encoders.TransformerEncoder(
      vocab_size=32, max_seq_len=8, dim=64, depth=1, heads=4, head_dim=16
    ),
    (_ids,),
  ),
  'clip': (
    text_encoders.CLIPTextEncoder(
      vocab_size=32, max_length=8, dim=64, depth=1, heads=4, mlp_dim=128
    ),
    (_ids,),
  ),
  't5': (
    t5.T5Encoder(
      vocab_size=32, dim=64, depth=1, heads=4, head_dim=16, mlp_dim=128
    ),
    (_ids,),
  ),
}


QUICK = ('diffit', 'spatial')
NAMES = [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.pods)
  for name in NETWORKS
]


def _params(name):
  """Returns parameters of which none is zero."""
  network, inputs = NETWORKS[name]
  params = network.init(jax.random.key(0), *inputs)['params']
  paths = jax.tree_util.tree_leaves_with_path(params)
  filled = [
    x + 0.1 * jax.random.normal(jax.random.key(i), x.shape)
    for i, (_, x) in enumerate(paths)
  ]
  return jax.tree.unflatten(jax.tree.structure(params), filled)


def _compiled(name, sizes, params):
  """Returns the compiled loss with its gradients, and its arguments."""
  network, inputs = NETWORKS[name]
  count = int(np.prod(list(sizes.values())))
  mesh = mesh_lib.create(ConfigDict(sizes), jax.devices()[:count])
  places = sharding.shardings(params, mesh, MIN_SIZE)
  rows = mesh_lib.batch_sharding(mesh)

  def step(params, *inputs):
    def loss(params):
      return jnp.square(network.apply({'params': params}, *inputs)).mean()

    value, grads = jax.value_and_grad(loss)(params)
    return value, sharding.constrained(grads, mesh, MIN_SIZE)

  whole = mesh_lib.replicated(mesh)
  jitted = jax.jit(
    placement.within(mesh, step),
    in_shardings=(places, *[rows] * len(inputs)),
    out_shardings=(whole, places),
  )
  host = jax.tree.map(np.asarray, params)
  placed = initial.place(host, places)
  arguments = placed, *jax.device_put(inputs, rows)
  return jitted.lower(*arguments).compile(), arguments


@functools.cache
def _programs(name):
  params = _params(name)
  four = {**TWO, 'tensor': 1}
  return [_compiled(name, sizes, params) for sizes in (TWO, four, ONE)]


@pytest.mark.turns(2, group='meshes')
@pytest.mark.parametrize('name', NAMES)
def test_tensor_halves_the_work_of_a_chip(name):
  (two, _), (one, _), _ = _programs(name)
  work = [program.Program.of(x.as_text()).flops for x in (two, one)]
  assert work[0] < 0.6 * work[1]


@pytest.mark.parametrize('name', NAMES)
def test_values_are_those_of_one_device(name):
  (two, of_two), _, (one, of_one) = _programs(name)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    two(*of_two),
    one(*of_one),
  )


@pytest.mark.parametrize('name', NAMES)
def test_chips_of_tensor_exchange_sums_of_activations(name):
  """And the kernels of groups, and gradients of weights that are whole."""
  (two, _), *_ = _programs(name)
  found = program.Program.of(two.as_text()).collectives
  exchanged = [c for c in found if c.group == (0, 1)]
  kinds = {c.kind for c in exchanged}
  assert 'all-reduce' in kinds
  assert kinds <= {'all-reduce', 'reduce-scatter', 'all-gather', 'all-to-all'}
  for c in exchanged:
    is_kernel = any(name in c.where for name in ('qkv', 'net_0'))
    assert is_kernel or c.kind != 'all-to-all', c


def test_a_table_is_not_gathered():
  """Devices along `fsdp` exchange the columns that they found, both ways."""
  mesh = mesh_lib.create(ConfigDict({'data': 2, 'fsdp': 4, 'tensor': 1}))
  table, ids = _map(50, 32), _ids[:, :3]
  split = NamedSharding(mesh, P(None, 'fsdp'))

  def step(table, ids):
    found = lambda table: jnp.square(placement.looked_up(table, ids)).mean()
    return jax.value_and_grad(found)(table)

  jitted = jax.jit(
    placement.within(mesh, step),
    in_shardings=(split, mesh_lib.batch_sharding(mesh)),
    out_shardings=(mesh_lib.replicated(mesh), split),
  )
  compiled = jitted.lower(table, ids).compile()
  for c in program.Program.of(compiled.as_text()).collectives:
    sums = c.kind == 'all-reduce' and c.group_size in (2, 8)
    exchange = c.kind == 'all-to-all' and c.group == (0, 1, 2, 3)
    gathered = c.kind == 'all-gather' and c.example.startswith('s32')
    assert sums or exchange or gathered, c
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7),
    compiled(*jax.device_put((table, ids), compiled.input_shardings[0])),
    step(table, ids),
  )


def test_heads_that_tensor_does_not_divide_are_refused():
  network = text_encoders.TransformerEncoder(
    vocab_size=8, max_seq_len=8, dim=8, depth=1, heads=3, head_dim=4
  )
  mesh = mesh_lib.create(ConfigDict(TWO))
  message = r'config\.mesh\.tensor=2 does not divide the 3 heads'
  with (
    pytest.raises(errors.UserError, match=message),
    sharding.traced_on(mesh),
  ):
    jax.eval_shape(network.init, jax.random.key(0), _ids)


def test_a_tensor_axis_that_splits_nothing_is_refused():
  tree = {'generator': {'w': {'kernel': jax.ShapeDtypeStruct((8, 8), 'f4')}}}
  sharding.check_tensor(tree, ONE)
  with pytest.raises(errors.UserError, match=r'config\.mesh\.tensor=2 splits'):
    sharding.check_tensor(tree, TWO)
  tree['generator']['to_q'] = tree['generator']['w']
  sharding.check_tensor(tree, TWO)
