"""LaDM: the cost of a stage, and the memory of the model for 1024 px.

  python benchmarks/ladm.py [--config=configs/ladm_shapes.py:layout] [--small]
  python benchmarks/ladm.py --memory [--width=32]
  python benchmarks/ladm.py --workdir=DIR [--count=64] [--figure=FILE.png]

Without flags, prints for each stage the operations of one network call for one
image, as the compiler counts them (it counts a scan over blocks once), then the
operations of a whole sample with its guidance, and images/s.

With --memory, samples one image of 1024 px with one step a stage, and prints
the peak memory of the process. The model is configs/ladm_text.py:1k with
narrower U-Nets and a small text encoder.

With --workdir, samples conditions of the test split from that run. Prints the
power of each band of the samples over that of the images of the split. --figure
draws the clean predictions of four samples at every second step, coarse to
fine.
"""

from collections.abc import Iterator
import pathlib
import resource

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import measuring
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data.pixels import images as data_images
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.files import whole_files
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.ladm import ladm


_CONFIG = flags.DEFINE_string('config', '', 'config of a LaDM')
_BATCH = flags.DEFINE_integer('batch', 16, 'images at a time')
_MEMORY = flags.DEFINE_bool('memory', False, 'sample one image of 1024 px')
_WIDTH = flags.DEFINE_integer('width', 32, 'U-Net width of --memory')
_WORKDIR = flags.DEFINE_string('workdir', '', 'a run to sample from')
_COUNT = flags.DEFINE_integer('count', 64, 'samples of that run')
_FIGURE = flags.DEFINE_string('figure', '', 'PNG of four samples in progress')


# The config that is timed by default, by the value of --small.
CONFIGS = {
  False: 'configs/ladm_shapes.py',
  True: 'configs/ladm_shapes.py:debug,two',
}


def main(argv: list[str]) -> None:
  if argv[1:]:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  if _WORKDIR.value:
    _print_samples(_WORKDIR.value, _COUNT.value, _FIGURE.value)
    return
  if _MEMORY.value:
    _print_memory(_WIDTH.value)
    return
  config = config_lib.load(_CONFIG.value or CONFIGS[measuring.SMALL.value])
  _print_costs(config, 1 if measuring.SMALL.value else _BATCH.value)


def _system(config: ConfigDict) -> ladm.LaDM:
  system = workdir_lib.create_system(config)
  if not isinstance(system, ladm.LaDM):
    raise app.UsageError(f'{config.name} is not a config of LaDM')
  return system


def _weights(system: ladm.LaDM) -> system_lib.Weights:
  """Returns initial weights, trained and pretrained ones."""
  params, extra = jax.jit(lambda key: system.init(key))(jax.random.key(0))
  frozen = {
    name: jax.jit(part.init)(jax.random.key(1))
    for name, part in system.pretrained_parts().items()
  }
  return system_lib.Weights(params=params, frozen=frozen, extra=extra)


def _print_costs(config: ConfigDict, batch: int) -> None:
  """Prints the operations of a stage and a sample, and the sampling speed."""
  system, spec = _system(config), spec_lib.from_config(config)
  weights = _weights(system)
  example = system.encoder.example
  rows = {k: jnp.concatenate([v] * batch) for k, v in example.items()}
  inputs = jax.jit(system.condition)(weights, rows).context
  taken = system_lib.stage_steps(system, weights, spec)
  total = 0.0

  def stages() -> Iterator[tuple[str, ...]]:
    nonlocal total
    for stage, steps in zip(system.stage_numbers, taken, strict=True):
      side = system.image_size // system.space.factor // 2 ** (stage - 1)
      cost = _operations(system, weights, stage, (batch, side, side), inputs)
      calls = steps * (1 if spec.guidance is None else 2)
      total += calls * cost
      yield f'{stage}', f'{side} x {side}', f'{cost / 1e9:.4g}', f'{calls}'

  measuring.print_table(('stage', 'grid', 'G operations', 'calls'), stages())
  keys = system_lib.image_keys(0, range(batch))
  run = jax.jit(
    lambda weights, keys, rows: system_lib.generate(
      system, weights, keys, rows, spec
    )[0]
  )
  compiled = run.lower(weights, keys, rows).compile()
  secs = measuring.best(lambda: compiled(weights, keys, rows))
  print(
    f'\na sample: {total / 1e9:.4g} G operations; {batch / secs:.3g} images/s'
  )


