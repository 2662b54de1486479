"""The request of a command line: its options are the fields of `Request`."""

from collections.abc import Mapping
from typing import Any

from pyramid_jax import pipeline
from pyramid_jax.pipeline import request as request_lib


def of_options(options: Mapping[str, Any]) -> pipeline.Request:
  """Returns the request of the options that are given, those not None.

  Raises:
    UserError: an option out of its range.
  """
  given = {name: options.get(name) for name in request_lib.NAMES}
  return pipeline.Request(**{k: v for k, v in given.items() if v is not None})
