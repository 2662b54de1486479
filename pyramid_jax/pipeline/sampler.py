"""A model on the devices of a mesh: rows of conditions in, images out.

`Sampler` compiles the programs, spreads batches over the devices, and brings
the images to the host. What fills a batch up, so that it divides among the
devices, is dropped there.
"""

from collections.abc import Callable
from collections.abc import Mapping
import copy
import dataclasses
import functools
import math
from typing import Any
from typing import Self
from typing import cast

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.data.pixels import images as data_images
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import flags
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.pipeline import footprint
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import stopping
from pyramid_jax.systems import system as system_lib


Rows = Mapping[str, Any]
# Streams of noise count down from here; numbers of images stay below.
_STREAMS = 2**32
_LARGER = 4  # times the pixels of training, from which on memory is looked at
_NAMED = 8  # images that an error names, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """The images of a batch, on the host."""

  images: np.ndarray  # (B, H, W, 3) uint8
  scales: tuple[np.ndarray, ...]  # finished, coarse to fine, (B, ...) each
  finite: np.ndarray  # (B,) bool, whether image and scales are finite


class NotFinite(errors.UserError):
  """Samples have NaN or Inf, which no uint8 image can show."""


class Sampler:
  """A model that makes images, with its weights on the devices of a mesh."""

  def __init__(
    self,
    system: system_lib.Trainable,
    weights: system_lib.Weights,
    mesh: Mesh,
    config: ConfigDict,
  ):
    self.system = system
    self.weights = weights
    self.mesh = mesh
    self.config = config
    self._generate = _generation(system, mesh, config)
    self._preview = _jitted(_preview, system, mesh, config)
    self._reconstruct = _jitted(
      _reconstruct, system, mesh, config, static_argnames='scales'
    )
    self._compiled: set[Any] = set()
    self._announced: set[Any] = set()
    self._checked: set[Any] = set()

  def with_weights(self, weights: system_lib.Weights) -> Self:
    """Returns a model that has the same programs and other weights."""
    other = copy.copy(self)
    other.weights = weights
    return other

  def check(self, rows: Rows, settings: settings_lib.Settings) -> None:
    """Refuses what the system cannot serve, before any work.

    Args:
      rows: arrays of conditions, (N, ...) each.
      settings: how images are sampled; `extent.start` has rows.

    Raises:
      UserError: rows or settings that the system cannot serve.
    """
    with errors.user_errors():
      self._generative().check_rows(rows.keys())
    self._check_extent(settings)
    # Building the stages takes a second, so they are built once. It is outside
    # of `user_errors`: what a network raises is a bug.
    structure, shape = jax.tree.structure(settings.spec), settings.extent.shape
    key = (structure, shape, settings.strength, 'inpaint_mask' in rows)
    if key not in self._checked:
      jax.eval_shape(
        functools.partial(self._check_stages, settings),
        self.weights,
        {name: x[:1] for name, x in mesh_lib.numeric(rows).items()},
      )
      self._checked.add(key)
    if settings.extent.start:
      self._check_start(rows, settings)

  def _check_extent(self, settings: settings_lib.Settings) -> None:
    """Refuses scales that are not there, and what the system does not do."""
    system, extent = self._generative(), settings.extent
    name = self.config.system.name
    if settings.strength is not None and 'strength' not in system.accepts:
      raise errors.UserError(
        f'the system {name!r} does not begin with an image.'
      )
    finished, scales = len(extent.start), system.stage_count
    last = scales - 1 if extent.last is None else extent.last
    if not finished <= last < scales:
      raise errors.UserError(
        f'the last scale is {last}, allowed are {finished}..{scales - 1} with'
        f' {finished} finished scales.'
      )
    if extent.shape is not None and not system.any_shape:
      raise errors.UserError(
        f'shape={extent.shape}: the system {name!r} makes squares of'
        f' {system.image_size} px only.'
      )

  def _check_stages(
    self,
    settings: settings_lib.Settings,
    weights: system_lib.Weights,
    batch: Rows,
  ) -> None:
    """Builds the stages of one image, to be refused before any work."""
    system = self._generative()
    sides = settings.extent.shape or (system.image_size,) * 2
    condition = system.example_condition()
    if settings.extent.shape is not None:
      condition = system.condition(weights, _finished(batch))
    stages = system.stages(weights, condition, (1, *sides), settings.spec)
    if settings.strength is not None:
      system.edited(weights, stages, _edit(_finished(batch), settings.strength))

  def check_memory(
    self, rows: Rows, settings: settings_lib.Settings, size: int
  ) -> None:
    """Tells before sampling what a larger shape than that of training needs.

    Args:
      rows: arrays of conditions, (N, ...) each.
      settings: how images are sampled.
      size: how many images are made at a time.

    Raises:
      OutOfMemory: the images alone need more memory than there is.
    """
    square = self._generative().image_size ** 2
    if math.prod(settings.extent.shape or (0, 0)) <= _LARGER * square:
      return
    extent = dataclasses.replace(settings.extent, start=())
    program, *arguments = self._of_one(rows, settings, extent)
    footprint.check(program, arguments, self.mesh, size)

  def _of_one(
    self,
    rows: Rows,
    settings: settings_lib.Settings,
    extent: system_lib.Extent,
  ) -> tuple[Any, ...]:
    """Returns the program of sampling, and its arguments for one image."""
    return (
      functools.partial(self._generate, strength=settings.strength),
      self.weights,
      np.zeros((1, 2), np.uint32),
      {name: x[:1] for name, x in mesh_lib.numeric(rows).items()},
      _leaves_float32(settings.spec),
      extent,
    )

  def _check_start(self, rows: Rows, settings: settings_lib.Settings) -> None:
    """Refuses finished scales of other shapes than this system's."""
    start = settings.extent.start
    extent = dataclasses.replace(settings.extent, start=(), last=len(start) - 1)
    _, wanted, _ = jax.eval_shape(*self._of_one(rows, settings, extent))
    for number, (given, want) in enumerate(zip(start, wanted, strict=True)):
      if given.shape[1:] != want.shape[1:] or not len(given):
        raise errors.UserError(
          f'scale {number} of the start has the shape {given.shape[1:]},'
          f' must have {want.shape[1:]}.'
        )

  def sample(
    self, batch: Rows, settings: settings_lib.Settings, numbers: np.ndarray
  ) -> Samples:
    """Samples one batch.

    Args:
      batch: arrays of B conditions on the host, the same in all processes; or
        on the mesh, where more rows may fill them up. Images are uint8, or
        floats in [-1, 1].
      settings: how images are sampled; `extent.start` has rows, which serve in
        turn.
      numbers: (B,) of the images, whose noise follows from them.
    """
    self._announce(settings.spec)
    self._announce_filling(len(numbers))
    start = [z[numbers % len(z)] for z in settings.extent.start]
    scales = (self._one_placed(np.asarray(z, np.float32)) for z in start)
    extent = dataclasses.replace(settings.extent, start=tuple(scales))
    images, scales, finite = self._run(
      self._generate,
      self.weights,
      self._one_placed(_key_data(settings, numbers)),
      self._placed(batch),
      _leaves_float32(settings.spec),
      extent,
      strength=settings.strength,
    )
    stopping.ready([images, *scales, finite])
    made = processes.to_host((images, scales, finite))
    images, scales, finite = _first(len(numbers), made)
    return Samples(images=images, scales=tuple(scales), finite=finite)

  def check_finite(
    self,
    finite: np.ndarray,
    settings: settings_lib.Settings,
    numbers: np.ndarray,
  ) -> None:
    """Raises NotFinite with the numbers of images that are not finite.

    Args:
      finite: (B,) bool, of the images.
      settings: how they were sampled.
      numbers: (B,) of the images.
    """
    bad = [str(n) for n in numbers[~finite]]
    if not bad:
      return
    more = f' and {len(bad) - _NAMED} more' if len(bad) > _NAMED else ''
    guidance, dtype = settings.spec.guidance, self.config.dtype
    causes = ['the weights']
    if dtype != 'float32':
      causes.insert(0, f'config.dtype={dtype}')
    if guidance is not None:
      scale = float(np.max(guidance.scale))
      causes.insert(0, f'config.sample.guidance={scale:g}')
    raise NotFinite(
      f'NaN or Inf in the samples of image {", ".join(bad[:_NAMED])}{more};'
      f' likely causes: {", ".join(causes)}.',
      errors.DIVERGED,
    )

  def preview(
    self, batch: Rows, settings: settings_lib.Settings, count: int
  ) -> np.ndarray:
    """Returns (B, H, W, 3) uint8 that show the state of a training run.

    `count` is B; rows of the batch that fill it up are left out.
    """
    if self.system.outputs == system_lib.RECONSTRUCTIONS:
      return self.reconstruct(batch, count)[0]
    numbers = np.arange(count)
    if self.system.outputs == system_lib.SAMPLES:
      made = self.sample(batch, settings, numbers)
      try:
        self.check_finite(made.finite, settings, numbers)
      except NotFinite as error:
        logging.warning('%s', error)
      return made.images
    (key,) = _key_data(settings, numbers[:1])
    batch = self._placed(batch)
    (images,) = self._run(self._preview, self.weights, key, batch)
    stopping.ready([images])
    return _first(count, processes.to_host(images))

  def reconstruct(
    self, batch: Rows, count: int, scales: int | None = None
  ) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns uint8 reconstructions of `image`, and the codes of each codebook.

    Of the first `count`; `scales` is that of `Reconstructing.reconstruct`.
    """
    given = self.weights, self._one_placed(batch['image'])
    images, codes = self._run(self._reconstruct, *given, scales=scales)
    stopping.ready([images, *codes])
    return _first(count, processes.to_host((images, codes)))

  def _run(self, program: Any, *arguments: Any, **static: Any) -> Any:
    """Runs a program.

    Within a training run of several processes it is compiled first, apart from
    the devices that wait for each other, so that a signal can interrupt it.
    """
    if stopping.is_together():
      leaves, structure = jax.tree.flatten(arguments)
      shapes = tuple(np.shape(leaf) for leaf in leaves)
      key = (program, structure, shapes, *static.items())
      if key not in self._compiled:
        stopping.call_alone(
          lambda: program.lower(*arguments, **static).compile()
        )
        self._compiled.add(key)
    return program(*arguments, **static)

  def _generative(self) -> system_lib.Generative:
    return cast(system_lib.Generative, self.system)

  def _placed(self, batch: Rows) -> dict[str, jax.Array]:
    return mesh_lib.spread(self.mesh, batch)

  def _one_placed(self, array: Any) -> jax.Array:
    return self._placed({'array': array})['array']

  def _announce(self, spec: spec_lib.SamplerSpec) -> None:
    """Says once how many steps run: some spacings take another number."""
    key = (spec.solver, spec.spacing, spec.steps)
    if key in self._announced:
      return
    self._announced.add(key)
    system = self._generative()
    steps = system_lib.stage_steps(system, self.weights, spec)
    as_asked = steps == spec.steps_of(system.stage_count)
    logging.log(
      logging.INFO if as_asked else logging.WARNING,
      'sampling by %s: %s steps (sample.steps=%s)',
      spec.solver,
      ' + '.join(map(str, steps)),
      ','.join(map(str, spec.steps)),
    )

  def _announce_filling(self, count: int) -> None:
    """Says once how many rows of a batch are made for nothing."""
    filled = mesh_lib.filled(self.mesh, count)
    if filled == count or count in self._announced:
      return
    self._announced.add(count)
    parts = mesh_lib.batch_parts(self.mesh)
    logging.info(
      '%d images at a time are filled up to %d, which %d devices divide: %s'
      ' need no filling',
      *(count, filled, parts, mesh_lib.nearest(count, parts)),
    )


def trace(
  system: system_lib.Generative,
  mesh: Mesh,
  config: ConfigDict,
  weights: system_lib.Weights,
  rows: Rows,
  count: int,
  settings: settings_lib.Settings,
) -> jax.stages.Traced:
  """Returns the program by which `Sampler.sample` makes images of noise.

  Nothing is computed: weights and rows are shapes.

  Args:
    system: what is sampled.
    mesh: the devices.
    config: of the run.
    weights: with their shardings on the mesh.
    rows: (B, ...) arrays of conditions.
    count: B, which divides among the devices.
    settings: how images are sampled, from noise.
  """
  keys = jax.ShapeDtypeStruct((count, 2), jnp.uint32)
  sharding = mesh_lib.batch_sharding(mesh)
  keys, rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    (keys, dict(rows)),
  )
  return _generation(system, mesh, config).trace(
    weights,
    keys,
    rows,
    _leaves_float32(settings.spec),
    settings.extent,
    strength=None,
  )


def _generation(
  system: system_lib.Trainable, mesh: Mesh, config: ConfigDict
) -> Any:
  return _jitted(_generate, system, mesh, config, static_argnames='strength')


def _jitted(
  function: Callable[..., tuple[Any, ...]],
  system: system_lib.Trainable,
  mesh: Mesh,
  config: ConfigDict,
  **named: Any,
) -> Any:
  """Returns one program a shape and static field."""
  bound = functools.partial(function, system)
  return jax.jit(
    placement.within(mesh, _in_uint8(bound, config.sample.to_uint8)),
    compiler_options=flags.for_jax(flags.of_config(config, mesh)),
    **named,
  )


def _in_uint8(
  function: Callable[..., tuple[Any, ...]], rule: str
) -> Callable[..., tuple[Any, ...]]:
  """Makes the first result of a program, its images in [-1, 1], uint8.

  All of its results have the rows of the batch, and are split as these.
  """

  def program(*arguments: Any, **named: Any) -> tuple[Any, ...]:
    images, *others = function(*arguments, **named)
    return placement.rows((data_images.to_uint8(images, rule), *others))

  return program


def _generate(
  system: system_lib.Generative,
  weights: system_lib.Weights,
  keys: jax.Array,
  batch: Rows,
  spec: spec_lib.SamplerSpec,
  extent: system_lib.Extent,
  strength: float | None,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
  """The program of sampling; see `Sampler.sample`."""
  keys, batch = jax.random.wrap_key_data(keys), _finished(batch)
  edit = None if strength is None else _edit(batch, strength)
  images, scales = system_lib.generate(
    system, weights, keys, batch, spec, edit, extent
  )
  # A quantizer hides what is not finite in a scale from the image.
  of_rows = lambda x: jnp.isfinite(x).reshape(len(x), -1).all(axis=1)
  finite = jnp.stack([of_rows(x) for x in (images, *scales)]).all(axis=0)
  return images, scales, finite


def _edit(batch: Rows, strength: float) -> system_lib.Edit:
  return system_lib.Edit(batch['image'], batch.get('inpaint_mask'), strength)


def _preview(
  system: system_lib.Predicting,
  weights: system_lib.Weights,
  key: jax.Array,
  batch: Rows,
) -> tuple[jax.Array]:
  """The program of previews; see `Sampler.preview`."""
  key = jax.random.wrap_key_data(key)
  return (system.preview(weights, key, _finished(batch)),)


def _reconstruct(
  system: system_lib.Reconstructing,
  weights: system_lib.Weights,
  image: jax.Array,
  scales: int | None,
) -> tuple[jax.Array, list[jax.Array]]:
  """The program of first stages; see `Sampler.reconstruct`."""
  image = _finished({'image': image})['image']
  return system.reconstruct(weights, image, scales)


def _first(count: int, tree: Any) -> Any:
  """Returns the rows that were asked for, without those that fill up."""
  return jax.tree.map(lambda x: x[:count], tree)


def _finished(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Makes uint8 images floats in [-1, 1]; keeps all other arrays."""
  bytes_ = {k: x for k, x in batch.items() if x.dtype == jnp.uint8}
  return {**batch, **data_images.finish(bytes_)}


def _leaves_float32(spec: spec_lib.SamplerSpec) -> spec_lib.SamplerSpec:
  """Returns a spec whose traced fields all have one type, and one program."""
  return jax.tree.map(lambda x: np.asarray(x, np.float32), spec)


def _key_data(
  settings: settings_lib.Settings, numbers: np.ndarray
) -> np.ndarray:
  """Returns the (B, 2) uint32 data of the keys of images."""
  key = system_lib.key_of(settings.seed)
  if settings.stream:
    key = jax.random.fold_in(key, _STREAMS - settings.stream)
  keys = system_lib.folded(key, numbers)
  return np.asarray(jax.random.key_data(keys))
