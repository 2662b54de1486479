"""What small programs of TPUs cost; tests/helpers/recorded_hlo.py made them.

The expected numbers follow from shapes. Arrays of these programs stay in the
vector memory between operations, so that the main memory sees arguments and
results alone.
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import pytest

from pyramid_jax.distributed import chips
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import minimum
from pyramid_jax.planning import program as program_lib
from pyramid_jax.planning import roofline
from tests.helpers import recorded_hlo as recorded


CHIPS, FSDP = 8, 4
SMALL = 8192  # bytes of ids, scalars and masks


def program(name):
  text = (recorded.FOLDER / f'{name}.txt').read_text()
  found = program_lib.Program.of(text)
  assert found.partitions == CHIPS
  assert (found.unknown_loops, found.uncounted) == ((), ())
  return found


def test_a_scan_of_weights_split_over_fsdp():
  found = program('layers')
  weights = recorded.LAYERS * recorded.WIDTH**2
  rows = recorded.BATCH // CHIPS
  # Forward, and the gradients of both sides; all but the first layer's would
  # do, but a scan treats layers alike.
  assert found.flops_by_dtype == {'bf16': 3 * 2 * rows * weights}
  # Weights are read for the casts and for the update, and written.
  moved = 3 * 4 * weights // FSDP + 4 * rows * recorded.WIDTH
  assert found.hbm_bytes == pytest.approx(moved, abs=SMALL)
  layers = recorded.LAYERS
  assert found.by_kind() == {
    'all-gather': (2 * layers, 2 * 2 * weights),
    'reduce-scatter': (layers, 2 * weights),
    'all-reduce': (layers, 2 * weights // FSDP),
  }
  groups = {c.kind: c.group for c in found.collectives}
  assert groups == {
    'all-gather': (0, 1, 2, 3),
    'reduce-scatter': (0, 1, 2, 3),
    'all-reduce': (0, 4),
  }


def test_gathers_are_the_minimum_and_gradients_half_of_it():
  found = program('layers')
  mesh = mesh_lib.create(ConfigDict({'data': -1, 'fsdp': FSDP, 'tensor': 1}))
  weights = jax.ShapeDtypeStruct(
    (recorded.LAYERS, recorded.WIDTH, recorded.WIDTH),
    jnp.float32,
    sharding=NamedSharding(mesh, P(None, 'fsdp')),
  )
  least = minimum.of_training(weights, weights, {}, mesh, 'bfloat16')
  kinds = {kind: size for kind, (_, size) in found.by_kind().items()}
  assert kinds['all-gather'] == least['all-gather']
  # This program sums gradients in bfloat16.
  assert 2 * kinds['reduce-scatter'] == least['reduce-scatter']
  assert 2 * kinds['all-reduce'] == least['all-reduce']
  assert minimum.excess(found, weights) == ()


def test_a_convolution_that_the_compiler_pads():
  found = program('convolution')
  _, side, _, channels = recorded.IMAGES
  forward = 2 * (side // 2) ** 2 * 9 * channels * recorded.KERNEL[-1]
  # Two convolutions, which compute 24 columns where 16 are needed. The
  # compiler's own count, 452,689,920, leaves out products with the padding.
  assert found.flops == 2 * forward * 24 // 16
  assert found.flops == pytest.approx(452_689_920, rel=1e-3)
  kernel = 4 * 9 * channels * recorded.KERNEL[-1]
  moved = 2 * kernel + 4 * side * side * channels
  assert found.hbm_bytes == pytest.approx(moved, abs=SMALL)
  assert found.by_kind() == {'all-reduce': (1, kernel // 2)}


def test_products_with_a_batch_dimension():
  # A TPU has them as convolutions with dilated inputs.
  found = program('batched')
  assert found.flops == 2 * 16 * 256 * 256 * 72
  # Here the minor axis is that of 256, so that no lanes of 128 stay empty.
  assert found.hbm_bytes == 2 * 16 * (256 * 256 + 2 * 256 * 72)


def test_kernels_of_attention():
  found = program('attention')
  _, heads, tokens, width = recorded.ATTENTION
  product = 2 * heads * tokens * tokens * width
  # Forward 2 products, by its own estimate with a little more; gradients of
  # queries 3, of keys and values 4.
  assert found.flops == pytest.approx((2 + 3 + 4) * product, rel=3e-3)
  array = 2 * heads * tokens * width
  assert found.hbm_bytes == (3 + 3) * array


def test_look_ups_read_rows_of_their_table():
  rows = 4 * recorded.LOOK_UPS * recorded.TABLE[1]
  assert program('look_ups').hbm_bytes == pytest.approx(2 * rows, abs=SMALL)


def test_the_times_of_a_step_on_its_topology():
  places = tuple(
    roofline.Place(0, (i, j))
    for i in range(recorded.SIDES[0])
    for j in range(recorded.SIDES[1])
  )
  chip = chips.CHIPS['TPU v5 lite']
  network = roofline.Network(chip.links, places)
  found = roofline.Seconds.of(program('layers'), chip, network)
  weights = recorded.LAYERS * recorded.WIDTH**2
  # Lines of four chips, which are no rings, and pairs.
  scattered = 3 / 4 * (4 + 2) * weights / 45e9
  summed = 2 / 2 * 2 * weights / FSDP / 45e9
  assert found.interconnect == pytest.approx(scattered + summed)
  assert found.bound == 'interconnect'
