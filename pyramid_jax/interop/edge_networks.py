"""Edge detectors that are networks, from the files of their weights."""

import functools
import os

import jax

from pyramid_jax.conditioning import edges
from pyramid_jax.interop import parts
from pyramid_jax.interop import weight_file
from pyramid_jax.interop.families import pidinet


def load(path: str | os.PathLike[str]) -> edges.Detector:
  """Returns PiDiNet as a detector, see `conditions.edges`.

  Args:
    path: of its weights, as released or converted; any of its sizes.

  Raises:
    ValueError: one line: an unreadable file, or that of something else.
    OSError: the file cannot be opened.
  """
  try:
    network = pidinet.infer(weight_file.read(path))
  except ValueError as error:
    raise ValueError(f'{path} as pidinet: {error}') from error
  params = parts.load_part('pidinet', path, pidinet.template(network))
  apply = functools.partial(network.apply, method='edges')
  return functools.partial(jax.jit(apply), {'params': params})
