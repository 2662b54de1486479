"""What XLA plans to move for one attention: its own, or the flash kernel.

  python benchmarks/attention_plan.py [--topology=v5e:2x4] [--small]

Tokens are projected to queries, keys and values, attended to and projected, in
bfloat16, and the gradients of all are taken, for 16 rows a chip. Each program
is compiled as for a pod (`pip install 'pyramid_jax[tpu]'`, no TPU is needed);
printed is what a chip reads and writes and what it needs beside arguments and
results. Blocks that a kernel reads again are not in the bytes. `--small`
compiles one small attention of XLA for two GPUs, which needs no libtpu.
"""

from collections.abc import Iterator

from absl import app
from absl import flags
import planned

from pyramid_jax.planning import topologies


_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x4', 'that is compiled for')
_SMALL = flags.DEFINE_bool('small', False, 'one small attention, for GPUs')

ROWS = 16  # of a chip
# Queries, keys, heads, their width, whether a learned table is added.
SHAPES = (
  (256, 256, 16, 72, True),
  (512, 512, 16, 72, True),
  (1024, 1024, 16, 72, True),
  (1024, 1024, 1, 384, False),
  (4096, 4096, 1, 512, False),
  (4096, 77, 8, 40, False),
  (1024, 77, 8, 80, False),
)
HEAD = ('tokens', 'heads', 'bias', 'kernel', 'HBM, MiB', 'temporary, MiB')


def _plans(name: str, shapes: tuple[tuple, ...]) -> Iterator[tuple]:
  """Yields the rows of the table."""
  topology = topologies.parse(name)
  kernels = ('xla', 'flash') if topology.is_tpu else ('xla',)
  for t, s, heads, width, has_bias in shapes:
    for kernel in kernels:
      moved, temporary = _compiled(
        topology, kernel, (t, s, heads, width), has_bias
      )
      yield (
        f'{t} x {s}',
        f'{heads} x {width}',
        'yes' if has_bias else 'no',
        kernel,
        f'{moved / 2**20:.1f}',
        f'{temporary / 2**20:.1f}',
      )


def _compiled(
  topology: topologies.Topology,
  kernel: str,
  sizes: tuple[int, int, int, int],
  has_bias: bool,
) -> tuple[float, int]:
  """Returns the bytes that move, and those of what is temporary, of a chip."""
  mesh = planned.mesh_of(topology)
  from einops import rearrange
  import jax
  import jax.numpy as jnp

  from pyramid_jax.networks.layers import attention

  t, s, heads, width = sizes

  def loss(batch, weights):
    x, context = batch
    context = x if s == t else context
    sources = (x, context, context)
    q, k, v = (
      rearrange(source @ weight, 'b n (h d) -> b n h d', h=heads)
      for source, weight in zip(sources, weights[:3], strict=True)
    )
    bias = weights[4] if has_bias else None
    out = attention.dot_product_attention(
      q, k, v, bias=bias, implementation=kernel
    )
    out = rearrange(out, 'b n h d -> b n (h d)') @ weights[3]
    return jnp.square(out.astype(jnp.float32)).sum()

  rows, channels = ROWS * mesh.size, heads * width
  shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.bfloat16)
  weights = [shape(channels, channels)] * 4
  if has_bias:
    weights.append(jax.ShapeDtypeStruct((heads, t, s), jnp.float32))
  batch = shape(rows, t, channels), shape(rows, s, channels)
  arguments = planned.placed(mesh, batch, weights)
  return planned.compiled(mesh, jax.grad(loss, (0, 1)), arguments)


def main(_: list[str]) -> None:
  """Prints the table."""
  name, shapes = _TOPOLOGY.value, SHAPES
  if _SMALL.value:
    name, shapes = 'h100:1x2', ((64, 64, 2, 8, True),)
  print('| ' + ' | '.join(HEAD) + ' |')
  print('|' + ' --- |' * len(HEAD))
  for row in _plans(name, shapes):
    print('| ' + ' | '.join(row) + ' |', flush=True)


if __name__ == '__main__':
  app.run(main)
