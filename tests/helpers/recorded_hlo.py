"""Records the texts of small programs that the compiler of TPUs made.

  python -m tests.helpers.recorded_hlo

writes tests/planning/programs/NAME.txt for v5e:2x4, without what nothing reads
(places in sources, the compiler's settings, the code of kernels), and prints
the compiler's own count of operations, which has those of loops once.
"""

from collections.abc import Callable
import functools
import os
import pathlib
import re
import sys
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu import flash_attention
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


FOLDER = pathlib.Path(__file__).parents[1] / 'planning' / 'programs'
TOPOLOGY, SIDES = 'v5e:2x4', (2, 4)
ROWS = P(('data', 'fsdp'))
WIDTH, LAYERS, BATCH = 1024, 7, 512
ATTENTION = (8, 2, 512, 72)  # images, heads, tokens, head width
IMAGES, KERNEL = (8, 32, 32, 128), (3, 3, 128, 256)
TABLE, LOOK_UPS = (32768, 1024), 64
_NAMED = re.compile(r' (all-gather|all-reduce|while|custom-call)\(')
_COST = re.compile(r'"cost_estimate":\{[^}]*\}')


def layers(mesh: Any, weights: jax.Array, x: jax.Array) -> jax.Array:
  """A step of gradient descent on a scan of products, split over fsdp."""

  def loss(weights):
    def body(x, w):
      x = jax.nn.relu(x @ w.astype(jnp.bfloat16))
      return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, ROWS)), ()

    y, _ = jax.lax.scan(body, x.astype(jnp.bfloat16), weights)
    return (y.astype(jnp.float32) ** 2).sum()

  return weights - 0.1 * jax.grad(loss)(weights)


def convolution(mesh: Any, kernel: jax.Array, x: jax.Array) -> jax.Array:
  """A step of gradient descent on a convolution of stride 2."""
  del mesh

  def loss(kernel):
    y = jax.lax.conv_general_dilated(
      x.astype(jnp.bfloat16),
      kernel.astype(jnp.bfloat16),
      (2, 2),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return (y.astype(jnp.float32) ** 2).sum()

  return kernel - jax.grad(loss)(kernel)


def attention(mesh: Any, *arguments: jax.Array) -> tuple[jax.Array, ...]:
  """The gradients of the Pallas kernel of attention."""

  def loss(*arguments):
    split = jax.shard_map(
      flash_attention.flash_attention,
      mesh=mesh,
      in_specs=ROWS,
      out_specs=ROWS,
      check_vma=False,
    )
    return (split(*arguments).astype(jnp.float32) ** 2).sum()

  return jax.grad(loss, argnums=(0, 1, 2))(*arguments)


def look_ups(mesh: Any, table: jax.Array, ids: jax.Array) -> jax.Array:
  """Rows of a table that is too large for the vector memory."""
  del mesh
  return jnp.take(table, ids, axis=0, mode='clip') * 2


def batched(mesh: Any, left: jax.Array, right: jax.Array) -> jax.Array:
  """Products with a batch dimension."""
  del mesh
  return jnp.einsum('bnq,bqd->bnd', left, right)


# Name -> (function of the mesh and arrays, what it takes, what it gives back).
PROGRAMS: dict[str, tuple[Callable[..., Any], list[Any], tuple[int, ...]]] = {
  'layers': (
    layers,
    [
      ((LAYERS, WIDTH, WIDTH), P(None, 'fsdp'), jnp.float32),
      ((BATCH, WIDTH), ROWS, jnp.float32),
    ],
    (0,),
  ),
  'convolution': (
    convolution,
    [(KERNEL, P(), jnp.float32), (IMAGES, ROWS, jnp.float32)],
    (),
  ),
  'attention': (attention, [(ATTENTION, ROWS, jnp.bfloat16)] * 3, ()),
  'look_ups': (
    look_ups,
    [(TABLE, P(), jnp.float32), ((LOOK_UPS,), P(), jnp.int32)],
    (),
  ),
  'batched': (
    batched,
    [
      ((128, 256, 256), ROWS, jnp.bfloat16),
      ((128, 256, 72), ROWS, jnp.bfloat16),
    ],
    (),
  ),
}


def shortened(text: str) -> str:
  """Returns the text of a program without what nothing reads."""
  head, _, rest = text.partition('\n')
  start = re.search(r'^(%|ENTRY)', rest, re.MULTILINE)
  assert start is not None
  lines = [re.sub(r', (input_output|entry_comp).*(, num_part)', r'\2', head)]
  for line in rest[start.start() :].splitlines():
    line, _, settings = line.partition(', backend_config=')
    line = re.sub(r'^(ENTRY )?(%\S+) \(.*->.* \{$', r'\1\2 () -> () {', line)
    line = re.sub(r' stack_frame_id=\d+', '', line)
    if not _NAMED.search(line):
      line = re.sub(r', metadata=\{.*?\}', '', line)
    line = re.sub(r', sharding=\{[^}]*\}', '', line)
    line = re.sub(r', (operand_layout_constraints=\{.*?\}\})', '', line)
    if cost := _COST.search(settings):
      line += f', backend_config={{{cost[0]}}}'
    if line:
      lines.append(line)
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Compiles all programs."""
  os.environ |= {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
  }
  jax.config.update('jax_platforms', 'cpu')
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=TOPOLOGY
  )
  mesh = topologies.make_mesh(topology, SIDES, ('data', 'fsdp'))
  FOLDER.mkdir(exist_ok=True)
  for name, (function, inputs, donated) in PROGRAMS.items():
    shapes = [
      jax.ShapeDtypeStruct(dims, kind, sharding=NamedSharding(mesh, split))
      for dims, split, kind in inputs
    ]
    run = jax.jit(functools.partial(function, mesh), donate_argnums=donated)
    program = run.lower(*shapes).compile()
    text = shortened(program.as_text())
    (FOLDER / f'{name}.txt').write_text(text)
    flops = program.cost_analysis()['flops']
    sys.stdout.write(f'{name}: {len(text)} bytes, {flops:.0f} FLOP\n')


if __name__ == '__main__':
  main()
