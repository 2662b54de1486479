"""A table of scores: rows by task, the table as text, as JSON and on disk."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import math
import pathlib
from typing import Any

from absl import logging
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import degradation
from pyramid_jax.data.synthetic import condition_alignment
from pyramid_jax.data.synthetic import render as shapes_render
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import restoration
from pyramid_jax.networks.layers import quantizer


Row = bootstrap.Row
Score = bootstrap.Score


def of_task(
  config: ConfigDict,
  label_names: Sequence[str] | None,
  images: np.ndarray,
  real: np.ndarray | None,
  examples: Mapping[str, np.ndarray],
) -> list[Row]:
  """Scores samples, with ceiling and floor where there are real images.

  Args:
    config: of the run.
    label_names: of its data, None if they are not known.
    images: (N, H, W, 3) uint8.
    real: (N, H, W, 3) uint8 of the same conditions, None without.
    examples: the conditions.

  Returns:
    Nothing where the detector does not know the data.
  """
  task = config.condition.task
  if config.data.name == 'shapes':
    if real is not None and len(images) > 1:
      seed = config.data.seed
      return condition_alignment.with_bounds(task, images, examples, real, seed)
    scores = condition_alignment.scores(task, images, examples, label_names)
    return [Row(name, score) for name, score in scores.items()]
  if task not in restoration.TASKS:
    logging.info('no score of the conditions: the detector knows shapes only.')
    return []
  degraded = _degradation(config)
  scores = restoration.scores(task, images, examples, degraded)
  if 'image' not in examples:
    return [Row(name, score) for name, score in scores.items()]
  whole = examples['image']
  ceiling = restoration.scores(task, whole, examples, degraded)
  plain = restoration.baseline(task, examples, whole.shape[1:3])
  floor = restoration.scores(task, plain, examples, degraded)
  return [Row(n, s, ceiling[n], floor[n]) for n, s in scores.items()]


def _degradation(config: ConfigDict) -> restoration.Degradation | None:
  """Returns the degradation of the config, None where it is random."""
  if config.data.degradation != 'bicubic':
    return None

  def bicubic(images, size):
    factor = images.shape[1] // size[0]
    small = [degradation.degrade('bicubic', x, factor, 0) for x in images]
    return np.stack(small)

  return restoration.Degradation(score='lr_consistency_bicubic', apply=bicubic)


def of_reconstructions(
  images: np.ndarray, real: np.ndarray, examples: Mapping[str, np.ndarray]
) -> list[Row]:
  """Scores the reconstructions of real images, (N, H, W, 3) uint8 each."""
  if 'geometry' in examples:  # shapes: objects can be found again
    values = condition_alignment.reconstruction_scores(images, real, examples)
  else:
    values = {
      'psnr': bootstrap.mean(image_quality.psnr(images, real)),
      'ssim': bootstrap.mean(image_quality.ssim(images, real)),
    }
  return [Row(name, score) for name, score in values.items()]


def of_codebook(scale: int, counts: Any) -> list[Row]:
  """Returns how much of a codebook was used, by the (K,) uses of each code."""
  exact = lambda v: Score(float(v), float(v), float(v), int(counts.sum()))
  return [
    Row(f'perplexity_{scale}', exact(quantizer.perplexity(counts))),
    Row(f'dead_codes_{scale}', exact(quantizer.dead_codes(counts))),
  ]


def of_saved(config: ConfigDict, arrays: Mapping[str, np.ndarray]) -> list[Row]:
  """Scores saved images `arr_0` by the other arrays, their conditions.

  Conditions that are missing or do not fit are a UserError.
  """
  examples = dict(arrays)
  images = examples.pop('arr_0')
  with errors.user_errors(value=errors.DATA):
    real = _whole_images(examples, images.shape[1])
    return of_task(config, None, images, real, examples)


def _whole_images(
  arrays: Mapping[str, np.ndarray], size: int
) -> np.ndarray | None:
  """Returns the real images of saved conditions, None if they are not there."""
  if 'geometry' in arrays:  # a scene of shapes, drawn again
    spec = {name: jnp.asarray(arrays[name]) for name in shapes_render.SPEC}
    return np.asarray(shapes_render.image(spec, size)).astype(np.uint8)
  return arrays.get('image')


def write(folder: pathlib.Path, about: str, rows: Sequence[Row]) -> None:
  """Writes `scores.json` and `scores.md`; `about` is their headline."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'scores.md').write_text(f'{about}\n\n{to_markdown(rows)}')
  (folder / 'scores.json').write_text(
    json.dumps({'about': about, 'scores': to_json(rows)}, indent=2) + '\n'
  )


def to_markdown(rows: Sequence[Row]) -> str:
  """Returns the table: score, its 95 % interval, ceiling and floor."""
  lines = [
    '| score | value | 95 % interval | ceiling | floor | n |',
    '|---|---|---|---|---|---|',
  ]
  number = lambda s: '-' if s is None else f'{s.value:.4g}'
  for row in rows:
    s = row.score
    known = math.isfinite(s.low) and math.isfinite(s.high)
    interval = f'{s.low:.4g} .. {s.high:.4g}' if known else '-'
    lines.append(
      f'| {row.name} | {s.value:.4g} | {interval} |'
      f' {number(row.ceiling)} | {number(row.floor)} | {s.n} |'
    )
  return '\n'.join(lines) + '\n'


def to_json(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
  """Returns {name: {value, low, high, n, ceiling, floor}}.

  An interval that is not known is null.
  """
  value = lambda s: None if s is None else s.value
  known = lambda x: x if math.isfinite(x) else None
  return {
    row.name: {
      'value': row.score.value,
      'low': known(row.score.low),
      'high': known(row.score.high),
      'n': row.score.n,
      'ceiling': value(row.ceiling),
      'floor': value(row.floor),
    }
    for row in rows
  }
