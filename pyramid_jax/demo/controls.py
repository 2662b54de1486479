"""What the page shows for a model: it follows from what the model takes."""

from collections.abc import Mapping
import dataclasses

from pyramid_jax import pipeline
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.demo import canvas
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib


MAX_COUNT = 4  # images of a request
# Factors of the number of steps that a run is sampled with. Each number is a
# program of its own, so there are few.
_STEP_FACTORS = (0.25, 0.5, 1, 2)
_MAX_STEPS = 1000
STRENGTH = 'strength'
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MAX_GUIDANCE = 20.0
MAX_SKETCH = 3.0  # times the configured strength of sketch guidance

# Request -> the words for what is missing without it.
MISSING: Mapping[str, str] = {
  'prompt': 'type a caption',
  'layout': 'draw a box on the canvas, or take an example',
  'labels': 'type the names of objects, or take an example',
  'graph': 'add a relation, or take an example',
  'map': 'upload a map',
  'image': 'upload an image',
  'mask': 'paint on the image what is to be made anew',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controls:
  """The controls of a model.

  Attributes:
    title: the name of the tab.
    takes: the inputs of a request that have a control.
    needs: those of them without which nothing is made.
    tools: the layers of the canvas, of `canvas.LAYERS`; none for no canvas.
    labels: the names of labels or classes; empty if they have only numbers.
    predicates: of scene graphs; empty where there are none.
    steps: the numbers of steps to choose from, those of the run among them.
    own_steps: the numbers of steps of the run.
    guidance: the scale of guidance of the run; None if it has none.
    edits: whether `image` is where sampling begins, not the condition.
    sketch: whether strokes guide, with a strength.
    stages: the names of the stages, coarse to fine.
    size: the side of an image, px.
  """

  title: str
  takes: tuple[str, ...]
  needs: tuple[str, ...]
  tools: tuple[str, ...]
  labels: tuple[str, ...]
  predicates: tuple[str, ...]
  steps: tuple[str, ...]
  own_steps: str
  guidance: float | None
  edits: bool
  sketch: bool
  stages: tuple[str, ...]
  size: int

  def has(self, name: str) -> bool:
    """Whether an input has a control."""
    return name in self.takes


def of(pipe: pipeline.Pipeline, title: str) -> Controls:
  """Returns the controls of a model."""
  config, requests = pipe.config, pipe.requests
  takes = tuple(x for x in requests if x in (*request_lib.CONDITIONS, STRENGTH))
  tools = {'layout': canvas.BOXES, 'sketch': canvas.SKETCH, 'mask': canvas.MASK}
  sample = config.sample
  own = steps_text(sample.get('steps', ()))
  return Controls(
    title=title,
    takes=takes,
    needs=tuple(x for x in conditions.inputs(config) if x != 'label'),
    tools=tuple(tool for name, tool in tools.items() if name in takes),
    labels=tuple(filter(None, pipe.label_names[1:])),
    predicates=scene_graph.PREDICATES[1:] if 'graph' in takes else (),
    steps=_steps(own) if 'steps' in requests else (),
    own_steps=own,
    guidance=float(sample.guidance) if 'guidance' in requests else None,
    edits=conditions.edits(config),
    sketch=hasattr(pipe.system, 'beta'),
    stages=pipe.stages,
    size=config.data.image_size,
  )


def steps_text(value: int | tuple[int, ...] | list[int]) -> str:
  """Returns numbers of steps as a text, such as '20,50'."""
  return str(value) if isinstance(value, int) else ','.join(map(str, value))


def _steps(own: str) -> tuple[str, ...]:
  """Returns numbers of steps around those of the run, in rising order."""
  numbers = [int(x) for x in own.split(',')]
  found = {tuple(numbers): None}
  for factor in _STEP_FACTORS:
    near = tuple(max(1, min(_MAX_STEPS, int(n * factor))) for n in numbers)
    found[near] = None
  return tuple(steps_text(x) for x in sorted(found))
