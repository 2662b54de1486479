"""What XLA plans to move for residual blocks of a U-Net, over the least.

  python benchmarks/residual_plan.py [--topology=v5e:1x1] [--only=192] [--small]

Two blocks in a row, forward and with all gradients, in bfloat16, for 16 rows a
chip, compiled without a TPU (`pip install 'pyramid_jax[tpu]'`). The least is
that of `planning/least_traffic.py`: each convolution and linear layer reads its
two sides and writes its result once, in the gradients too. `--small` compiles
small blocks for two GPUs, which needs no libtpu.
"""

from absl import app
from absl import flags
import planned

from pyramid_jax.planning import topologies


_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:1x1', 'that is compiled for')
_ONLY = flags.DEFINE_integer('only', 0, 'channels of the row to make; 0: all')
_SMALL = flags.DEFINE_bool('small', False, 'small blocks, for GPUs')

ROWS = 16  # of a chip
# Channels and side of a map: the levels of LDM for ImageNet.
SHAPES = ((192, 64), (384, 32), (576, 16), (960, 8))
HEAD = ('channels', 'side', 'least, MiB', 'HBM, MiB', 'HBM / least')
HEAD = (*HEAD, 'temporary, MiB')


def row(
  topology: topologies.Topology, channels: int, side: int
) -> tuple[object, ...]:
  """Returns a row of the table."""
  mesh = planned.mesh_of(topology)
  import jax
  import jax.numpy as jnp

  from pyramid_jax.distributed import flops
  from pyramid_jax.networks.layers import blocks
  from pyramid_jax.planning import least_traffic

  block = blocks.ResBlock(out_channels=channels, dtype=jnp.bfloat16)
  rows = ROWS * mesh.size
  x = jax.ShapeDtypeStruct((rows, side, side, channels), jnp.bfloat16)
  emb = jax.ShapeDtypeStruct((rows, 4 * channels), jnp.bfloat16)
  params = (jax.eval_shape(block.init, jax.random.key(0), x, emb),) * 2

  def both(params, x, emb):
    return block.apply(params[1], block.apply(params[0], x, emb), emb)

  def step(batch, params):
    x, emb, dy = batch
    y, pull = jax.vjp(both, params, x, emb)
    return y, pull(dy)

  arguments = planned.placed(mesh, (x, emb, x), params)
  measure = least_traffic.measure(params, mesh.size)
  least = flops.count(step, *arguments, measure=measure)
  moved, temporary = planned.compiled(mesh, step, arguments)
  sizes = [f'{size / 2**20:.1f}' for size in (least, moved, temporary)]
  return channels, side, *sizes[:2], f'{moved / least:.2f}', sizes[2]


def main(_: list[str]) -> None:
  """Prints the table."""
  name, shapes = _TOPOLOGY.value, SHAPES
  if _SMALL.value:
    name, shapes = 'h100:1x2', ((32, 8),)
  print('| ' + ' | '.join(HEAD) + ' |')
  print('|' + ' --- |' * len(HEAD))
  for channels, side in shapes:
    if _ONLY.value in (0, channels):
      cells = row(topologies.parse(name), channels, side)
      print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)


if __name__ == '__main__':
  app.run(main)
