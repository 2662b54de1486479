"""What the sharding of a training step needs, and what is beyond it."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import minimum
from pyramid_jax.planning import program as program_lib
from pyramid_jax.planning.collectives import Collective


def mesh(fsdp, tensor=1):
  sizes = {'data': -1, 'fsdp': fsdp, 'tensor': tensor}
  return mesh_lib.create(ConfigDict(sizes))


def array(there, *axes, shape=(64, 32), dtype=jnp.float32):
  split = NamedSharding(there, P(*axes))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=split)


SIZE = 64 * 32


def test_split_weights_are_gathered_twice_and_gradients_scattered():
  there = mesh(fsdp=4)
  params = {'split': array(there, 'fsdp'), 'whole': array(there, shape=(8,))}
  assert minimum.of_training(params, params, {}, there, 'bfloat16') == {
    'all-gather': 2 * 2 * SIZE,
    'reduce-scatter': 4 * SIZE,
    'all-reduce': 4 * SIZE // 4 + 4 * 8,
  }


def test_weights_that_are_updated_in_parts_come_back_in_float32():
  there = mesh(fsdp=4)
  params, updated = array(there, 'fsdp'), array(there, 'fsdp', 'data')
  assert minimum.of_training(params, updated, {}, there, 'bfloat16') == {
    'all-gather': 2 * 2 * SIZE + 4 * SIZE // 4,
    'reduce-scatter': 4 * SIZE,
  }
  params, updated = array(there), array(there, ('fsdp', 'data'))
  assert minimum.of_training(params, updated, {}, there, 'bfloat16') == {
    'all-gather': 4 * SIZE,
    'reduce-scatter': 4 * SIZE,
  }


def test_microbatches_gather_and_scatter_again():
  there = mesh(fsdp=8)
  params, frozen = array(there, 'fsdp'), array(there, None, 'fsdp')
  assert minimum.of_training(params, params, frozen, there, 'float32', 3) == {
    'all-gather': 3 * (2 + 1) * 4 * SIZE,
    'reduce-scatter': 3 * 4 * SIZE,
  }


def test_frozen_weights_are_gathered_in_their_own_type():
  there = mesh(fsdp=8)
  frozen = array(there, 'fsdp', dtype=jnp.bfloat16)
  found = minimum.of_training({}, {}, frozen, there, 'float32')
  assert found == {'all-gather': 2 * SIZE}


def test_shares_of_tensor_stay_where_they_are():
  there = mesh(fsdp=2, tensor=4)
  params = array(there, 'fsdp', 'tensor')
  assert minimum.of_training(params, params, {}, there, 'float32') == {
    'all-gather': 2 * 4 * SIZE // 4,
    'reduce-scatter': 4 * SIZE // 4,
  }


def test_replicated_weights_are_summed_over_all():
  there = mesh(fsdp=1)
  split = array(there, 'fsdp')  # in one part
  found = minimum.of_training(split, split, {}, there, 'float32')
  assert found == {'all-reduce': 4 * SIZE}
  assert minimum.of_training({}, {}, array(there), there, 'float32') == {}


def test_weights_that_a_program_does_not_read_are_left_out():
  there = mesh(fsdp=4)
  frozen = {'idle': array(there), 'used': array(there, 'fsdp')}
  state = {'w': 1.0, 'x': 1.0}

  def step(state, frozen, x):
    return state['x'] + (frozen['used'] + 0 * frozen['idle'].size) * x

  traced = jax.jit(step).trace(state, frozen, 2.0)
  assert minimum.read(traced, state, frozen) == [frozen['used']]


def compiled_layers(there, rows):
  """The gradient of recomputed layers within a scan.

  Args:
    there: the mesh.
    rows: the axes over which the results of layers are split.
  """
  weights = array(there, None, 'fsdp', shape=(3, 64, 64))
  x = array(there, ('data', 'fsdp'), shape=(512, 64))

  def loss(weights, x):
    @jax.checkpoint
    def layer(x, w):
      y = jnp.tanh(x @ w)
      return jax.lax.with_sharding_constraint(y, NamedSharding(there, rows))

    x, _ = jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights)
    return jnp.sum(x**2)

  step = jax.jit(jax.grad(loss), out_shardings=weights.sharding)
  text = step.lower(weights, x).compile().as_text()
  return weights, program_lib.Program.of(text)


def test_a_program_that_keeps_rows_in_place_has_the_minimum():
  there = mesh(fsdp=4)
  weights, found = compiled_layers(there, P(('data', 'fsdp')))
  least = minimum.of_training(weights, weights, {}, there, 'float32')
  assert {kind: size for kind, (_, size) in found.by_kind().items()} == least
  assert minimum.excess(found, weights, 0) == ()


def test_exchanges_of_activations_are_in_excess():
  there = mesh(fsdp=4)
  weights, found = compiled_layers(there, P('data', 'fsdp'))
  excess = minimum.excess(found, weights, least_bytes=1024)
  assert excess
  assert {c.kind for c in excess} >= {'all-gather'}
  assert any('while/body' in c.where for c in excess)
  assert excess[0].bytes == max(c.bytes for c in found.collectives)


def test_small_collectives_are_in_no_excess():
  there = mesh(fsdp=4)
  loss = Collective(
    kind='all-reduce',
    count=1,
    bytes=4,
    group=(0, 1),
    example='f32[]',
    where='loss',
  )
  found = program_lib.Program(
    flops_by_dtype={},
    hbm_bytes=0,
    collectives=(loss,),
    partitions=8,
    unknown_loops=(),
    uncounted=(),
  )
  assert minimum.excess(found, array(there)) == ()
  assert minimum.excess(found, array(there), 1) == (loss,)
