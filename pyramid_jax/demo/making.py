"""Sampling for the page: image by image and stage by stage.

One image is made at a time, so that one program for each stage serves every
request of a number of steps, and the page sees each stage when it is finished.
The images are those of `Pipeline.stream`: they depend on the weights, the
conditions, the seed and their number alone.
"""

from collections.abc import Iterator
import dataclasses
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from pyramid_jax import pipeline
from pyramid_jax.demo import controls as controls_lib
from pyramid_jax.demo import examples
from pyramid_jax.demo import form
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import grids
from pyramid_jax.pipeline import opening
from pyramid_jax.pipeline import rows as rows_lib
from pyramid_jax.systems import system as system_lib


_PANEL = (240, 240)  # width and height of a condition that is drawn, px


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A model of the page."""

  pipe: pipeline.Pipeline
  controls: controls_lib.Controls
  # What programs there are for; a request with other settings compiles some.
  compiled: set[Any] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
  """An image of a request, as far as it is.

  Attributes:
    number: of the image in the request.
    stages: what the finished stages show, coarse to fine, (H, W, 3) uint8
      each; the last is the image itself where `is_whole`.
    condition: what the model was given, drawn, (height, width, 3) uint8 each.
    is_whole: whether all stages are there.
  """

  number: int
  stages: tuple[np.ndarray, ...]
  condition: tuple[np.ndarray, ...]
  is_whole: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
  """How far a request is."""

  images: tuple[Image, ...]
  done: int  # stages of all images
  total: int
  secs: float  # since the start
  is_compiling: bool = False  # whether the next stage needs a new program


@dataclasses.dataclass(frozen=True)
class _Strengthened:
  """Rows of conditions with the strength of sketch guidance."""

  rows: rows_lib.Source
  beta: np.ndarray  # (S,), for each stage

  def __call__(self, numbers: np.ndarray) -> rows_lib.Rows:
    beta = np.tile(self.beta, (len(numbers), 1)).astype(np.float32)
    return {**self.rows(numbers), 'sketch_beta': beta}


def load(source: str, title: str, **options: Any) -> Model:
  """Opens a model on one device, for it makes one image at a time.

  Args:
    source: see `pipeline.load`, as `options`.
    title: its name on the page.
    **options: of `pipeline.load`.

  Raises:
    UserError: nothing that images can be made with.
  """
  mesh = mesh_lib.pure_data(jax.local_devices()[:1])
  pipe = opening.load(source, mesh=mesh, **options)
  return Model(pipe=pipe, controls=controls_lib.of(pipe, title))


def make(model: Model, asked: form.Asked) -> Iterator[State]:
  """Yields the state of a request before the first stage and after each.

  Raises:
    UserError: a request that the model cannot serve.
  """
  start = time.perf_counter()
  plan = _plan(model, asked)
  lasts = _lasts(model.pipe, plan)
  finished: list[Image] = []
  total = plan.count * len(lasts)
  key = _key(plan)
  is_new = key not in model.compiled
  yield State(images=(), done=0, total=total, secs=0.0, is_compiling=is_new)
  for number in range(plan.count):
    shown: tuple[np.ndarray, ...] = ()
    made: pipeline.Made | None = None
    for last in lasts:
      made = _stage(model.pipe, plan, number, last, made)
      small = () if made.small is None else (made.small.images[0],)
      shown = (*shown, *small, made.images[0])
      image = Image(
        number=number,
        stages=shown,
        condition=_condition(model.pipe, made.small or made),
        is_whole=last == lasts[-1],
      )
      yield State(
        images=(*finished, image),
        done=number * len(lasts) + len(shown) - len(small),
        total=total,
        secs=time.perf_counter() - start,
      )
    finished.append(image)
    model.compiled.add(key)


def compile_programs(model: Model) -> None:
  """Compiles the programs of a model by making an image, and says so."""
  title = model.controls.title
  logging.info('%s: compiling its programs, once', title)
  start = time.perf_counter()
  for _ in make(model, examples.neutral(model.controls, model.pipe)):
    pass
  logging.info('%s: ready after %.1f s', title, time.perf_counter() - start)


def _plan(model: Model, asked: form.Asked) -> pipeline.Plan:
  plan = model.pipe.plan(asked.request)
  if asked.sketch is None:
    return plan
  system: Any = model.pipe.system
  beta = asked.sketch * np.asarray(system.beta, np.float32)
  return dataclasses.replace(plan, rows=_Strengthened(plan.rows, beta))


def _key(plan: pipeline.Plan) -> Any:
  """Returns what decides the programs of a request, but for the model."""
  settings = plan.settings
  masked = 'inpaint_mask' in plan.rows(np.arange(1))
  return jax.tree.structure(settings.spec), settings.strength, masked


def _lasts(
  pipe: pipeline.Pipeline, plan: pipeline.Plan
) -> tuple[int | None, ...]:
  """Returns the stages at which sampling pauses; None is the finest.

  An edit begins at a stage of its own, and a cascade takes whole images: both
  are made in one go.
  """
  is_whole = plan.settings.strength is not None or plan.larger is not None
  return (None,) if is_whole else tuple(range(len(pipe.stages)))


def _stage(
  pipe: pipeline.Pipeline,
  plan: pipeline.Plan,
  number: int,
  last: int | None,
  before: pipeline.Made | None,
) -> pipeline.Made:
  """Returns an image up to a stage, from the one before."""
  extent = system_lib.Extent(
    start=() if before is None else before.scales,  # type: ignore[arg-type]
    last=last,
    shape=plan.settings.extent.shape,
  )
  settings = dataclasses.replace(plan.settings, extent=extent)
  part = dataclasses.replace(plan, settings=settings)
  batches = pipe.stream(part, first=number, batch_size=1)
  made = next(batches)
  batches.close()  # type: ignore[attr-defined]
  return made


def _condition(
  pipe: pipeline.Pipeline, made: pipeline.Made
) -> tuple[np.ndarray, ...]:
  """Draws what an image was conditioned on, and where sampling began."""
  example = {name: x[0] for name, x in made.rows.items()}
  task, names = pipe.config.condition.task, pipe.label_names
  panels = grids.condition_panels(example, _PANEL, task, names)
  if task != 'inpaint' and 'inpaint_mask' in example:
    panels += grids.condition_panels(example, _PANEL, 'inpaint')[:1]
  elif task not in ('inpaint', 'superres') and 'image' in example:
    panels.append(example['image'])
  return tuple(panels)
