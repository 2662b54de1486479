"""Sketch guidance from a run to guided samples, at the smallest size."""

import json

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import sample
from pyramid_jax.interop import parts
from pyramid_jax.training import loop as train
from tests.helpers import configs
from tests.helpers import written_run


def load(name, **values):
  return configs.load(name, **{'train__steps': 2} | values)


def write_base(folder, config, seed=0):
  """Writes a run of random weights, as if it had been trained."""
  _, weights = written_run.write(folder, config, seed)
  parts.write(
    'ldm.autoencoder_kl',
    config.first_stage.checkpoint,
    weights.frozen['first_stage'],
  )


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_from_a_run_to_steered_samples(tmp_path, monkeypatch):
  base, own = tmp_path / 'base', tmp_path / 'own'
  first_stage = str(tmp_path / 'first.safetensors')
  config = load('ldm_shapes.py:text,debug', first_stage__checkpoint=first_stage)
  write_base(base, config)
  predictor = load('sketch_shapes.py:ldm,debug', sketch__base=str(base))
  with monkeypatch.context() as patch:
    patch.setattr(train, '_compile', lambda setup: None)  # it has no step
    with pytest.raises(errors.UserError, match="target_space = 'pixels'"):
      train.run(predictor, own)  # random weights keep no lines
  predictor = load(
    'sketch_shapes.py:ldm,pixels,debug',
    sketch__base=str(base),
    train__eval_every='2',
  )
  train.run(predictor, own)
  last = json.loads((own / 'metrics.jsonl').read_text().splitlines()[-1])
  assert np.isfinite(last['loss_stage_0'])
  assert 0 <= last['eval/edge_f1_at_0.5'] <= 1

  drawing = np.full((50, 70), 255, np.uint8)
  drawing[10:40, 20] = drawing[25, 10:60] = 0
  Image.fromarray(drawing).save(tmp_path / 'cross.png')
  asked = {
    'prompt': 'a red circle',
    'sketch': str(tmp_path / 'cross.png'),
    'count': 2,
  }
  with pytest.raises(errors.UserError, match='sketch needs a predictor'):
    sample.run(config, base, asked)
  config.sketch.predictor = str(own)
  made = {}
  for beta in (0.0, 1.6):
    config.sketch.beta = (beta,)
    sample.run(config, base, asked)
    with np.load(base / 'samples' / 'samples.npz') as saved:
      made[beta] = saved['arr_0']
      assert saved['sketch'].max() == 255
  assert np.abs(made[0.0].astype(int) - made[1.6].astype(int)).max() > 2
  with pytest.raises(errors.UserError, match='there is no sketch: give one'):
    sample.run(config, base, {'prompt': 'a red circle', 'count': 2})

  for step in (base / 'checkpoints').iterdir():
    step.rename(tmp_path / 'old')
  write_base(base, config, seed=1)
  with pytest.raises(errors.UserError, match='weights of base are not those'):
    sample.run(config, base, asked)
