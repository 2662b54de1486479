"""How long a reader takes for an example, by what it does.

Measured by the profiler of Python, in one thread, so that the times add up. It
counts calls of Python alone, a few hundred an image: what decoders and filters
take is hardly changed.
"""

import cProfile
import pstats
import time
from typing import Any

import numpy as np
from PIL import ImageFile

from pyramid_jax.data import degradation
from pyramid_jax.data import prefetching
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.shards import parquet_files
from pyramid_jax.data.storage import archives


READ, DECODE, CUT, REST = 'read', 'decode', 'cut', 'the rest'
# The functions of each stage. Pillow decodes where pixels are first needed,
# within the cut.
_OF_STAGE = {
  READ: (
    images.load_bytes,
    fixed_records.Shards.read,
    archives.File.read,
    parquet_files.Rows.row,
  ),
  DECODE: (ImageFile.ImageFile.load,),
  CUT: (
    transforms.Transform.__call__,
    transforms.cut_map,
    degradation.degrade,
  ),
}


def seconds(
  reader: Any, indices: np.ndarray, draws: np.ndarray
) -> dict[str, float]:
  """Returns the seconds of an example in each stage, and those of the rest.

  Args:
    reader: of any data.
    indices: (B,) of the examples that are made.
    draws: (B,) their seeds.
  """
  profile = cProfile.Profile()
  start = time.perf_counter()
  profile.enable()
  try:
    if isinstance(reader, prefetching.Rowwise):
      pairs = zip(indices, draws, strict=True)
      reader.stacked([reader.row(int(i), np.uint64(d)) for i, d in pairs])
    else:
      reader.batch(indices, draws)
  finally:
    profile.disable()
  total = time.perf_counter() - start
  stats: Any = pstats.Stats(profile)
  found = {
    stage: sum(_cumulative(stats.stats, x) for x in functions)
    for stage, functions in _OF_STAGE.items()
  }
  found[CUT] = max(0.0, found[CUT] - found[DECODE])
  found[REST] = max(0.0, total - sum(found.values()))
  return {stage: secs / len(indices) for stage, secs in found.items()}


def _cumulative(stats: Any, function: Any) -> float:
  """Returns the seconds in a function and what it calls."""
  code = function.__code__
  entry = stats.get((code.co_filename, code.co_firstlineno, code.co_name))
  return entry[3] if entry else 0.0
