"""What compiled programs cost, on eight virtual devices of a CPU."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from pyramid_jax.planning import program as program_lib


MESH = jax.make_mesh(
  (2, 4), ('data', 'fsdp'), axis_types=(jax.sharding.AxisType.Auto,) * 2
)
FLOATS = 4  # bytes of one
FSDP = 4


def compiled(function, *arguments, **options):
  return jax.jit(function, **options).lower(*arguments).compile()


def program(function, *arguments, **options):
  text = compiled(function, *arguments, **options).as_text()
  return program_lib.Program.of(text)


def shape(*dims, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(dims, dtype)


def placed(dims, *axes):
  sharding = NamedSharding(MESH, P(*axes))
  return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=sharding)


def products(x, ws):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]


def test_a_scan_of_seven_products_has_seven_times_one():
  found = program(products, shape(32, 64), shape(7, 64, 64))
  assert found.flops == 7 * 2 * 32 * 64 * 64
  assert found.flops_by_dtype == {'f32': found.flops}
  assert found.unknown_loops == ()


def test_scans_within_scans_multiply():
  nested = lambda x, ws: jax.lax.scan(
    lambda x, _: (products(x, ws), None), x, None, length=3
  )[0]
  found = program(nested, shape(32, 64), shape(7, 64, 64))
  assert found.flops == 3 * 7 * 2 * 32 * 64 * 64


def test_a_loop_with_a_traced_bound_is_named_and_counted_once():
  def run(x, w, n):
    return jax.lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ w), x)

  found = program(run, shape(32, 64), shape(64, 64), shape(dtype=jnp.int32))
  assert found.flops == 2 * 32 * 64 * 64
  assert found.unknown_loops == ('jit(run)/while',)


def test_of_branches_the_largest_counts():
  def run(i, x, w):
    branches = [lambda x: x, lambda x: jnp.tanh(x @ w) @ w, lambda x: x @ w]
    return jax.lax.switch(i, branches, x)

  found = program(run, shape(dtype=jnp.int32), shape(32, 64), shape(64, 64))
  assert found.flops == 2 * 2 * 32 * 64 * 64


def convolved(x, kernel, stride=1, padding='VALID', dilation=1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    lhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@pytest.mark.parametrize(
  ('options', 'multiplications'),
  [
    ({}, 14 * 14 * 9),
    ({'padding': 'SAME'}, 16 * 16 * 9),
    ({'padding': 'SAME', 'stride': 2}, 8 * 8 * 9),
    # Zeros between the inputs of a transposed convolution do not count.
    ({'padding': [(1, 2), (1, 2)], 'dilation': 2}, 32 * 32 * 9 // 4),
  ],
)
def test_a_convolution_costs_as_much_again_for_each_gradient(
  options, multiplications
):
  forward = functools.partial(convolved, **options)
  x, kernel = shape(2, 16, 16, 8), shape(3, 3, 8, 24)
  expected = 2 * 2 * 8 * 24 * multiplications
  assert program(forward, x, kernel).flops == expected

  loss = lambda x, kernel: jnp.sum(forward(x, kernel) ** 2)
  both = jax.value_and_grad(loss, argnums=(0, 1))
  assert program(both, x, kernel).flops == 3 * expected


def test_products_are_those_of_the_compilers_own_count():
  # Without loops and without elementwise operations, which it counts too.
  def run(a, b, x, kernel):
    return jnp.einsum('hij,hjk->hik', a, b), convolved(x, kernel)

  arguments = (
    shape(4, 32, 16),
    shape(4, 16, 24),
    shape(2, 16, 16, 8),
    shape(3, 3, 8, 24),
  )
  done = compiled(run, *arguments)
  found = program_lib.Program.of(done.as_text())
  assert found.flops == done.cost_analysis()['flops'] > 0


def test_traffic_is_that_of_the_compilers_own_count():
  def run(x, w):
    x = jnp.tanh(x @ w) @ w.T
    return jax.nn.softmax(x[:, :100]), x.sum()

  done = compiled(run, shape(256, 512), shape(512, 512))
  found = program_lib.Program.of(done.as_text())
  expected = done.cost_analysis()['bytes accessed']
  assert found.hbm_bytes == pytest.approx(expected, rel=0.02)


def test_a_look_up_reads_the_rows_that_it_takes():
  # The compiler's own count has the whole table.
  run = lambda table, ids: jnp.take(table, ids, axis=0, mode='clip') + 1
  found = program(run, shape(4096, 512), shape(64, dtype=jnp.int32))
  rows = FLOATS * 64 * 512
  assert 2 * rows < found.hbm_bytes < 3 * rows


def test_a_scan_reads_each_layer_once():
  x, ws = shape(8, 64), shape(50, 64, 64)
  found = program(products, x, ws)
  layers = FLOATS * 50 * 64 * 64
  # This compiler copies the slice of a layer and reads the copy; the rest are
  # activations of 8 rows.
  assert 3 * layers < found.hbm_bytes < 4 * layers


def test_an_update_in_place_moves_what_it_changes():
  def run(buffer, rows):
    def body(buffer, step):
      i, row = step
      return jax.lax.dynamic_update_slice(buffer, row[None], (i, 0)), None

    return jax.lax.scan(body, buffer, (jnp.arange(100), rows))[0]

  found = program(run, shape(100, 1000), shape(100, 1000), donate_argnums=0)
  rows = FLOATS * 100 * 1000
  assert 2 * rows <= found.hbm_bytes < 6 * rows  # and not 100 times as much


def inside(function, into, out):
  return jax.shard_map(
    function, mesh=MESH, in_specs=into, out_specs=out, check_vma=False
  )


@pytest.mark.parametrize(
  ('function', 'into', 'out', 'kind', 'size', 'group'),
  [
    (
      lambda x: jax.lax.all_gather(x, 'fsdp', tiled=True),
      P('fsdp'),
      P(),
      'all-gather',
      64 * 32,
      (0, 1, 2, 3),
    ),
    (
      lambda x: jax.lax.psum(x, 'data'),
      P('data'),
      P(),
      'all-reduce',
      32 * 32,
      (0, 4),
    ),
    (
      lambda x: jax.lax.psum_scatter(x, 'fsdp', tiled=True),
      P(),
      P('fsdp'),
      'reduce-scatter',
      64 * 32,
      (0, 1, 2, 3),
    ),
    (
      lambda x: jax.lax.all_to_all(x, 'fsdp', 1, 0, tiled=True),
      P('fsdp'),
      P('fsdp'),
      'all-to-all',
      16 * 32,
      (0, 1, 2, 3),
    ),
    (
      lambda x: jax.lax.ppermute(x, 'data', [(0, 1), (1, 0)]),
      P('data'),
      P('data'),
      'collective-permute',
      32 * 32,
      (0, 4),
    ),
  ],
)
def test_collectives_have_their_bytes_and_groups(
  function, into, out, kind, size, group
):
  found = program(inside(function, into, out), shape(64, 32))
  (collective,) = found.collectives
  assert (collective.kind, collective.group) == (kind, group)
  assert (collective.count, collective.bytes) == (1, FLOATS * size)


def test_collectives_of_a_loop_count_as_often_as_it_runs():
  def run(x):
    step = lambda x, _: (jax.lax.psum(x, ('data', 'fsdp')) / 8, None)
    return jax.lax.scan(step, x, None, length=5)[0]

  found = program(inside(run, P(), P()), shape(64, 32))
  assert found.by_kind() == {'all-reduce': (5, 5 * FLOATS * 64 * 32)}
  assert found.collectives[0].group == tuple(range(8))


def test_weights_split_over_fsdp_are_gathered_and_gradients_scattered():
  def loss(w, x):
    y = jax.lax.with_sharding_constraint(
      jnp.tanh(x @ w), NamedSharding(MESH, P(('data', 'fsdp')))
    )
    return jnp.sum(y**2)

  weights = placed((64, 128), 'fsdp')
  found = program(
    jax.grad(loss),
    weights,
    placed((512, 64), ('data', 'fsdp')),
    out_shardings=weights.sharding,
  )
  whole = FLOATS * 64 * 128
  # This compiler reduces over all chips and cuts: that is a reduce-scatter
  # over fsdp, and an all-reduce over data of what is left.
  assert found.by_kind() == {
    'all-gather': (1, whole),
    'reduce-scatter': (1, whole),
    'all-reduce': (1, whole // FSDP),
  }
  assert found.flops == 2 * 2 * 512 * 64 * 128 // 8


def test_a_text_that_is_no_program_is_refused():
  with pytest.raises(ValueError, match="no HLO module.*'hello'"):
    program_lib.Program.of('hello')
