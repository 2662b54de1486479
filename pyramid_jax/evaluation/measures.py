"""Which scores the images of a config have, by its task and data."""

import dataclasses

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import degradation
from pyramid_jax.data.digits import scores as digit_scores
from pyramid_jax.data.synthetic import condition_alignment
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import restoration
from pyramid_jax.metrics import states


def of_samples(
  config: ConfigDict, level: int | None, bounds: bool
) -> states.Measure | None:
  """Returns the scores of samples by their conditions.

  Args:
    config: of the run.
    level: of the scenes of `shapes`, see `condition_alignment.Alignment`.
    bounds: whether they have ceilings and floors.

  Returns:
    None where no detector knows the data.
  """
  task = config.condition.task
  if config.data.name == 'shapes':
    return condition_alignment.Alignment(task=task, level=level, bounds=bounds)
  if config.data.name == 'digits' and task in ('none', 'class'):
    return digit_scores.Recognition(
      task=task,
      root=config.data.root,
      size=config.data.image_size,
      bounds=bounds,
    )
  if task not in restoration.TASKS:
    logging.info('no score of the conditions: no detector knows the data.')
    return None
  return restoration.Restoration(
    task=task, degradation=_degradation(config), bounds=bounds
  )


def _degradation(config: ConfigDict) -> restoration.Degradation | None:
  """Returns the degradation of the config, None where it is random."""
  if config.data.degradation != 'bicubic':
    return None

  def bicubic(images, size):
    factor = images.shape[1] // size[0]
    small = [degradation.degrade('bicubic', x, factor, 0) for x in images]
    return np.stack(small)

  return restoration.Degradation(score='lr_consistency_bicubic', apply=bicubic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(states.Means):
  """The scores of a first stage, as a `states.Measure`.

  psnr (dB, at most 100, also where nothing differs) and ssim of reconstructions
  and originals, and of `shapes` layout_recall and category_acc.
  """

  level: int | None  # See `condition_alignment.Alignment`.

  def of_images(self, batch: states.Batch) -> states.Columns:
    images, real = batch.images, batch.real
    assert real is not None
    psnr = image_quality.capped(image_quality.psnr(images, real))
    ssim = image_quality.ssim(images, real)
    columns = {'psnr': psnr, 'ssim': ssim}
    columns = {n: bootstrap.mean_pairs(x) for n, x in columns.items()}
    if 'geometry' in batch.examples:  # shapes: objects can be found again
      columns |= condition_alignment.reconstruction_pairs(
        images, batch.examples, self.level
      )
    return columns


def level_of(config: ConfigDict) -> int | None:
  """Returns the level of the scenes of a config, None of other data."""
  return config.data.level if config.data.name == 'shapes' else None