def _operations(
  system: ladm.LaDM,
  weights: system_lib.Weights,
  stage: int,
  shape: tuple[int, int, int],
  inputs: condition_lib.Inputs,
) -> float:
  """Returns the operations of a network call for one image.

  Args:
    system: the system whose network is called.
    weights: the weights of the system.
    stage: the number of the stage; 1 is the finest.
    shape: the (B, h, w) of the state.
    inputs: the condition of B images.
  """
  network = system.networks.of_stage(stage)
  params = weights.params['generator']['networks']
  tree = system.networks.params_of(params, stage)
  x = jnp.zeros((*shape, system.space.channels))
  call = jax.jit(lambda p, x, t, i: network.apply({'params': p}, x, t, i))
  compiled = call.lower(tree, x, jnp.zeros(1), inputs).compile()
  return measuring.flops(compiled) / shape[0]


def _print_memory(width: int) -> None:
  """Samples one image of 1024 px and prints the peak memory."""
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
  system, spec = _system(config), spec_lib.from_config(config)
  weights = _weights(system)
  count = sum(x.size for x in jax.tree.leaves(weights.params))
  side = config.data.image_size
  batch = {
    'condition_ids': jnp.zeros((1, 8), jnp.int32),
    'lr_image': jnp.zeros((1, side // 4, side // 4, 3)),
  }
  sample = jax.jit(
    lambda weights, keys, batch: system_lib.generate(
      system, weights, keys, batch, spec
    )[0]
  )
  keys = system_lib.image_keys(0, [0])
  image = jax.block_until_ready(sample(weights, keys, batch))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  steps = sum(system_lib.stage_steps(system, weights, spec))
  print(
    f'{image.shape[1]} px in {steps} steps, {count:,} parameters: peak'
    f' {peak:.1f} GiB'
  )


def _print_samples(workdir: str, count: int, figure: str) -> None:
  """Prints the band powers of samples and draws samples in progress."""
  config = workdir_lib.read_config(pathlib.Path(workdir))
  run = loading.load(config, workdir)
  system, spec = run.system, spec_lib.from_config(config)
  assert isinstance(system, ladm.LaDM)
  reader = data.create(config, 'test')
  source = batches_lib.Batches(reader, count, seed=0)
  batch = jax.jit(reader.finish)(mesh_lib.numeric(source.at(0)))
  keys = system_lib.image_keys(0, range(count))

  @jax.jit
  def sample(weights, batch):
    condition = system.condition(weights, batch)
    shape = (count, system.image_size, system.image_size)
    stages = system.stages(weights, condition, shape, spec)
    noise = sampling.Noise.from_keys(keys)
    solver = spec.make_solver()
    state, traces = sampling.run(stages, solver, noise, trace=True)
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
      f' images, {powers[0] / powers[1]:.3f}'
    )
  if figure:
    _draw_path(traces, batch['image'], figure)


def _draw_path(
  traces: list[sampling.Trace], real: jax.Array, file: str, rows: int = 4
) -> None:
  """Draws the clean predictions of the first samples, then real images."""
  side, columns = real.shape[1], []
  for trace in traces:
    for x0 in trace.x0[1::2, :rows]:
      wide = jnp.repeat(x0, side // x0.shape[1], axis=1)
      columns.append(jnp.repeat(wide, side // x0.shape[2], axis=2))
  columns.append(real[:rows])
  grid = np.concatenate(
    [np.asarray(data_images.to_uint8(c)) for c in columns], 2
  )
  whole_files.make_folder(pathlib.Path(file).parent)
  whole_files.save_png(file, np.concatenate(grid))


if __name__ == '__main__':
  measuring.run(main)
