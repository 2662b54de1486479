"""The times of collectives and programs."""

import pytest

from pyramid_jax.distributed import chips
from pyramid_jax.planning import program as program_lib
from pyramid_jax.planning import roofline
from pyramid_jax.planning.collectives import Collective


MB = 10**6
V5E, V5P = chips.CHIPS['TPU v5e'].links, chips.CHIPS['TPU v5p'].links
H100 = chips.CHIPS['NVIDIA H100 80GB HBM3'].links


def torus(rows, columns):
  return tuple(
    roofline.Place(0, (i, j)) for i in range(rows) for j in range(columns)
  )


def collective(kind, group):
  return Collective(
    kind=kind, count=1, bytes=MB, group=tuple(group), example='', where=''
  )


@pytest.mark.parametrize(
  ('kind', 'seconds'),
  [
    ('all-gather', 15 / 16 * MB / 90e9),
    ('reduce-scatter', 15 / 16 * MB / 90e9),
    ('all-reduce', 2 * 15 / 16 * MB / 90e9),
    ('all-to-all', 16 / 4 * MB / 90e9),
    ('collective-permute', MB / 45e9),
  ],
)
def test_a_ring_of_a_pod(kind, seconds):
  network = roofline.Network(V5E, torus(16, 16))
  row = collective(kind, range(16))
  column = collective(kind, range(0, 256, 16))
  assert network.seconds(row) == pytest.approx(seconds)
  assert network.seconds(column) == pytest.approx(seconds)


def test_two_axes_of_a_torus_work_at_once():
  network = roofline.Network(V5E, torus(16, 16))
  found = network.seconds(collective('all-gather', range(256)))
  assert found == pytest.approx(255 / 256 * MB / 180e9)


def test_an_axis_without_its_closing_link_has_half_of_the_rate():
  part = collective('all-gather', range(8))
  of_v5e = roofline.Network(V5E, torus(8, 8)).seconds(part)
  assert of_v5e == pytest.approx(7 / 8 * MB / 45e9)
  # Where half of a ring of 16 is used, its ends are not neighbors.
  half = roofline.Network(V5E, torus(16, 16)).seconds(part)
  assert half == pytest.approx(of_v5e)
  # On v5p, rings close from four chips on.
  of_v5p = roofline.Network(V5P, torus(8, 8)).seconds(part)
  assert of_v5p == pytest.approx(7 / 8 * MB / 180e9)


def test_a_group_of_several_slices_uses_the_network_between_them():
  slices = [
    roofline.Place(number, place.coords)
    for number in range(4)
    for place in torus(1, 16)
  ]
  network = roofline.Network(V5E, tuple(slices))
  alone = network.seconds(collective('all-reduce', range(0, 64, 16)))
  assert alone == pytest.approx(2 * 3 / 4 * MB / 3.125e9)
  # Sixteen chips of a slice share the work.
  found = network.seconds(collective('all-reduce', range(64)))
  within = 2 * 15 / 16 * MB / 90e9
  assert found == pytest.approx(within + alone / 16)


def test_nodes_of_gpus():
  network = roofline.Network(H100, roofline.nodes(4, 8))
  inside = network.seconds(collective('all-gather', range(8)))
  assert inside == pytest.approx(7 / 8 * MB / 450e9)
  across = network.seconds(collective('all-gather', range(0, 32, 8)))
  assert across == pytest.approx(3 / 4 * MB / 50e9)
  spread = network.seconds(collective('all-to-all', range(8)))
  assert spread == pytest.approx(7 / 8 * MB / 450e9)
  moved = network.seconds(collective('collective-permute', (7, 8)))
  assert moved == pytest.approx(MB / 50e9)


def test_times_of_a_program():
  chip = chips.CHIPS['NVIDIA H100 80GB HBM3']
  program = program_lib.Program(
    flops_by_dtype={'bf16': 989 * 10**9, 'f32': 4945 * 10**8},
    hbm_bytes=335 * 10**8,
    collectives=(collective('all-gather', range(8)),) * 2,
    partitions=8,
    unknown_loops=(),
    uncounted=(),
  )
  network = roofline.Network(chip.links, roofline.nodes(1, 8))
  found = roofline.Seconds.of(program, chip, network)
  assert found.compute == pytest.approx(1e-3 + 1e-3)
  assert found.memory == pytest.approx(10e-3)
  assert found.interconnect == pytest.approx(2 * 7 / 8 * MB / 450e9)
  assert found.bound == 'memory'
  model = 989 * 10**9  # takes 1 ms at the peak
  peak = chip.peak('bfloat16')
  assert found.mfu_ceiling(model, peak) == pytest.approx(0.1)
  assert found.mfu_floor(model, peak) == pytest.approx(1e-3 / found.total)


class _Device:
  """A chip of a described topology."""

  def __init__(self, slice_index, coords):
    self.slice_index, self.coords = slice_index, coords


def test_places_of_devices():
  devices = [_Device(1, [2, 3, 0]), object()]
  assert roofline.places(devices) == (
    roofline.Place(1, (2, 3, 0)),
    roofline.Place(0),
  )
