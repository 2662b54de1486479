"""The folder of a run: its config, its inputs, its records."""

from collections.abc import Sequence
import contextlib
import json
import os

from absl import logging
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.config import sums
from pyramid_jax.data.caches import text_cache
from pyramid_jax.distributed import processes
from pyramid_jax.files import json_text
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.interop import diffusers_folder
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import compact
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import reading
from pyramid_jax.systems import system as system_lib


CONFIG = sums.CONFIG
LABELS = 'labels.json'  # the label names of the run's data
RECORDED_LABELS = 'labels'  # their name in the record of a checkpoint
_LISTED = 5  # differences that a message names

# A config and the workdir that it is trained in.
Stage = tuple[ConfigDict, stores.Path]


def stages(config: ConfigDict, workdir: stores.Path) -> list[Stage]:
  """Returns the stages to train and their folders, in order.

  A first stage without a checkpoint of its own comes first, in
  `WORKDIR/first_stage`; once the second has begun it stays what it was.
  """
  whole = (config, workdir)
  begun = processes.decided(lambda: bool(checkpoints.steps(workdir)))
  if 'first_stage' not in config or config.first_stage.checkpoint or begun:
    return [whole]
  folder = workdir / pretrained.FIRST_STAGE
  return [(config_lib.first_stage(config), folder), whole]


def read_config(workdir: str | os.PathLike[str], field: str = '') -> ConfigDict:
  """Returns the config of a run, locked; none or a damaged one is a UserError.

  That of a folder in the layout of diffusers is made from its files. `field` is
  that of another config which names the workdir, for the message.
  """
  file = stores.path(workdir) / CONFIG
  if diffusers_folder.is_folder(workdir):
    return diffusers_folder.config(workdir)
  if not file.is_file():
    origin = f' (config.{field})' if field else ''
    raise errors.UserError(f'missing: {file}{origin}', errors.MISSING)
  with reading.storage(file):
    text = retries.repeat(file.read_bytes, file)
  try:
    return config_lib.from_json(text, str(file))
  except ValueError as error:
    with errors.user_errors(value=errors.DATA):
      return _kept_config(workdir, text, error)


def _kept_config(
  workdir: str | os.PathLike[str], text: bytes, error: ValueError
) -> ConfigDict:
  """Returns the config of the newest checkpoint in place of a damaged one.

  Raises:
    ValueError: `error`, if there is no whole record of a checkpoint.
  """
  found = checkpoints.newest_meta(workdir)
  if found is None:
    raise error
  step, meta = found
  config = config_lib.from_json(json.dumps(meta['config']))
  changes = ''
  with contextlib.suppress(ValueError):
    other = config_lib.from_json(json.dumps(sums.without(text)))
    lines = config_lib.differences(config, other)[:_LISTED]
    changes = f' What differs: {"; ".join(lines) or "no field"}.'
  logging.warning(
    '%s. The config of checkpoint %d is used.%s', error, step, changes
  )
  return config


def read_labels(workdir: str | os.PathLike[str]) -> tuple[str, ...]:
  """Returns the label names of a run's data; a damaged file is a UserError.

  In place of a damaged one, the names in the newest checkpoint are taken.
  """
  file = stores.path(workdir) / LABELS
  if not file.exists():
    return ()
  with reading.storage(file), errors.user_errors(value=errors.DATA):
    try:
      sums.check(file)
      names = json_text.read(file)
      if not isinstance(names, list) or not all(
        isinstance(x, str) for x in names
      ):
        raise ValueError(f'{file}: must be a list of label names')
    except ValueError as error:
      found = checkpoints.newest_meta(workdir)
      names = found and found[1]['record'].get(RECORDED_LABELS)
      if not found or names is None:
        raise
      logging.warning('%s. Those of checkpoint %d are used.', error, found[0])
    return tuple(names)


def others(config: ConfigDict) -> list[ConfigDict]:
  """Returns the configs of the runs that a system is built on.

  An edge predictor needs one, and a classifier of latents; the controls that
  join one of LaDM are more.

  Raises:
    UserError: a run is not named, not there, or damaged.
  """
  name = config.system.name
  if name == 'ladm_control':
    return [read_config(x, 'control.also') for x in config.control.also]
  needs = {'sketch': 'activations are read'}
  if name == 'classifier' and config.classifier.space == 'latents':
    needs[name] = 'latents are classified'
  if name not in needs:
    return []
  path = config[name].base
  if not path:
    raise errors.UserError(
      f'config.{name}.base is not set: the workdir of the trained system whose'
      f' {needs[name]}'
    )
  return [read_config(path, f'{name}.base')]


def create_system(config: ConfigDict) -> system_lib.Trainable:
  """Builds the system of a config, on the runs that it builds on.

  Raises:
    UserError: a config that fits no system, or a run that is not there.
  """
  with errors.user_errors():
    return systems.create(config, *others(config))


def check_config(config: ConfigDict, workdir: stores.Path) -> None:
  """Raises a UserError with the differences for a workdir of another config.

  One without checkpoints, such as of a run that was out of memory, may be used.
  """
  if not (workdir / CONFIG).exists() or not checkpoints.steps(workdir):
    return
  differences = config_lib.resume_differences(read_config(workdir), config)
  if differences:
    raise errors.UserError(
      f'{workdir} was written by another config: {"; ".join(differences)}. '
      'Take another workdir, or the old values.'
    )


def check_inputs(parts: Sequence[Stage]) -> None:
  """Raises a UserError that names all missing files at once."""
  lines: list[str] = []
  for config, workdir in parts:
    file = compact.FILE if compact.is_there(workdir) else ''
    if diffusers_folder.is_folder(workdir):
      file = diffusers_folder.INDEX
    if file and not checkpoints.steps(workdir):
      raise errors.UserError(
        f'{workdir} has weights to sample from ({file}) and no state of a'
        ' training run; take another workdir.'
      )
    system = create_system(config)
    with errors.user_errors():
      lines += data.missing_inputs(config)
      lines += text_cache.missing_inputs(config)
      lines += pretrained.missing(system, workdir)
      lines += _missing_start(config, workdir)
  if lines:
    raise errors.UserError(
      f'missing: {"; ".join(dict.fromkeys(lines))}', errors.MISSING
    )


def _missing_start(config: ConfigDict, workdir: stores.Path) -> list[str]:
  """Returns what `config.train.init_from` names for a run without checkpoints.

  It is a list of one line, or none if it is there.
  """
  source = config.train.init_from
  if not source or checkpoints.steps(workdir):
    return []
  folder = compact.place(source)
  has_weights = checkpoints.steps(folder) or compact.is_there(folder)
  is_run = has_weights and (folder / CONFIG).is_file()
  if is_run or diffusers_folder.is_folder(folder):
    return []
  return [f'{folder} (a run with weights, config.train.init_from)']


def make(workdir: stores.Path) -> None:
  """Makes the folder; one that cannot be made is a UserError."""
  whole_files.make_folder(workdir)


def write_record(
  workdir: stores.Path,
  config: ConfigDict,
  label_names: Sequence[str],
  files: Sequence[str] = (),
) -> None:
  """Writes `labels.json` and `config.json`, which the other commands read.

  The second has the sums of the first, of itself and of `files`, which are in
  the workdir. A workdir that cannot be written is a UserError.
  """
  whole_files.save_text(workdir / LABELS, json.dumps(list(label_names)) + '\n')
  with errors.user_errors():
    others = {name: sums.of(workdir / name) for name in (LABELS, *files)}
  whole_files.save_text(workdir / CONFIG, config_lib.to_json(config, others))
