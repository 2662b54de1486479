r"""Speed of DiffiT, and its share of the machine's matrix rate.

Times the latent network XL/2 (561 M parameters, 256 tokens an image) and the
image-space network of the CIFAR-10 config, each with every attention kernel of
the platform:
  a forward pass;
  a training step of the trainer (loss, gradients, AdamW, averages) with every
    policy of `config.remat` that its devices have.
The rate of each is compared with that of large matrix products, measured in the
same run. A training step counts as three forward passes, whatever is
recomputed.

  python benchmarks/diffit.py [--networks=latent,image] [--batch=64] \
      [--image_batch=512] [--rounds=5] [--small]

`--small` times the debug config with one block and an image-space network with
one level. Everything is compiled first, in parallel. Prints Markdown tables.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
import dataclasses
import os
import pathlib
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import measuring
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_loss
from pyramid_jax.distributed import flops
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks import diffit
from pyramid_jax.networks.layers import remat as remat_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.training import step as state_lib


_NETWORKS = flags.DEFINE_list('networks', 'latent,image', 'networks to time')
_BATCH = flags.DEFINE_integer('batch', 0, 'latents; 0 = 64, or 1 with --small')
_IMAGE_BATCH = flags.DEFINE_integer(
  'image_batch', 0, 'images; 0 = 512, 1 if small'
)

CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'diffit_imagenet.py'
KERNELS = {'gpu': ('xla', 'cudnn'), 'tpu': ('xla', 'flash'), 'cpu': ('xla',)}
MATRIX = {'gpu': 8192, 'tpu': 8192, 'cpu': 1024}  # side of the products
SIDE = 32  # px of CIFAR-10
IMAGE_SMALL = {
  'width': 16,
  'channel_mult': (1,),
  'num_blocks': 1,
  'head_dim': 16,
  'time_dim': 32,
  'stem_stride': 2,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSystem:
  """DiffiT in image space as the trainer needs it: a loss, without labels."""

  network: diffit.DiffiT

  def init(self, key):
    x = jnp.zeros((1, SIDE, SIDE, 3))
    return {'generator': self.network.init(key, x, jnp.zeros(1))['params']}, {}

  def ema_patterns(self):
    return ['generator/.*']

  def losses(self, weights, key, step, batch):
    del step
    image, distribution = (
      batch['image'],
      edm_loss.make_distribution('edm'),
    )
    keys = jax.random.split(key, 3)

    def network(x, label):
      return self.network.apply(
        {'params': weights.params['generator']},
        x,
        label,
        train=True,
        rngs={'dropout': keys[2]},
      )

    loss, metrics = edm_loss.loss(
      lambda x, sigma: edm.denoise(edm.EDM(), network, x, sigma),
      distribution,
      image,
      distribution.draw(keys[0], image.shape[0]),
      jax.random.normal(keys[1], image.shape),
    )
    return {'generator': (loss, metrics)}, weights.extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """A system to time.

  Attributes:
    system: the system of the network.
    config: the config of its run.
    batch: the shapes of a batch.
    forward: maps (parameters of the network, batch) to the network's output.
  """

  system: Any
  config: ConfigDict
  batch: Mapping[str, Any]
  forward: Callable[[Any, Any], jax.Array]

  @property
  def count(self) -> int:
    """The number of images of a batch."""
    return self.config.train.batch_size


def main(argv: list[str]) -> None:
  del argv
  # The weights, their averages and the optimizer's of XL/2 take 9 GB.
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.92')
  start = time.monotonic()
  device: Any = jax.devices()[0]
  side = 128 if measuring.SMALL.value else MATRIX[device.platform]
  rate = measuring.matrix_rate(side, _dtype(device.platform))
  print(
    f'{device.device_kind}, jax {jax.__version__}: {_dtype(device.platform)}'
    f' products of side {side} run at {rate / 1e12:.3g} TFLOP/s.'
  )
  for name in _NETWORKS.value:
    _time_network(name, device.platform, rate)
  print(f'\nAll of it took {time.monotonic() - start:.0f} s.')


def _time_network(name: str, platform: str, rate: float) -> None:
  """Prints the table of one network."""
  make = {'latent': _latent, 'image': _image}[name]
  plain = make(platform, 'xla', remat_lib.NONE)
  state = _state_shapes(plain)
  tree = state.params['generator']
  parameters = sum(leaf.size for leaf in jax.tree.leaves(tree))
  work = flops.count(plain.forward, tree, plain.batch)
  print(
    f'\n{name}: {parameters:,} parameters,'
    f' {work / 2e9 / plain.count:.4g} GMACs a forward pass of an image,'
    f' {plain.count} images at a time.'
  )
  start = time.monotonic()
  programs = _compiled(make, platform, state)
  print(f'Compiled in {time.monotonic() - start:.0f} s.')
  measuring.print_table(
    (
      'operation',
      'attention',
      'ms',
      'images/s',
      'TFLOP/s',
      'share of the rate',
    ),
    _rows(programs, plain, state, work, rate),
  )


def _rows(
  programs: dict[tuple[str, str], futures.Future[Any]],
  plain: Subject,
  state: state_lib.TrainState,
  work: float,
  rate: float,
) -> Iterator[tuple[str, ...]]:
  """Runs the programs of a network.

  Args:
    programs: {(operation, attention kernel): compiled program}.
    plain: the network that keeps all activations.
    state: the shapes of its training state.
    work: the FLOPs of a forward pass of a batch.
    rate: the FLOP/s of matrix products.
  """
  batch, held = _batch(plain), [_fresh(state)]
  for (what, kernel), program in programs.items():
    run, factor = (_step, 3) if 'step' in what else (_pass, 1)
    try:
      secs = _seconds(run, program.result(), held, batch)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
      reason = str(error).strip().splitlines()[0][:160]
      yield what, kernel, f'fails: {reason}', '', '', ''
      held.clear()  # A step that failed has consumed its state.
      held.append(_fresh(state))
      continue
    speed = factor * work / secs
    yield (
      what,
      kernel,
      f'{1e3 * secs:.1f}',
      f'{plain.count / secs:.1f}',
      f'{speed / 1e12:.3g}',
      f'{speed / rate:.1%}',
    )


def _compiled(
  make: Callable[[str, str, str], Subject],
  platform: str,
  state: state_lib.TrainState,
) -> dict[tuple[str, str], futures.Future[Any]]:
  """Returns {(operation, attention kernel): program being compiled}."""
  policies = [
    policy
    for policy in remat_lib.POLICIES
    if policy != remat_lib.OFFLOAD or platform != 'cpu'
  ]
  programs = {}
  # XLA compiles several programs in parallel.
  with futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
    for kernel in KERNELS[platform]:
      subjects = {policy: make(platform, kernel, policy) for policy in policies}
      programs['forward', kernel] = pool.submit(
        _compile_forward, subjects[remat_lib.NONE], state
      )
      for policy, subject in subjects.items():
        programs[f'training step, remat={policy}', kernel] = pool.submit(
          _compile_step, subject, state
        )
  return programs


def _dtype(platform: str) -> str:
  return 'float32' if platform == 'cpu' else 'bfloat16'


def _latent(platform: str, kernel: str, remat: str) -> Subject:
  """Returns the latent network, on latents as they are read from a cache."""
  config = config_lib.load(
    f'{CONFIG}:{"debug" if measuring.SMALL.value else "256"}'
  )
  count = _BATCH.value or (1 if measuring.SMALL.value else 64)
  _set(config, platform, kernel, remat, count)
  if measuring.SMALL.value:
    config_lib.override(config, {'network.depth': '1'})
  system = workdir_lib.create_system(config)
  shape = system.state_shape((count, system.image_size, system.image_size))
  batch = {
    'latent_mean_0': jax.ShapeDtypeStruct(shape, jnp.float16),
    'latent_std_0': jax.ShapeDtypeStruct(shape, jnp.float16),
    'class': jax.ShapeDtypeStruct((count,), jnp.int32),
  }

  def forward(tree, batch):
    return system.network.apply(
      {'params': tree['network']},
      batch['latent_mean_0'].astype(jnp.float32),
      jnp.full(count, 500.0),
      batch['class'],
    )

  return Subject(system=system, config=config, batch=batch, forward=forward)


def _image(platform: str, kernel: str, remat: str) -> Subject:
  config = config_lib.base('diffit')
  count = _IMAGE_BATCH.value or (1 if measuring.SMALL.value else 512)
  _set(config, platform, kernel, remat, count)
  network = diffit.DiffiT(
    **(IMAGE_SMALL if measuring.SMALL.value else {}),
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
    attention=kernel,
  )
  batch = {'image': jax.ShapeDtypeStruct((count, SIDE, SIDE, 3), jnp.float32)}

  def forward(tree, batch):
    return network.apply({'params': tree}, batch['image'], jnp.zeros(count))

  return Subject(
    system=ImageSystem(network=network),
    config=config,
    batch=batch,
    forward=forward,
  )


def _set(
  config: ConfigDict, platform: str, kernel: str, remat: str, count: int
) -> None:
  values = {
    'dtype': _dtype(platform),
    'attention': kernel,
    'remat': remat,
    'train.batch_size': str(count),
    'optimizer.name': 'adamw',
  }
  config_lib.override(config, values)


def _mesh(subject: Subject) -> jax.sharding.Mesh:
  return mesh_lib.create(subject.config.mesh, jax.devices()[:1])


def _state_shapes(subject: Subject) -> state_lib.TrainState:
  """Returns the state of a run as shapes with shardings."""
  shapes = jax.eval_shape(
    lambda: state_lib.create(subject.system, subject.config)
  )
  min_size = subject.config.mesh.fsdp_min_size
  return sharding.abstract(shapes, _mesh(subject), min_size)


def _fresh(state: state_lib.TrainState) -> state_lib.TrainState:
  """Returns a state with arbitrary weights."""
  zeros = jax.jit(
    lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
  )()
  params = jax.device_put(
    measuring.device_params(state.params),
    jax.tree.map(lambda leaf: leaf.sharding, state.params),
  )
  return zeros.replace(params=params)


def _batch(subject: Subject) -> dict[str, jax.Array]:
  """Returns a batch of ones on the device."""
  ones = {
    name: jnp.ones(leaf.shape, leaf.dtype)
    for name, leaf in subject.batch.items()
  }
  return jax.device_put(ones, mesh_lib.batch_sharding(_mesh(subject)))


def _compile_forward(subject: Subject, state: state_lib.TrainState) -> Any:
  forward = jax.jit(subject.forward)
  return forward.lower(state.params['generator'], subject.batch).compile()


def _compile_step(subject: Subject, state: state_lib.TrainState) -> Any:
  mesh = _mesh(subject)
  step = state_lib.make_step(
    subject.system, subject.config, lambda batch: batch, mesh
  )
  return state_lib.compile_step(step, mesh, state, {}, subject.batch)


def _seconds(
  run: Callable[..., Any], program: Any, held: list[Any], batch: Any
) -> float:
  return measuring.best(lambda: run(program, held, batch))


def _pass(program: Any, held: list[Any], batch: Any) -> Any:
  return program(held[0].params['generator'], batch)


def _step(program: Any, held: list[Any], batch: Any) -> Any:
  """Takes a step; the program consumes the state that is held."""
  held[0], metrics = program(held[0], {}, batch)
  return metrics


if __name__ == '__main__':
  measuring.run(main)
