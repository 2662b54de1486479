"""What can be opened: runs, converted checkpoints, ..., by what they hold."""

from collections.abc import Callable
import dataclasses
import os
import pathlib

from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.files import stores
from pyramid_jax.interop import diffusers_folder
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import pipeline
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.pipeline import settings
from pyramid_jax.runs import compact
from pyramid_jax.runs import controls as controls_lib
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How something is opened."""

  sketch: str = ''  # the workdir of a predictor of edges, '' for none
  classifier: str = ''  # the workdir of a classifier, '' for none
  # By workdir the strengths of controls, None for that of their config.
  controls: controls_lib.Strengths = dataclasses.field(default_factory=dict)
  step: int | None = None  # the step of a checkpoint, None for the newest
  mesh: Mesh | None = None  # to sample on, None for all devices


Open = Callable[[pathlib.Path, Options], pipeline.Pipeline]
Is = Callable[[pathlib.Path], bool]


def load(
  source: str | os.PathLike[str],
  *,
  sketch: str | os.PathLike[str] | None = None,
  classifier: str | os.PathLike[str] | None = None,
  control: controls_lib.Paths = (),
  upsampler: str | os.PathLike[str] | None = None,
  step: int | None = None,
  mesh: Mesh | None = None,
) -> pipeline.Pipeline:
  """Returns a model that makes images.

  Args:
    source: the workdir of a run or of a converted checkpoint, a folder of
      Stable Diffusion in the layout of diffusers, or the name of a model that
      comes with the package ('shapes').
    sketch: the workdir of a predictor of edges, which guides it.
    classifier: the workdir of a classifier of noisy states, which guides it.
    control: the workdir of a run of ladm_control on it, several of them, or
      {workdir: strength}; what they add to its network is summed.
    upsampler: the source of a model that enlarges its images.
    step: the step of the checkpoint, with controls that of the first one; None
      for the newest valid one.
    mesh: the devices to sample on, None for all, each with all of the weights.

  Raises:
    UserError: nothing that images can be made with.
  """
  options = Options(
    sketch='' if sketch is None else os.fspath(sketch),
    classifier='' if classifier is None else os.fspath(classifier),
    controls=controls_lib.strengths(control),
    step=step,
    mesh=mesh,
  )
  guide = options.sketch or options.classifier
  if guide and options.controls:
    raise errors.UserError(
      f'{guide} guides, and control={", ".join(options.controls)}: give one of'
      ' them.'
    )
  pipe = _open(source, options)
  if upsampler is None:
    return pipe
  return with_upsampler(pipe, upsampler, mesh)


def with_upsampler(
  pipe: pipeline.Pipeline,
  source: str | os.PathLike[str],
  mesh: Mesh | None = None,
) -> pipeline.Pipeline:
  """Returns a cascade of a model and one that enlarges its images.

  Raises:
    UserError: a model that does not enlarge images of their size.
  """
  path = stores.path(source).expanduser()
  if is_run(path):  # is refused before its weights are read
    check_upsampler(path, workdir_lib.read_config(path), pipe.config)
  large = _open(source, Options(mesh=mesh))
  check_upsampler(path, large.config, pipe.config)
  return pipe.with_upsampler(large)


def check_upsampler(
  path: pathlib.Path, second: ConfigDict, first: ConfigDict
) -> None:
  """Refuses a second model of a cascade that does not fit the first."""
  tasks = (second.condition.task, second.condition.also)
  need = first.data.image_size * second.data.lr_factor
  if 'superres' not in tasks or second.data.image_size != need:
    raise errors.UserError(
      f'upsampler={path}: its condition is {tasks[0]!r}, its image_size'
      f' {second.data.image_size}; needed is a run with superres whose'
      f' image_size is {need}, config.data.lr_factor times that of'
      f' {first.name}.'
    )


def of_run(
  config: ConfigDict,
  workdir: pathlib.Path,
  step: int | None = None,
  mesh: Mesh | None = None,
  request: request_lib.Request | None = None,
) -> pipeline.Pipeline:
  """Returns the model of a run, by a config that may differ from its own.

  Args:
    config: the config of the run.
    workdir: the folder of the run.
    step: the step of the checkpoint, None for the newest valid one.
    mesh: the devices to sample on, None for all.
    request: will be made to it; its conditions and settings are checked before
      weights are read.

  Raises:
    UserError: a run that does not make images, or without usable weights.
  """
  if not settings.of_sampler(config):
    raise errors.UserError(
      f'{workdir} holds a run of the system {config.system.name!r}, which does'
      ' not sample; --mode=evaluate measures it.'
    )
  config = controls_lib.with_maps(predictors.with_conditions(config))
  names = workdir_lib.read_labels(workdir)
  if request is not None:
    asked = settings.with_request(config, request)
    conditions.read(request, asked, names)
  run = loading.load(config, workdir, step, mesh)
  stopping.check()
  run = loading.to_sample(run)
  return pipeline.Pipeline(run.system, run.weights, run.mesh, config, names)


def is_run(path: pathlib.Path) -> bool:
  """Whether a folder is the workdir of a run or of a converted checkpoint."""
  return (path / workdir_lib.CONFIG).is_file()


def open_run(path: pathlib.Path, options: Options) -> pipeline.Pipeline:
  """Opens a workdir."""
  config = workdir_lib.read_config(path)
  named = {
    'sketch.predictor': options.sketch,
    'sample.classifier': options.classifier,
  }
  values = {name: path for name, path in named.items() if path}
  config_lib.override(config, values)
  if options.controls:
    config, path = controls_lib.on(path, config, options.controls)
  return of_run(config, path, options.step, options.mesh)


# What can be opened: (whether a folder is of the kind, how it is opened).
KINDS: tuple[tuple[Is, Open], ...] = (
  (is_run, open_run),
  (diffusers_folder.is_folder, open_run),
)


def _open(
  source: str | os.PathLike[str], options: Options
) -> pipeline.Pipeline:
  if not os.fspath(source):
    raise errors.UserError('the source of a model is empty, give a folder.')
  path = compact.place(source)
  for is_kind, open_kind in KINDS:
    if is_kind(path):
      return open_kind(path, options)
  if not path.exists():
    known = ', '.join(compact.names())
    raise errors.UserError(
      f'{path}: not there. Models of the package: {known or "none"}.',
      errors.MISSING,
    )
  raise errors.UserError(
    f'{path} is no model: it has no {workdir_lib.CONFIG} (nor'
    f' {diffusers_folder.INDEX} of diffusers).',
    errors.MISSING,
  )
