r"""LaDM: what a stage costs, and the memory of the model for 1024 px.

  python benchmarks/ladm.py [--config=configs/ladm_shapes.py:layout]
  python benchmarks/ladm.py --memory [--width=32]
  python benchmarks/ladm.py --workdir=DIR [--count=64] [--picture=FILE.png]

Without flags, prints of every stage the operations of one network call for one
image, as the compiler counts them (the blocks of a DiffiT as one), and of whole
samples, guidance included, operations and images/s. With --memory, samples one
picture of 1024 px in one step a stage with configs/ladm_text.py:1k, whose
U-Nets are made narrower and whose text encoder is a small one, and prints the
peak memory of the process.
With a run, samples conditions of the test split: prints the power of each band
of the samples over that of the split's pictures, and draws what is predicted of
four samples at every second step, coarse to fine.
"""

import pathlib
import resource
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import images as data_images
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import sampling
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.ladm import ladm


_CONFIG = flags.DEFINE_string('config', 'configs/ladm_shapes.py', 'of a LaDM')
_BATCH = flags.DEFINE_integer('batch', 16, 'images at a time')
_MEMORY = flags.DEFINE_bool('memory', False, 'sample one picture of 1024 px')
_WIDTH = flags.DEFINE_integer('width', 32, 'of the U-Nets with --memory')
_WORKDIR = flags.DEFINE_string('workdir', '', 'a run to sample from')
_COUNT = flags.DEFINE_integer('count', 64, 'samples of that run')
_PICTURE = flags.DEFINE_string('picture', '', 'PNG of the way of four samples')


def weights_of(system: ladm.LaDM) -> system_lib.Weights:
  """Returns initial weights of what is trained and of what is not."""
  params, extra = jax.jit(lambda key: system.init(key, {}))(jax.random.key(0))
  frozen = {
    name: jax.jit(part.init)(jax.random.key(1))
    for name, part in system.frozen_parts().items()
  }
  return system_lib.Weights(params=params, frozen=frozen, extra=extra)


def operations(compiled: jax.stages.Compiled) -> float:
  """Returns the floating-point operations of a program."""
  cost = compiled.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  return float(cost.get('flops', 0.0))


def print_costs(system: ladm.LaDM, batch: int) -> None:
  """Prints operations a stage and a sample, and the speed of sampling."""
  weights = weights_of(system)
  params = weights.params['generator']['networks']
  example = system.encoder.example
  one = {k: jnp.concatenate([v] * batch) for k, v in example.items()}
  condition = jax.jit(system.condition)(weights, one)
  inputs = condition.context
  total = 0.0
  for stage, steps, scale in zip(
    system.stage_numbers, system.steps, system.guidance, strict=True
  ):
    n = system.image_size // system.space.factor // 2 ** (stage - 1)
    network = system.networks.of_stage(stage)
    tree = system.networks.params_of(params, stage)
    x = jnp.zeros((batch, n, n, system.space.channels))
    call = jax.jit(
      lambda p, x, t, i, net=network: net.apply({'params': p}, x, t, i)
    )
    cost = operations(call.lower(tree, x, jnp.zeros(1), inputs).compile())
    calls = (steps + (stage == 1)) * (1 if scale == 1 else 2)
    total += calls * cost / batch
    print(
      f'stage {stage}: {n} x {n}, {cost / batch / 1e9:.3f} G operations a call,'
      f' {calls} calls'
    )

  def sample(weights, key):
    return system_lib.generate(system, weights, key, one, batch)[0]

  run = jax.jit(sample).lower(weights, jax.random.key(0)).compile()
  jax.block_until_ready(run(weights, jax.random.key(0)))
  begin = time.perf_counter()
  jax.block_until_ready(run(weights, jax.random.key(1)))
  seconds = time.perf_counter() - begin
  print(
    f'a sample: {total / 1e9:.2f} G operations; {batch / seconds:.2f} images/s'
  )


