"""Muon on one device, and its matrices shared among eight."""

import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import optax.contrib
import pytest

from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.planning import program
from pyramid_jax.training import muon
from pyramid_jax.training import optimizer
from tests.helpers import fake_run


SHAPES = {
  **{f'dense_{n}': {'kernel': (64, 32), 'bias': (32,)} for n in range(10)},
  'conv': {'kernel': (3, 3, 16, 32)},
  'scanned': {'kernel': (4, 32, 48)},
  'mlp_fc1': {'kernel': (32, 64)},
  'table': {'embedding': (64, 32)},
}
MIN_SIZE = 256
STEPS = 3
MESHES = {'data 8': (8, 1, 1), 'data 2 x fsdp 4': (2, 4, 1)}
FIELDS = {'optimizer__name': 'muon', 'optimizer__weight_decay': 0.1}


def drawn(seed):
  keys = iter(jax.random.split(jax.random.key(seed), 100))
  draw = lambda shape: np.asarray(jax.random.normal(next(keys), shape))
  is_shape = lambda x: isinstance(x, tuple)
  return jax.tree.map(draw, SHAPES, is_leaf=is_shape)


@pytest.fixture(scope='module')
def config():
  return fake_run.config(train__learning_rate=0.01, **FIELDS)


def moved(tx, params, gradients):
  """Returns the updates and the state after some steps."""
  step = jax.jit(tx.update)
  state = tx.init(params)
  for gradient in gradients:
    updates, state = step(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def dimensions(params):
  """Names the axes of matrices as optax does, None for what Adam moves."""

  def numbers(path, leaf):
    if path[-1].key != 'kernel':
      return None
    first = 1 if leaf.ndim == 3 else 0
    rows = tuple(range(first, leaf.ndim - 1))
    return optax.contrib.MuonDimensionNumbers(rows, leaf.ndim - 1)

  return jax.tree_util.tree_map_with_path(numbers, params)


def test_it_is_that_of_optax(config):
  c = config.optimizer
  decay = c.weight_decay
  theirs = optax.contrib.muon(
    lambda count: optimizer.learning_rate(config, count),
    eps=c.eps,
    weight_decay=decay,
    adam_b1=c.b1,
    adam_b2=c.b2,
    adam_weight_decay=decay,
    muon_weight_dimension_numbers=dimensions,
    consistent_rms=muon.RMS,
  )
  given = drawn(0), [drawn(n) for n in range(1, 1 + STEPS)]
  got, want = (moved(tx, *given) for tx in (optimizer.create(config), theirs))
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    got,
    want,
  )


def shared(config, sizes):
  """Returns a compiled update on eight devices, and the places of its parts."""
  axes = dict(zip(('data', 'fsdp', 'tensor'), sizes, strict=True))
  mesh = mesh_lib.create(ConfigDict(axes))
  split = functools.partial(
    sharding.shardings, mesh=mesh, min_size=MIN_SIZE, over_all=True
  )
  tx = optimizer.create(config, split)
  params = drawn(0)
  state = tx.init(params)
  places = split(params), split(state), split(params)
  jitted = jax.jit(
    tx.update, in_shardings=places, out_shardings=(places[0], places[1])
  )
  return jitted.lower(params, state, params).compile(), places


@pytest.mark.parametrize('mesh', MESHES)
def test_eight_devices_move_as_one(config, mesh):
  compiled, (place, of_state, _) = shared(config, MESHES[mesh])
  params, gradients = drawn(0), [drawn(n) for n in range(1, 1 + STEPS)]
  tx = optimizer.create(config)
  want, want_state = moved(tx, params, gradients)
  got = initial.place(params, place)
  state = initial.place(jax.device_get(tx.init(params)), of_state)
  for gradient in gradients:
    updates, state = compiled(initial.place(gradient, place), state, got)
    got = jax.tree.map(jnp.add, got, updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    (got, state),
    (want, want_state),
  )


@pytest.mark.parametrize('mesh', MESHES)
def test_a_device_has_and_exchanges_its_share(config, mesh):
  compiled, (place, of_state, _) = shared(config, MESHES[mesh])
  (momentum,) = (
    x.mu
    for x in jax.tree.leaves(
      of_state, is_leaf=lambda x: isinstance(x, optax.contrib.MuonState)
    )
    if isinstance(x, optax.contrib.MuonState)
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path(momentum):
    shape = SHAPES[path[0].key]['kernel']
    own = leaf.shard_shape(shape)
    assert np.prod(own) * 8 == np.prod(shape), path
  found = program.Program.of(compiled.as_text())
  kinds = found.by_kind()
  assert set(kinds) == {'all-to-all'}, found.collectives
  # Parts are exchanged for matrices and back; stacks are filled up to eight.
  stacks = {(64, 32): 16, (144, 32): 8, (32, 48): 8, (32, 64): 8}
  values = sum(count * np.prod(shape) for shape, count in stacks.items())
  axes = sum(size > 1 for size in MESHES[mesh])
  assert kinds['all-to-all'][1] == axes * 2 * 4 * values // 8
