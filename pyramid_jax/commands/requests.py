"""The request of a command line: its options are the fields of `Request`."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

import jax

from pyramid_jax import config as config_lib
from pyramid_jax import pipeline
from pyramid_jax.files import digests
from pyramid_jax.files import stores
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.runs import hashes


# Inputs that are files, whose content counts.
_FILES = ('layout', 'map', 'image', 'mask', 'sketch', 'coarse_latent')
# What of a config does not decide the images of given weights.
_SECTIONS = (
  *('train', 'evaluate', 'mesh', 'compiler', 'optimizer', 'ema', 'remat'),
)
_FIELDS = {
  'data': ('workers',),
  'sample': ('batch_size', 'batch_limit_secs', 'count'),
}


def of_options(options: Mapping[str, Any]) -> pipeline.Request:
  """Returns the request of the options that are given, those not None.

  Raises:
    UserError: an option out of its range.
  """
  given = {name: options.get(name) for name in request_lib.NAMES}
  return pipeline.Request(**{k: v for k, v in given.items() if v is not None})


def record(
  request: pipeline.Request, pipes: Sequence[pipeline.Pipeline]
) -> dict[str, Any]:
  """Returns all that decides the images of a request, of JSON's types.

  Args:
    request: with paths in the place of images.
    pipes: the models of a cascade, or one.
  """
  given = {n: getattr(request, n) for n in request.given(request_lib.NAMES)}
  for name in set(_FILES) & given.keys():
    path = stores.path(given[name])
    if path.is_file():
      given[name] = digests.sha256(path)
  given.pop('count', None)
  return {
    'request': given,
    'models': {str(i): _model(pipe) for i, pipe in enumerate(pipes)},
  }


def _model(pipe: pipeline.Pipeline) -> dict[str, Any]:
  config = json.loads(config_lib.to_json(pipe.config))
  for name in _SECTIONS:
    config.pop(name, None)
  for section, names in _FIELDS.items():
    for name in names:
      config[section].pop(name, None)
  weights = jax.tree.leaves(pipe.weights)
  return {'config': config, 'weights': hashes.digest(weights)}
