import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.data import degradation
from pyramid_jax.evaluation import score_rows


@pytest.mark.parametrize(
  ('kind', 'names'),
  [
    ('bicubic', {'psnr', 'ssim', 'lr_consistency_bicubic'}),
    ('bsr_light', {'psnr', 'ssim'}),  # drawn at random: not repeated
  ],
)
def test_photographs_are_judged_by_their_own_degradation(kind, names):
  config = config_lib.base('ldm').unlock()
  config.condition.task = 'superres'
  config.data.name, config.data.degradation = 'image_folder', kind
  noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
  low = np.stack([degradation.degrade(kind, x, 4, 0) for x in noise])
  examples = {'image': noise, 'lr_image': low}
  rows = score_rows.of_task(config, None, noise, noise, examples)
  assert {row.name for row in rows} == names
  scores = {row.name: row.score.value for row in rows}
  assert scores.get('lr_consistency_bicubic', 100) == 100
