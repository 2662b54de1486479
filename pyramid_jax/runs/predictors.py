"""Which predictor guides the samples of a run.

A run of any system is guided by `config.sketch.predictor`, a run of the
system `sketch` that was trained on it. Both together are that system; see
`systems.sketch`.
"""

from collections.abc import Callable
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.metrics import edges as edges_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.sketch import sketch as sketch_lib


_PARTS = (0.5, 0.7, 0.9)  # of the noise's time, where predictors are judged
# What a person asks for, whatever the predictor was trained with.
_SECTIONS = ('evaluate', 'data', 'mesh')
_FIELDS = ('beta', 'stop_fraction', 'norm_ref', 'shuffled_condition')
_KEPT = ('attention', 'remat')


def predictor(config: ConfigDict) -> str:
  """Returns the workdir of the predictor that a config names, '' for none."""
  return config.sketch.predictor if 'sketch' in config else ''


def with_maps(config: ConfigDict) -> ConfigDict:
  """Returns a config whose data tell what its predictor is asked for.

  A config without a predictor comes back as it is.

  Args:
    config: of a run.

  Raises:
    UserError: the predictor is not there, or is something else.
  """
  if not predictor(config):
    return config
  maps = (*config.data.maps, *_read(config.sketch.predictor).data.maps)
  config = config_lib.from_json(config_lib.to_json(config))
  config.data.maps = tuple(dict.fromkeys(maps))
  return config


def _read(path: str) -> ConfigDict:
  """Returns the config of a predictor."""
  config = workdir_lib.read_config(path, 'sketch.predictor')
  if config.system.name != 'sketch':
    raise errors.UserError(
      f'config.sketch.predictor is {path}, a run of the system'
      f" {config.system.name!r}, must be one of the system 'sketch'."
    )
  return config


def resolve(
  config: ConfigDict, workdir: str | os.PathLike[str]
) -> tuple[ConfigDict, pathlib.Path]:
  """Returns the config of predictor and base together, and its workdir.

  Args:
    config: of a run, perhaps with `sketch.predictor`; without it is returned.
    workdir: of that run.

  Raises:
    UserError: the predictor is not there, or is something else.
  """
  path = predictor(config)
  if not path:
    return config, pathlib.Path(workdir)
  own = _read(path)
  with own.unlocked():
    for name in (*_SECTIONS, *_KEPT):
      own[name] = config[name]
    own.sample.update(config.sample)
    for name in _FIELDS:
      own.sketch[name] = config.sketch[name]
    own.sketch.base = os.fspath(workdir)
  return own, pathlib.Path(path)


def check_base(
  base: str, was: str | None, digest: str, path: pathlib.Path
) -> None:
  """Refuses a predictor that was trained on another base.

  Args:
    base: the workdir of the base.
    was: the hash of the base's weights in training, None if not known.
    digest: of those that are here.
    path: of the predictor.

  Raises:
    UserError: they differ.
  """
  if was not in (None, digest):
    raise errors.UserError(
      f'the predictor in {path} was trained on other weights than those in'
      f' {base}; train one on them.',
      errors.DATA,
    )


def scorer(
  system: sketch_lib.Sketch, reader: Any, mesh: Mesh, count: int
) -> Callable[[system_lib.Weights], dict[str, float]]:
  """Returns a function from weights to what a predictor makes of new pictures.

  At several noise levels the squared error of what is predicted, and the F1
  of the edges behind it.

  Args:
    system: predictor and base.
    reader: of the validation split.
    mesh: where the weights are.
    count: pictures.
  """
  host = batches_lib.Batches(reader, count, seed=0, shuffle=False).at(0)
  arrays = mesh_lib.spread(mesh, host)

  @jax.jit
  def predict(weights, batch, part):
    batch = reader.finish(batch)
    parts = jnp.full(batch['image'].shape[:1], part)
    errors, edges = system.predicted(weights, jax.random.key(0), batch, parts)
    return errors.mean(), edges, system.asked(weights.frozen, batch)

  def of_weights(weights: system_lib.Weights) -> dict[str, float]:
    scores = {}
    for part in _PARTS:
      error, found, wanted = predict(weights, arrays, part)
      maps = (np.asarray(x) > 0 for x in (found, wanted))
      scores[f'error_at_{part}'] = float(error)
      scores[f'edge_f1_at_{part}'] = float(
        edges_lib.compare(*maps)['f1'].mean()
      )
    return scores

  return of_weights
