"""Classifier guidance from runs to guided samples, at the smallest size."""

import json

import numpy as np
import pytest

import pyramid_jax as pj
from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.interop import parts
from pyramid_jax.training import loop as train
from tests.helpers import configs
from tests.helpers import written_run


SMALLEST = {
  'network__channel_mult': '1',
  'network__attention_resolutions': '()',
}


def write_base(folder, task, first_stage, **fields):
  """Writes a run of random weights; returns its config."""
  config = configs.load(
    f'ldm_shapes.py:{task},debug',
    first_stage__checkpoint=first_stage,
    sample__guidance=1,
    sample__steps=2,
    sample__count=2,
    **SMALLEST,
    **fields,
  )
  _, weights = written_run.write(folder, config)
  parts.write('ldm.autoencoder_kl', first_stage, weights.frozen['first_stage'])
  return config


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_from_a_run_to_guided_samples(tmp_path):
  base, own = tmp_path / 'base', tmp_path / 'own'
  first_stage = str(tmp_path / 'first.safetensors')
  config = write_base(base, 'class', first_stage)
  classifier = configs.load(
    'classifier_shapes.py:latents,debug',
    classifier__base=base,
    train__steps=2,
    train__eval_every=2,
    **SMALLEST,
  )
  train.run(classifier, own)
  last = json.loads((own / 'metrics.jsonl').read_text().splitlines()[-1])
  assert np.isfinite(last['loss'])
  assert 0 <= last['eval/acc_5_at_0.5'] <= 1
  evaluate.run(classifier, own, {})
  table = json.loads((own / 'samples' / 'scores.json').read_text())
  names = table['scores']
  assert 'acc_1_at_0.0' in names
  assert 'cross_entropy_at_0.75' in names

  made = {}
  for scale in (0.0, 30.0):
    config.sample.classifier = str(own)
    config.sample.classifier_scale = scale
    sample.run(config, base, {'label': '3'})
    with np.load(base / 'samples' / 'samples.npz') as saved:
      made[scale] = saved['arr_0'].astype(int)
  assert np.abs(made[0.0] - made[30.0]).max() > 2
  pipe = pj.load(base, classifier=own)
  assert 'classifier_scale' in pipe.requests
  images = pipe(label=3, count=2, classifier_scale=30.0)
  np.testing.assert_array_equal(images, made[30.0])

  alone = pj.load(base)
  assert 'classifier_scale' not in alone.requests
  with pytest.raises(errors.UserError, match='needs a classifier'):
    alone(label=3, classifier_scale=2.0)
  with pytest.raises(errors.UserError, match="system 'classifier', which does"):
    pj.load(own)
  with pytest.raises(errors.UserError, match="must be one of the system 'cl"):
    pj.load(base, classifier=base)

  free = tmp_path / 'free'
  write_base(free, 'none', first_stage, data__level=0, data__max_objects=4)
  pipe = pj.load(free, classifier=own)
  assert 'label' in pipe.requests
  assert pipe(label='2', count=2).shape == (2, 32, 32, 3)
