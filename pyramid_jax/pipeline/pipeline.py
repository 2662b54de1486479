"""The only way to images: a model, called with values."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import copy
import dataclasses
from typing import Any
from typing import cast

from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import shares
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import image_rows
from pyramid_jax.pipeline import neighbours
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.pipeline import rows as rows_lib
from pyramid_jax.pipeline import sampler
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import progress
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog
from pyramid_jax.systems import system as system_lib


Request = request_lib.Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(sampler.Samples):
  """Some images of a request, with their conditions."""

  numbers: np.ndarray  # (B,) of the images in the request
  rows: Mapping[str, np.ndarray]  # their conditions, (B, ...) each
  small: 'Made | None' = None  # of the first model of a cascade

  def first(self, count: int) -> 'Made':
    """Returns the first images alone."""
    return Made(
      images=self.images[:count],
      scales=tuple(scale[:count] for scale in self.scales),
      finite=self.finite[:count],
      numbers=self.numbers[:count],
      rows={name: x[:count] for name, x in self.rows.items()},
      small=self.small and self.small.first(count),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """A request as the programs of a model take it."""

  count: int  # the number of images
  rows: rows_lib.Source
  settings: settings_lib.Settings
  project: bool  # see `rows.composite`
  larger: 'Plan | None' = None  # of the second model of a cascade


class Pipeline(sampler.Sampler):
  """A model that makes images: `pipe('a red circle', count=8)`.

  Attributes:
    label_names: the label names of its data, where entry 0 is padding, or
      empty.
    upsampler: the model that enlarges its images, if there is one.
  """

  def __init__(
    self,
    system: system_lib.Trainable,
    weights: system_lib.Weights,
    mesh: Mesh,
    config: ConfigDict,
    label_names: Sequence[str] = (),
    upsampler: 'Pipeline | None' = None,
  ):
    super().__init__(system, weights, mesh, config)
    self.label_names = tuple(label_names)
    self.upsampler = upsampler

  def with_upsampler(self, upsampler: 'Pipeline') -> 'Pipeline':
    """Returns the cascade of this model and one that enlarges its images."""
    other = copy.copy(self)
    other.upsampler = upsampler
    return other

  @property
  def requests(self) -> tuple[str, ...]:
    """The names of the inputs that it takes, fields of `Request`."""
    system = cast(system_lib.Generative, self.system)
    config = self.config
    names = {*conditions.inputs(config), *conditions.optional(config)}
    names |= system.accepts if conditions.edits(config) else set()
    names |= system.accepts & {'sketch', 'map'}
    if self.upsampler is not None:
      names |= self.upsampler._own_inputs()
    names |= {'count', 'seed', 'split', *settings_lib.of_sampler(config)}
    if system.stage_count > 1:
      names.add('coarse_latent')
    # A model that enlarges takes finished squares.
    if system.stage_count > 1 and self.upsampler is None:
      names.add('last_scale')
    if system.any_shape and self.upsampler is None:
      names.add('shape')
    return tuple(name for name in request_lib.NAMES if name in names)

  @property
  def stages(self) -> tuple[str, ...]:
    """The names of the scales, coarse to fine, such as '8x8'."""
    system = cast(system_lib.Generative, self.system)
    shapes = map(system.scale_shape, range(system.stage_count))
    return tuple(f'{height}x{width}' for height, width in shapes)

  def request(
    self, prompt: str | Sequence[str] | None = None, **inputs: Any
  ) -> Request:
    """Returns a request, checked.

    Args:
      prompt: a caption, or one for each image.
      **inputs: fields of `Request` that are in `requests`.

    Raises:
      UserError: an input that the model does not take, or out of its range.
    """
    request = self._request(prompt, inputs)
    self.plan(request)
    return request

  def __call__(
    self, prompt: str | Sequence[str] | None = None, **inputs: Any
  ) -> np.ndarray:
    """Returns the images of a request, (N, H, W, 3) uint8; see `request`."""
    batches = self.stream(self._request(prompt, inputs))
    return np.concatenate([made.images for made in batches])

  def stream(
    self, request: Request | Plan, first: int = 0, batch_size: int = 0
  ) -> Iterator[Made]:
    """Returns an iterator over the images of a request, batch by batch.

    Image i depends on the weights, its condition, the seed and i alone. All
    processes of a run iterate, and have all images.

    Args:
      request: see `request`, checked before the iterator is returned; or its
        `plan`.
      first: the number of the first image; those before it are left out.
      batch_size: images at a time, 0 for `config.sample.batch_size`.

    Raises:
      UserError: a request that the model cannot serve; while it is iterated,
        `NotFinite` for images that are not.
    """
    plan = request if isinstance(request, Plan) else self.plan(request)
    if not 0 <= first <= plan.count:
      raise errors.UserError(f'first={first}: must lie in [0, {plan.count}].')
    size = min(batch_size or self.config.sample.batch_size, plan.count)
    return self._batches(plan, first, size)

  def plan(self, request: Request) -> Plan:
    """Returns a request as programs take it.

    Raises:
      UserError: a request that the model cannot serve.
    """
    for name in request.given(request_lib.NAMES):
      self._check_input(name)
    config = settings_lib.with_request(self.config, request)
    given = conditions.read(request, config, self.label_names)
    with errors.user_errors():
      given_rows = neighbours.added(
        given.rows, config, self.system, self.weights, self.mesh
      )
    start = image_rows.finished_scales(request.coarse_latent)
    extent = self._extent(request, config, start)
    is_plain = given.strength is None and self.upsampler is None
    if extent.shape is not None and not is_plain:
      raise errors.UserError(
        f'shape={extent.shape}: must be a square with an image or an upsampler.'
      )
    with errors.user_errors():
      settings = settings_lib.of_config(
        self.system, config, strength=given.strength, extent=extent
      )
    if request.seed is not None:
      settings = dataclasses.replace(settings, seed=int(request.seed))
    listed = max((len(x) for x in (*given_rows.values(), *start)), default=1)
    count = listed if listed > 1 else config.sample.count
    count = int(request.count or count)
    source = self._source(request, config, given_rows, settings, count)
    rows = source(np.arange(1))
    self.check(rows, settings)
    self.check_memory(rows, settings, min(config.sample.batch_size, count))
    larger = None
    if self.upsampler is not None:
      larger = self.upsampler._larger(request, settings, count, rows)
    return Plan(
      count=count,
      rows=source,
      settings=settings,
      project=config.sample.get('project', False),
      larger=larger,
    )

  def _request(self, prompt: Any, inputs: Mapping[str, Any]) -> Request:
    for name in inputs:
      self._check_input(name)
    return Request(prompt=prompt, **inputs)

  def _check_input(self, name: str) -> None:
    """Refuses what the model does not take, by name."""
    allowed = self.requests
    if name in allowed:
      return
    config = self.config
    if name == 'sketch':
      raise errors.UserError(
        'sketch needs a predictor of edges, a run of the system sketch on this'
        ' one: pj.load(..., sketch=DIR), --config.sketch.predictor=DIR.'
      )
    if name == 'classifier_scale':
      raise errors.UserError(
        'classifier_scale needs a classifier, a run of the system classifier:'
        ' pj.load(..., classifier=DIR), --classifier=DIR.'
      )
    if name == 'shape':
      raise errors.UserError(
        f'shape is no input of the system {config.system.name!r}'
        f'{" with an upsampler" if self.upsampler else ""}, which makes'
        f' squares of {config.data.image_size} px.'
      )
    if name in request_lib.CONDITIONS:
      takes = ' and '.join(conditions.inputs(config)) or 'no condition'
      raise errors.UserError(
        f'{name} is no condition of the task {config.condition.task!r}, which'
        f' takes {takes}.'
      )
    raise errors.UserError(
      f'{name} is no input of this model, which takes {", ".join(allowed)}.'
    )

  def _own_inputs(self) -> set[str]:
    """Returns the conditions of a model that enlarges, but for the image."""
    return set(conditions.inputs(self.config)) - {'image'}

  def _extent(
    self,
    request: Request,
    config: ConfigDict,
    start: Any,
  ) -> system_lib.Extent:
    """Returns the scales and the size of a request."""
    last = request.last_scale
    if isinstance(last, str):
      names = self.stages
      if last not in names:
        raise errors.UserError(
          f'last_scale={last!r}: must be one of {", ".join(names)}.'
        )
      last = names.index(last)
    shape = conditions.shape_of(request, config)
    is_square = shape == (config.data.image_size,) * 2
    return system_lib.Extent(
      start=start, last=last, shape=None if is_square else shape
    )

  def _source(
    self,
    request: Request,
    config: ConfigDict,
    rows: Mapping[str, np.ndarray],
    settings: settings_lib.Settings,
    count: int,
  ) -> rows_lib.Source:
    """Returns the conditions of a request, given or not."""
    if rows and request.split is not None:
      raise errors.UserError(
        f'split={request.split} is for requests without a condition.'
      )
    if rows:
      return rows_lib.Given(rows)
    if request.split is not None:
      return rows_lib.of_split(config, request.split, count, self.label_names)
    return rows_lib.without_request(
      config, self.label_names, settings.seed, count
    )

  def _larger(
    self,
    request: Request,
    first: settings_lib.Settings,
    count: int,
    rows: Mapping[str, np.ndarray],
  ) -> Plan:
    """Returns the plan of the second model of a cascade.

    Its noise is independent of that of the first, and so are its settings but
    for the seed.

    Args:
      request: to both.
      first: the settings of the first model.
      count: the number of images.
      rows: of the first model, of which those that have the size of its images
        are left out, such as holes, which are filled before.
    """
    config = self.config
    own = conditions.without_image(request, config, self.label_names)
    with errors.user_errors():
      settings = settings_lib.of_config(
        self.system, config, seed=first.seed, stream=1
      )
      names = {*rows, *own} - set(rows_lib.SIZED) | {'lr_image'}
      cast(system_lib.Generative, self.system).check_rows(names)
    return Plan(
      count=count,
      rows=rows_lib.Given(own),
      settings=settings,
      project=config.sample.project,
    )

  def _batches(self, plan: Plan, first: int, size: int) -> Iterator[Made]:
    """Yields the images from number `first` on."""
    starts = range(first, plan.count, size)
    with progress.Progress(
      range(len(starts)), size, 'batch', memory=memory.in_use
    ) as numbers:
      for index in numbers:
        stopping.check()
        start = starts[index]
        # The last batch is as large as the others, so that one program serves.
        made = self._made(plan, start + np.arange(size))
        watchdog.beat()
        yield made.first(min(size, plan.count - start))

  def _made(self, plan: Plan, numbers: np.ndarray) -> Made:
    """Returns the images with (B,) numbers."""
    rows = shares.read(self.mesh, numbers, plan.rows)
    made = self._of_rows(plan, rows, numbers)
    if plan.larger is None or self.upsampler is None:
      return made
    return self.upsampler._enlarged(plan.larger, made)

  def _of_rows(
    self, plan: Plan, rows: Mapping[str, np.ndarray], numbers: np.ndarray
  ) -> Made:
    made = self.sample(rows, plan.settings, numbers)
    wanted = numbers < plan.count  # others fill the batch up
    self.check_finite(made.finite | ~wanted, plan.settings, numbers)
    images = rows_lib.composite(made.images, rows, plan.project)
    return Made(
      images=images,
      scales=made.scales,
      finite=made.finite,
      numbers=numbers,
      rows=rows,
    )

  def _enlarged(self, plan: Plan, small: Made) -> Made:
    """Returns enlarged images, made as many at a time as fit this model."""
    kept = {k: x for k, x in small.rows.items() if k not in rows_lib.SIZED}
    rows = {**kept, **plan.rows(small.numbers), 'lr_image': small.images}
    count = len(small.images)
    size = min(self.config.sample.batch_size, count)
    parts = []
    for start in range(0, count, size):
      places = (start + np.arange(size)) % count
      part = {name: x[places] for name, x in rows.items()}
      parts.append(self._of_rows(plan, part, small.numbers[places]))
    return Made(
      images=np.concatenate([part.images for part in parts]),
      scales=tuple(
        map(np.concatenate, zip(*(part.scales for part in parts), strict=True))
      ),
      finite=np.concatenate([part.finite for part in parts]),
      numbers=small.numbers,
      rows=rows,
      small=small,
    ).first(count)
