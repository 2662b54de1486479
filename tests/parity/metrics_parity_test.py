"""The evaluator of ADM: a recorded run, and runs written here."""

import json

import numpy as np
import pytest
from scipy import linalg

from pyramid_jax import errors
from tests.parity import verify


def test_recorded_run(golden):
  code, text = verify.verify(str(golden('metrics_fid.npz')))
  assert code == errors.OK, text
  assert 'inception_score' in text


def _reference(ref, sample, logits, sizes, split):
  """The definitions, in the simplest NumPy and SciPy."""
  x, y = ref.astype(np.float64), sample.astype(np.float64)
  s1, s2 = np.cov(x.T), np.cov(y.T)
  fid = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s1 + s2)
  fid -= 2 * np.trace(linalg.sqrtm(s1 @ s2).real)
  d = lambda a, b: np.square(a[:, None] - b[None]).sum(-1)
  reach = [np.sort(d(a, a), 1)[:, sizes] for a in (x, y)]
  inside = lambda a, b, r: (d(a, b)[..., None] <= r).any(1).mean(0)
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(1, keepdims=True)
  scores = []
  for start in range(0, len(p), split):
    part = p[start : start + split]
    divergence = (part * np.log(part / part.mean(0))).sum(1)
    scores.append(np.exp(divergence.mean()))
  return {
    'fid': [fid],
    'mu_ref': x.mean(0),
    'sigma_sample': s2,
    'radii_ref': reach[0],
    'precision': inside(y, x, reach[0]),
    'recall': inside(x, y, reach[1]),
    'inception_score': [np.mean(scores)],
  }


@pytest.mark.parametrize(
  ('rows', 'size', 'config'),
  [
    ((90, 70), 12, {'nhood_sizes': [2, 3, 10], 'split_size': 20}),
    ((40, 80), 3, {'nhood_sizes': [1], 'split_size': 64}),
    ((60, 60), 5, {}),
  ],
)
def test_other_sizes_and_options(tmp_path, rows, size, config):
  random = np.random.RandomState(size)
  mix = random.randn(size, size)
  ref = (random.randn(rows[0], size) @ mix).astype(np.float32)
  sample = (random.randn(rows[1], size) @ mix * 0.8 + 0.3).astype(np.float32)
  logits = random.randn(100, 8).astype(np.float32)
  want = _reference(
    ref,
    sample,
    logits,
    config.get('nhood_sizes', [3]),
    config.get('split_size', 5000),
  )
  meta = {'family': 'metrics.fid', 'config': config, 'tolerance': 1e-4}
  arrays = {
    'in/features_ref': ref,
    'in/features_sample': sample,
    'in/logits': logits,
    **{f'out/{k}': np.asarray(v, np.float32) for k, v in want.items()},
  }
  file = tmp_path / 'case.npz'
  np.savez(file, meta=json.dumps(meta), **arrays)
  code, text = verify.verify(str(file))
  assert code == errors.OK, text
  arrays['out/recall'] = arrays['out/recall'] + 0.01
  np.savez(file, meta=json.dumps(meta), **arrays)
  assert verify.verify(str(file))[0] == verify.OFF


def test_unknown_arguments_are_named(tmp_path):
  meta = {'family': 'metrics.fid', 'config': {'kid': 1}, 'tolerance': 1e-4}
  file = tmp_path / 'case.npz'
  np.savez(file, meta=json.dumps(meta), **{'out/fid': np.zeros(1)})
  code, text = verify.verify(str(file))
  assert code == errors.USAGE
  assert "['kid']" in text
