import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import pytest

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import collectives
from pyramid_jax.planning import warnings


def mesh(fsdp=4):
  return mesh_lib.create(ConfigDict({'data': -1, 'fsdp': fsdp, 'tensor': 1}))


def array(there, *axes, shape=(1024, 512)):
  split = NamedSharding(there, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)


def test_arrays_that_no_rule_splits_are_named():
  there = mesh()
  trees = {
    'split': array(there, None, 'fsdp'),
    'whole': array(there),
    'small': array(there, shape=(8,)),
  }
  assert list(warnings.of_leaves(trees, there, 64)) == [
    'no rule splits 1 arrays, 2 MiB on every chip: whole 2 MiB'
  ]


def test_without_fsdp_much_state_is_one_line():
  there = mesh(fsdp=1)
  assert list(warnings.of_leaves([array(there)], there, 64)) == []
  large = array(there, shape=(2**14, 2**15))
  assert list(warnings.of_leaves([large], there, 64)) == [
    'every chip has all of 2.00 GiB: config.mesh.fsdp splits it'
  ]


def test_exchanges_of_activations_are_named():
  assert list(warnings.of_collectives([])) == []
  gather = collectives.Collective(
    kind='all-gather',
    count=3,
    bytes=3 * 2**31,
    group=(0, 1, 2, 3),
    example='bf16[16,33]',
    where='jit(step)/conv',
  )
  (text,) = warnings.of_collectives([gather])
  assert text == (
    'chips exchange activations, 6.00 GiB on every chip: all-gather bf16[16,33]'
    ' x 4 (jit(step)/conv)'
  )


@pytest.mark.parametrize(
  ('side', 'share'), [(72, 0.5625), (128, 1), (130, 130 / 256), (1152, 1)]
)
def test_how_much_of_the_lanes_a_side_fills(side, share):
  assert warnings.filled(side) == share


def test_products_with_narrow_sides_are_weighed_by_their_work():
  def function(x, narrow, wide):
    def body(x, _):
      return x @ wide, None

    x, _ = jax.lax.scan(body, x, None, length=3)
    return x @ narrow

  shapes = [(8, 256), (256, 72), (256, 256)]
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  (text,) = warnings.of_products(jax.jit(function).trace(*arrays))
  # 72 columns once against 256 columns three times.
  assert text == (
    '9% of the operations are products with a side of 72, which fills 56% of'
    ' 128 lanes'
  )


def test_channels_are_the_sides_of_a_convolution():
  def function(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  shapes = [(1, 8, 8, 40), (3, 3, 40, 128)]
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  (text,) = warnings.of_products(jax.jit(function).trace(*arrays))
  assert text.startswith(
    '100% of the operations are products with a side of 40'
  )


def test_more_than_the_sharding_needs_is_named():
  kinds = {
    'all-gather': {'bytes': 3 * 2**30, 'minimum_bytes': 2 * 2**30},
    'all-reduce': {'bytes': 11 * 2**20, 'minimum_bytes': 10 * 2**20},
    'all-to-all': {'bytes': 2**30, 'minimum_bytes': 0},
    'reduce-scatter': {'bytes': 300, 'minimum_bytes': 100},
  }
  assert list(warnings.of_minimum(kinds)) == [
    'all-gather: 3.00 GiB, 1.50 times what the sharding of the weights needs'
  ]
