"""The only way to images: weights, a system and a mesh, called with values.

`Pipeline` compiles the programs, fills batches up until they divide among the
devices, places them, and brings the images to the host.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import copy
import dataclasses
import functools
from typing import Any
from typing import cast

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import images as data_images
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.networks.layers import attention
from pyramid_jax.runs import progress
from pyramid_jax.systems import system as system_lib


Rows = Mapping[str, Any]
# Streams of noise count down from here; numbers of images stay below.
_STREAMS = 2**32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """Which images are sampled and how, apart from their conditions."""

  spec: spec_lib.SamplerSpec  # how they are sampled
  count: int = 1  # the number of images
  seed: int = 0  # The seed of the noise.
  # The number of the first image; image i has the noise of (seed, i) and the
  # row of conditions i modulo the number of rows.
  first: int = 0
  # In (0, 1], the share of the steps that are taken from the row `image`, only
  # in its holes if there is a row `inpaint_mask`; None begins with noise.
  strength: float | None = None
  # Which scales are sampled, and at which size; `start` holds rows.
  extent: system_lib.Extent = system_lib.Extent()
  # The number of the model in a cascade, each of which has its own noise.
  stream: int = 0


def request_of(
  system: system_lib.Trainable, config: ConfigDict, **changes: Any
) -> Request:
  """Returns the request that `config.sample` describes.

  Args:
    system: what is sampled.
    config: the config of the run.
    **changes: other values of fields of `Request`.

  Raises:
    ValueError: a field of `config.sample` that the system does not serve, or
      a `config.attention` that this machine does not have.
  """
  attention.check(config.attention, jax.default_backend())
  spec = spec_lib.SamplerSpec()
  if system.outputs != system_lib.RECONSTRUCTIONS:
    spec = spec_lib.from_config(config)
    cast(system_lib.Generative, system).check_spec(spec)
  s = config.sample
  return Request(**{'spec': spec, 'count': s.count, 'seed': s.seed} | changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """The images of a batch, on the host."""

  images: np.ndarray  # (B, H, W, 3) uint8
  scales: tuple[np.ndarray, ...]  # finished, coarse to fine, (B, ...) each


class Pipeline:
  """A model that makes images, with its weights on the devices of a mesh.

  `label_names` are those of its data, where entry 0 is padding, or empty.
  """

  def __init__(
    self,
    system: system_lib.Trainable,
    weights: system_lib.Weights,
    mesh: Mesh,
    config: ConfigDict,
    label_names: Sequence[str] = (),
  ):
    self.system = system
    self.weights = weights
    self.mesh = mesh
    self.config = config
    self.label_names = tuple(label_names)
    # There is one program a shape and static field; outputs come back whole.
    compiled = lambda function, **options: jax.jit(
      _in_uint8(
        functools.partial(function, system, mesh), config.sample.to_uint8
      ),
      out_shardings=mesh_lib.replicated(mesh),
      **options,
    )
    self._generate = compiled(_generate, static_argnames='strength')
    self._preview = compiled(_preview)
    self._reconstruct = compiled(_reconstruct)
    self._announced: set[Any] = set()

  def with_weights(self, weights: system_lib.Weights) -> 'Pipeline':
    """Returns a pipeline that has the same programs and other weights."""
    other = copy.copy(self)
    other.weights = weights
    return other

  def check(self, rows: Rows, request: Request) -> None:
    """Raises ValueError for a request that the system cannot serve."""
    system = self._generative()
    system.check_rows(rows.keys())
    if request.strength is not None and 'strength' not in system.accepts:
      raise ValueError(
        f'the system {self.config.system.name!r} does not begin with an image.'
      )
    extent = request.extent
    finished, scales = len(extent.start), system.stage_count
    last = scales - 1 if extent.last is None else extent.last
    if not finished <= last < scales:
      raise ValueError(
        f'the last scale is {last}, allowed are {finished}..{scales - 1} with'
        f' {finished} finished scales.'
      )
    if extent.shape is not None and not system.any_shape:
      raise ValueError(
        f'config.sample.shape is {extent.shape}, must be (0, 0) for the system'
        f' {self.config.system.name!r}.'
      )
    if finished:
      self._check_start(rows, request)

  def _check_start(self, rows: Rows, request: Request) -> None:
    """Refuses finished scales of other shapes than this system's."""
    start = request.extent.start
    extent = dataclasses.replace(request.extent, start=(), last=len(start) - 1)
    _, wanted = jax.eval_shape(
      functools.partial(self._generate, strength=request.strength),
      self.weights,
      np.zeros((1, 2), np.uint32),
      {name: x[:1] for name, x in mesh_lib.numeric(rows).items()},
      _leaves_float32(request.spec),
      extent,
    )
    for number, (given, want) in enumerate(zip(start, wanted, strict=True)):
      if given.shape[1:] != want.shape[1:]:
        raise ValueError(
          f'scale {number} of the start has the shape {given.shape[1:]},'
          f' must have {want.shape[1:]}.'
        )

  def __call__(
    self, rows: Mapping[str, np.ndarray], request: Request, batch_size: int = 0
  ) -> Iterator[Samples]:
    """Yields the images of a request, batch by batch.

    Args:
      rows: host arrays of N conditions, (N, ...) each, with uint8 images;
        strings are ignored. May be empty.
      request: see `check`.
      batch_size: images at a time, 0 for `config.sample.batch_size`.
    """
    size = min(batch_size or self.config.sample.batch_size, request.count)
    arrays = mesh_lib.numeric(rows)
    batches = -(-request.count // size)
    for index in progress.Progress(range(batches), size, 'batch'):
      done = index * size
      # The last batch is as large as the others, so that one program serves.
      numbers = request.first + done + np.arange(size)
      start = tuple(_rows_of(z, numbers) for z in request.extent.start)
      part = dataclasses.replace(
        request, extent=dataclasses.replace(request.extent, start=start)
      )
      batch = {name: _rows_of(x, numbers) for name, x in arrays.items()}
      made = self.sample(batch, part, numbers)
      kept = min(size, request.count - done)
      yield Samples(
        images=made.images[:kept],
        scales=tuple(scale[:kept] for scale in made.scales),
      )

  def sample(
    self, batch: Rows, request: Request, numbers: np.ndarray
  ) -> Samples:
    """Samples one batch.

    Args:
      batch: arrays of B conditions, on the host or on the mesh; images are
        uint8, or floats in [-1, 1].
      request: how images are sampled; `extent.start` has B rows.
      numbers: (B,) of the images, whose noise follows from them.
    """
    self._announce(request.spec)
    extent = dataclasses.replace(
      request.extent,
      start=tuple(self._one_placed(z) for z in request.extent.start),
    )
    images, scales = self._generate(
      self.weights,
      self._one_placed(_key_data(request, numbers)),
      self._placed(batch),
      _leaves_float32(request.spec),
      extent,
      strength=request.strength,
    )
    return Samples(
      images=np.asarray(images), scales=tuple(map(np.asarray, scales))
    )

  def preview(self, batch: Rows, request: Request) -> np.ndarray:
    """Returns (B, H, W, 3) uint8 that show the state of a training run."""
    if self.system.outputs == system_lib.RECONSTRUCTIONS:
      return self.reconstruct(batch)[0]
    numbers = request.first + np.arange(len(next(iter(batch.values()))))
    if self.system.outputs == system_lib.SAMPLES:
      return self.sample(batch, request, numbers).images
    key = self._one_placed(_key_data(request, numbers[:1]))
    (images,) = self._preview(self.weights, key, self._placed(batch))
    return np.asarray(images)

  def reconstruct(self, batch: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns uint8 reconstructions of `image`, and the codes of each codebook.

    `image` is (B, H, W, 3), uint8 or floats in [-1, 1].
    """
    image = self._one_placed(batch['image'])
    images, codes = self._reconstruct(self.weights, image)
    return np.asarray(images), [np.asarray(c) for c in codes]

  def _generative(self) -> system_lib.Generative:
    return cast(system_lib.Generative, self.system)

  def _placed(self, batch: Rows) -> dict[str, jax.Array]:
    return mesh_lib.spread(self.mesh, batch)

  def _one_placed(self, array: Any) -> jax.Array:
    return self._placed({'array': array})['array']

  def _announce(self, spec: spec_lib.SamplerSpec) -> None:
    """Logs once how many steps run: some spacings take another number."""
    key = (spec.solver, spec.spacing, spec.steps)
    if key in self._announced:
      return
    self._announced.add(key)
    steps = system_lib.stage_steps(self._generative(), self.weights, spec)
    logging.info(
      'sampling by %s: %s steps (sample.steps=%s)',
      spec.solver,
      ' + '.join(map(str, steps)),
      ','.join(map(str, spec.steps)),
    )


def _in_uint8(
  function: Callable[..., tuple[Any, ...]], rule: str
) -> Callable[..., tuple[Any, ...]]:
  """Makes the first result of a program, its images in [-1, 1], uint8."""

  def program(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    images, *others = function(*arguments, **named)
    return data_images.to_uint8(images, rule), *others

  return program


def _generate(
  system: system_lib.Generative,
  mesh: Mesh,
  weights: system_lib.Weights,
  keys: jax.Array,
  batch: Rows,
  spec: spec_lib.SamplerSpec,
  extent: system_lib.Extent,
  strength: float | None,
) -> tuple[jax.Array, list[jax.Array]]:
  """The program of sampling; see `Pipeline.sample`."""
  count = keys.shape[0]
  keys, batch, start = _filled(mesh, (keys, dict(batch), extent.start))
  keys, batch = jax.random.wrap_key_data(keys), _finished(batch)
  extent = dataclasses.replace(extent, start=start)
  edit = None
  if strength is not None:
    edit = system_lib.Edit(batch['image'], batch.get('inpaint_mask'), strength)
  images, scales = system_lib.generate(
    system, weights, keys, batch, spec, edit, extent
  )
  return images[:count], [x[:count] for x in scales]


def _preview(
  system: system_lib.Predicting,
  mesh: Mesh,
  weights: system_lib.Weights,
  key: jax.Array,
  batch: Rows,
) -> tuple[jax.Array]:
  """The program of previews; see `Pipeline.preview`."""
  count = len(next(iter(batch.values())))
  (key,) = jax.random.wrap_key_data(key)
  batch = _finished(_filled(mesh, dict(batch)))
  images = system.preview(weights, key, batch)
  return (images[:count],)


def _reconstruct(
  system: system_lib.Reconstructing,
  mesh: Mesh,
  weights: system_lib.Weights,
  image: jax.Array,
) -> tuple[jax.Array, list[jax.Array]]:
  """The program of first stages; see `Pipeline.reconstruct`."""
  count = image.shape[0]
  batch = _finished({'image': _filled(mesh, image)})
  images, codes = system.reconstruct(weights, batch['image'])
  return images[:count], [c[:count] for c in codes]


def _filled(mesh: Mesh, arrays: Any) -> Any:
  """Repeats rows until they divide among the devices, and divides them."""
  parts = mesh_lib.batch_parts(mesh)
  sharding = mesh_lib.batch_sharding(mesh)

  def fill(x: jax.Array) -> jax.Array:
    rows = x.shape[0]
    size = -(-rows // parts) * parts
    x = x if size == rows else x[np.arange(size) % rows]
    return jax.lax.with_sharding_constraint(x, sharding)

  return jax.tree.map(fill, arrays)


def _finished(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Makes uint8 images floats in [-1, 1]; keeps all other arrays."""
  bytes_ = {k: x for k, x in batch.items() if x.dtype == jnp.uint8}
  return {**batch, **data_images.finish(bytes_)}


def _leaves_float32(spec: spec_lib.SamplerSpec) -> spec_lib.SamplerSpec:
  """Returns a spec whose traced fields all have one type, and one program."""
  return jax.tree.map(lambda x: np.asarray(x, np.float32), spec)


def _key_data(request: Request, numbers: np.ndarray) -> np.ndarray:
  """Returns the (B, 2) uint32 data of the keys of images."""
  key = jax.random.key(request.seed)
  if request.stream:
    key = jax.random.fold_in(key, _STREAMS - request.stream)
  keys = system_lib.folded(key, numbers)
  return np.asarray(jax.random.key_data(keys))


def _rows_of(array: Any, numbers: np.ndarray) -> Any:
  """Returns a row for each number; rows serve in turn."""
  return array[numbers % len(array)]
