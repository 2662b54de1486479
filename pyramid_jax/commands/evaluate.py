"""`--mode=evaluate`: a run or saved images in, a table of scores out."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import classification
from pyramid_jax.evaluation import clip_score
from pyramid_jax.evaluation import feature_networks
from pyramid_jax.evaluation import feature_state
from pyramid_jax.evaluation import fid_state
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import judges
from pyramid_jax.evaluation import network_files
from pyramid_jax.evaluation import perceptual
from pyramid_jax.evaluation import protocols
from pyramid_jax.evaluation import saved_samples
from pyramid_jax.evaluation import scales
from pyramid_jax.evaluation import score_table
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import unfinished
from pyramid_jax.files import stores
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import states
from pyramid_jax.pipeline import settings as settings_lib
from pyramid_jax.runs import controls
from pyramid_jax.runs import hashes
from pyramid_jax.runs import loading
from pyramid_jax.runs import predictors
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """An evaluation that has not begun."""

  folder: pathlib.Path  # of the table
  about: str  # the headline of the table
  decides: Mapping[str, Any]  # what decides the numbers, of JSON's types
  score: Callable[[unfinished.Store], list[states.Row]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Networks:
  """The networks whose features are compared."""

  fid: fidelity.FidEvaluator | None
  others: Sequence[feature_networks.FeatureNetwork]

  @property
  def has_any(self) -> bool:
    return self.fid is not None or bool(self.others)

  @property
  def compares_with_split(self) -> bool:
    """Whether real images must come with the samples."""
    is_alone = any(network.real is None for network in self.others)
    return is_alone or (self.fid is not None and self.fid.reference is None)

  @property
  def compares_with_set(self) -> bool:
    """Whether there are statistics of a whole set."""
    has_real = any(network.real is not None for network in self.others)
    return has_real or (self.fid is not None and self.fid.reference is not None)

  @property
  def decide(self) -> dict[str, Any]:
    """What of them decides the numbers."""
    return {
      'fid': None if self.fid is None else self.fid.name,
      'features': [network.name for network in self.others],
    }


def run(config: ConfigDict, workdir: pathlib.Path, options: Options) -> None:
  """Prints and saves the table of scores of a run or of saved samples.

  Writes `scores.json` and `scores.md` into WORKDIR/samples, or where the saved
  samples are. What is not finished lies in `unfinished.FOLDER` there, and the
  same command goes on from it. With `write_reference` it writes statistics of
  real images instead, see `fidelity.write_reference`.

  Args:
    config: of the run.
    workdir: of the run.
    options: of the command line: `samples`, an .npz or a folder of images;
      `split`; `checkpoint_step`; `write_reference`; `takeover`, to go on even
      if another process seems to be at the same evaluation.

  Raises:
    UserError: no images to score, or no weights to score them with.
  """
  advice = functools.partial(_less_memory, config)
  with (
    stopping.listening(),
    watchdog.of_batches('the weights or the data', config),
    memory.explained(advice),
  ):
    if options.get('write_reference'):
      write = functools.partial(fidelity.write_reference, config, options)
      processes.decided(write)  # process 0 alone reads all images, in order
    else:
      _evaluate(config, workdir, options)


def _evaluate(
  config: ConfigDict, workdir: pathlib.Path, options: Options
) -> None:
  config = controls.with_maps(predictors.with_conditions(config))
  networks = _Networks(
    fid=fidelity.find(config),
    others=feature_state.with_reference(config, feature_networks.find(config)),
  )
  _check_scales(config, options)
  of_images = _of_saved if options.get('samples') else _of_run
  task = of_images(config, workdir, options, networks)
  store = unfinished.Store(
    task.folder,
    {
      **task.decides,
      'config': json.loads(config_lib.to_json(config)),
      **networks.decide,
    },
  )
  with store.held(options.get('takeover', False)) as held:
    with watchdog.of_batches('the device or the data reader', config):
      rows = task.score(store)

    def write() -> None:
      table = score_table.to_markdown(rows)
      lacks = protocols.lacking(config, [row.name for row in rows])
      about = task.about + lacks
      logging.info(f'scores of {about}\n{table}')
      held.check(now=True)
      score_table.write(task.folder, about, rows)

    processes.decided(write)
  store.remove()


def _check_scales(config: ConfigDict, options: Options) -> None:
  """Refuses the scores of scales of saved samples."""
  if options.get('samples') and config.evaluate.per_scale:
    raise errors.UserError(
      'config.evaluate.per_scale=True: must be False with --samples, of which'
      ' the coarse scales are not known.'
    )


def _less_memory(config: ConfigDict) -> str:
  """Says what an evaluation holds at a time, and what takes less memory."""
  size = config.evaluate.batch_size
  return (
    f'config.evaluate.batch_size={size} is {-(-size // jax.device_count())}'
    ' images at a time on a device: less is needed by a smaller one.'
  )


def _of_run(
  config: ConfigDict,
  workdir: pathlib.Path,
  options: Options,
  networks: _Networks,
) -> Task:
  """Returns the evaluation of a run on the examples of a split."""
  split = options.get('split') or 'test'
  with errors.user_errors():
    reader = data.create(data.uncached(config), split)
    names = workdir_lib.read_labels(workdir)
    reader_lib.check_labels(config, names, reader.label_names)
  judged = judges.find(config, reader.label_names)
  run_ = loading.load(config, workdir, options.get('checkpoint_step'))
  stopping.check()
  run_ = loading.to_sample(run_)
  with errors.user_errors():
    settings = settings_lib.of_config(run_.system, config)
  pipe = pipeline.Pipeline(run_.system, run_.weights, run_.mesh, config)
  decides = {
    'split': split,
    'step': run_.step,
    'weights': hashes.digest(jax.tree.leaves(run_.weights)),
  }
  if run_.system.outputs == system_lib.CLASSES:
    found = classification.Evaluation(
      pipe, config, reader, config.evaluate.count
    )
    return Task(
      folder=workdir / 'samples',
      about=f'{workdir}, step {run_.step}, {found.about} of {split}',
      decides={**decides, 'examples': found.examples.distinct},
      score=functools.partial(found, run_.weights),
    )
  protocol = protocols.of(config)
  # Statistics of whole sets need conditions from all over the split.
  shuffle = networks.compares_with_set
  evaluation = scoring.Evaluation(
    pipe,
    config,
    reader,
    count=config.evaluate.count,
    shuffle=shuffle,
    protocol=protocol,
  )
  about = f'{workdir}, step {run_.step}, {evaluation.about} of {split}'
  about += protocols.about(config, evaluation.examples.run_size)
  if predictors.predictor(config):
    about += f', guided by {predictors.predictor(config)}'
  lines, files = _scored_by_networks(config, evaluation, networks, split)
  if config.evaluate.per_scale:
    lines.append(_by_scale(evaluation, pipe, settings))
  about = '; '.join([about, *lines])
  for name, measured in judged.items():
    evaluation.add_measure(name, measured)
    about += f'; {name} {measured.judge.label}'
    decides[name] = measured.judge.label
  return Task(
    folder=workdir / 'samples',
    about=about,
    decides={
      **decides,
      **files,
      'examples': evaluation.examples.distinct,
      'shuffle': shuffle,
      'scales': config.evaluate.per_scale,
    },
    score=functools.partial(evaluation, scoring.maker(pipe, settings)),
  )


def _by_scale(
  evaluation: scoring.Evaluation,
  pipe: pipeline.Pipeline,
  settings: pipeline.Settings,
) -> str:
  """Adds the scores of coarse scales; a system of one scale is a UserError."""
  count = scales.count(pipe.system)
  if count < 2:
    raise errors.UserError(
      'config.evaluate.per_scale=True: must be False, for the system'
      f' {pipe.config.system.name!r} has one scale.'
    )
  return evaluation.add_scales(scales.maker(pipe, settings), count)


def _scored_by_networks(
  config: ConfigDict,
  evaluation: scoring.Evaluation,
  networks: _Networks,
  split: str,
) -> tuple[list[str], dict[str, str]]:
  """Adds the scores by networks whose files the config names.

  Returns:
    A line about each, and the files of those that are not among `networks`.
  """
  lines, files, wanted = [], {}, protocols.of(config).scores
  if networks.fid is not None:
    lines.append(evaluation.add_fid(networks.fid, split))
    if config.condition.task == 'layout' and 'scene_fid' in wanted:
      lines.append(evaluation.add_scene_fid(networks.fid, split))
  lines += [evaluation.add_features(x, split) for x in networks.others]
  clip = clip_score.for_task(config)
  if clip is not None:
    lines.append(evaluation.add_clip_score(clip))
    files['clip'] = clip.weights
  is_diverse = 'diversity' in wanted
  measure = None
  if evaluation.has_targets or is_diverse:
    measure = perceptual.find(config)
  if measure is not None:
    add = evaluation.add_diversity if is_diverse else evaluation.add_perceptual
    lines.append(add(measure))
    files['lpips'] = measure.weights
  return lines, files


def _of_saved(
  config: ConfigDict,
  workdir: pathlib.Path,
  options: Options,
  networks: _Networks,
) -> Task:
  """Returns the evaluation of an .npz of images, or of a folder of them."""
  path = stores.path(options['samples'])
  split = options.get('split') or 'test'
  images, conditions = image_sources.of_saved(path, config.data.workers)
  if not networks.has_any and image_sources.saved_file(path) is None:
    raise errors.UserError(
      f'--samples={path}: the folder has no {image_sources.SAMPLES}, and'
      ' without it the conditions of its images are not known; '
      + inception.unavailable('', fidelity.WEIGHTS),
      errors.MISSING,
    )
  about = f'{images.name}, {images.count} images'
  about += protocols.about(config, images.count)
  start: dict[str, states.State] = {}
  measures: dict[str, states.Measure] = {}
  # Files of ADM have no conditions.
  if conditions.keys() - {'arr_1'} or not networks.has_any:
    measures, more = _of_conditions(config, conditions)
    about += more
  judged = _judged(config, workdir, split, conditions.keys())
  for name, measured in judged.items():
    about += f'; {name} {measured.judge.label}'
  measures |= judged
  start |= {n: states.PerImage(measure=x) for n, x in measures.items()}
  reference = None
  if networks.compares_with_split:
    mesh, _ = network_files.local_devices(config)
    reference = image_sources.of_split(config, split, mesh, images.count)
  real = ('', 0) if reference is None else (reference.name, reference.count)
  if networks.fid is not None:
    fid = fid_state.start(networks.fid, images.count, *real)
    start['fid'] = fid
    about += f'; {fid.notes(images.count)}'
  for network in networks.others:
    name = f'{real[0]} ({real[1]} images)'
    features = feature_state.start(network, images.count, name)
    start[network.kind.field] = features
    about += f'; {feature_state.notes(network, name)}'
  source = saved_samples.SavedSamples(
    images=images,
    conditions=conditions,
    size=min(config.evaluate.batch_size, images.count),
    measures=list(measures.values()),
    seed=config.data.seed,
    reference=reference,
  )

  def score(store: unfinished.Store) -> list[states.Row]:
    with errors.user_errors(value=errors.DATA):
      source.check()
      return unfinished.rows_of(unfinished.accumulate(start, source, store))

  return Task(
    folder=path if path.is_dir() else path.parent,
    about=about,
    decides={
      'samples': str(path.resolve()),
      'contents': image_sources.fingerprint(path),
      **{name: x.judge.label for name, x in judged.items()},
      'split': split,
    },
    score=score,
  )


def _judged(
  config: ConfigDict,
  workdir: pathlib.Path,
  split: str,
  conditions: Collection[str],
) -> dict[str, judges.LayoutPrecision | judges.Accuracy]:
  """Returns the measures of judges by saved conditions of these names."""
  if not (config.evaluate.detector or config.evaluate.classifier):
    return {}
  names = workdir_lib.read_labels(workdir)
  if not names:
    with errors.user_errors():
      names = data.create(data.uncached(config), split).label_names
  found = judges.find(config, names)
  is_class = config.condition.task == 'class'
  needs = ('class',) if is_class else ('boxes', 'labels', 'n_boxes')
  missing = [name for name in needs if name not in conditions]
  if missing:
    raise errors.UserError(
      f'--samples has no {", ".join(missing)} of its images, which '
      f'{" and ".join(f"config.evaluate.{name}" for name in found)} need.',
      errors.DATA,
    )
  return found


def _of_conditions(
  config: ConfigDict, conditions: saved_samples.Arrays
) -> tuple[dict[str, states.Measure], str]:
  """Returns the scores by saved conditions, and a line about them."""
  found: dict[str, states.Measure] = {}
  measure = saved_samples.measure(config, conditions)
  if measure is not None:
    found['images'] = measure
  clip = None
  if clip_score.CAPTION in conditions:
    clip = clip_score.for_task(config)
  if clip is None:
    return found, ''
  return found | {'clip_score': clip}, f'; CLIP score by {clip.weights}'