def print_memory(width: int) -> None:
  """Samples one picture of 1024 px and prints the peak memory."""
  config = config_lib.load('configs/ladm_text.py:1k')
  with config.unlocked():
    config.network.model_channels = width
    config.network.num_head_channels = 32
    config.condition.encoder = 'tokens'
    config.condition.dim, config.condition.depth = 64, 1
    config.condition.heads, config.condition.head_dim = 2, 32
    config.dtype = 'float32'
    config.sample.steps = 1
    config.sample.guidance = 1.0
  system = workdir_lib.create_system(config)
  assert isinstance(system, ladm.LaDM)
  weights = weights_of(system)
  count = sum(x.size for x in jax.tree.leaves(weights.params))
  side = config.data.image_size
  batch = {
    'condition_ids': jnp.zeros((1, 8), jnp.int32),
    'lr_image': jnp.zeros((1, side // 4, side // 4, 3)),
  }

  @jax.jit
  def sample(weights, batch):
    condition = system.condition(weights, batch)
    stages = system.stages(weights, condition, (1, side, side))
    noise = sampling.Noise.from_key(jax.random.key(0))
    return system.decode(weights, sampling.run(stages, system.solver, noise))

  image = jax.block_until_ready(sample(weights, batch))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(
    f'{image.shape[1]} px in {sum(system.steps) + 1} steps, {count:,}'
    f' parameters: peak {peak:.1f} GiB'
  )


def print_samples(workdir: str, count: int, picture: str) -> None:
  """Prints the band powers of samples and draws how they come about."""
  config = workdir_lib.read_config(pathlib.Path(workdir))
  run = loading.load(config, workdir)
  system = run.system
  assert isinstance(system, ladm.LaDM)
  reader = data.create(config, 'test')
  source = batches_lib.Batches(reader, count, seed=0)
  batch = jax.jit(reader.finish)(mesh_lib.spread(run.mesh, source.at(0)))

  @jax.jit
  def sample(weights, batch):
    condition = system.condition(weights, batch)
    shape = (count, system.image_size, system.image_size)
    stages = system.stages(weights, condition, shape)
    noise = sampling.Noise.from_key(jax.random.key(0))
    state, traces = sampling.run(stages, system.solver, noise, trace=True)
    return system.decode(weights, state), traces

  images, traces = sample(run.weights, batch)
  for index, (made, real) in enumerate(
    zip(
      laplacian.bands(images, system.process.levels),
      laplacian.bands(batch['image'], system.process.levels),
      strict=True,
    )
  ):
    powers = [float(jnp.sqrt(jnp.square(x).mean())) for x in (made, real)]
    print(
      f'band {index + 1}: {powers[0]:.4f} of samples, {powers[1]:.4f} of'
      f' pictures, {powers[0] / powers[1]:.3f}'
    )
  if picture:
    draw_path(traces, batch['image'], picture)


def draw_path(
  traces: list[sampling.Trace], real: jax.Array, file: str, rows: int = 4
) -> None:
  """Draws the clean predictions of the first samples, then the real ones."""
  side, columns = real.shape[1], []
  for trace in traces:
    for x0 in trace.x0[1::2, :rows]:
      wide = jnp.repeat(x0, side // x0.shape[1], axis=1)
      columns.append(jnp.repeat(wide, side // x0.shape[2], axis=2))
  columns.append(real[:rows])
  grid = np.concatenate(
    [np.asarray(data_images.to_uint8(c)) for c in columns], 2
  )
  grids.save(pathlib.Path(file), np.concatenate(grid))


def main(argv: list[str]) -> None:
  if argv[1:]:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  if _MEMORY.value:
    print_memory(_WIDTH.value)
    return
  if _WORKDIR.value:
    print_samples(_WORKDIR.value, _COUNT.value, _PICTURE.value)
    return
  config = config_lib.load(_CONFIG.value)
  system = workdir_lib.create_system(config)
  if not isinstance(system, ladm.LaDM):
    raise app.UsageError(f'--config={_CONFIG.value} is no LaDM')
  print_costs(system, _BATCH.value)


if __name__ == '__main__':
  app.run(main)
