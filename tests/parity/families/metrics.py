"""Family `metrics.fid`: the evaluator of ADM, from features and logits on.

Reference: openai/guided-diffusion: evaluations/evaluator.py, FIDStatistics,
ManifoldEstimator and Evaluator.compute_inception_score.
"""

import numpy as np

from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception_score
from pyramid_jax.metrics import precision_recall
from tests.parity.families import Case
from tests.parity.families import Unsupported


_SETS = ('ref', 'sample')
_USED = {'nhood_sizes', 'split_size', 'clamp_to_percentile'}
# How much is computed at a time, and a guard of a score that is not asked for.
_WITHOUT_EFFECT = {'row_batch_size', 'col_batch_size', 'eps'}


def run(case: Case) -> dict[str, np.ndarray]:
  """Computes moments, distance, precision, recall and inception score.

  Raises:
    Unsupported: an argument that we do not know.
  """
  unknown = sorted(case.config.keys() - _USED - _WITHOUT_EFFECT)
  if unknown:
    raise Unsupported(f'unknown arguments of the evaluator: {unknown}')
  sizes = case.config.get('nhood_sizes', precision_recall.NEIGHBOURS)
  percentile = case.config.get('clamp_to_percentile')
  features = {s: case.inputs[f'features_{s}'] for s in _SETS}
  outputs: dict[str, np.ndarray] = {}
  fits, reach = {}, {}
  for name, x in features.items():
    total = frechet.moments(x)
    fits[name] = frechet.fit_moments(total)
    reach[name] = precision_recall.radii(x, sizes, percentile)
    outputs[f'mu_{name}'] = total.mean
    outputs[f'sigma_{name}'] = total.covariance
    outputs[f'radii_{name}'] = reach[name]
  distance = frechet.distance(fits['ref'], fits['sample'])
  outputs['fid'] = np.array([distance])
  ref, sample = (features[s] for s in _SETS)
  outputs['precision'] = precision_recall.covered(sample, ref, reach['ref'])
  outputs['recall'] = precision_recall.covered(ref, sample, reach['sample'])
  if 'logits' in case.inputs:
    split = case.config.get('split_size', inception_score.SPLIT_SIZE)
    logits = case.inputs['logits']
    sums = inception_score.split_sums(logits, np.arange(len(logits)), split)
    score = inception_score.over_splits(sums)
    outputs['inception_score'] = np.array([score.value])
  return outputs
