"""A whole run of DiffiT in image space, as the command line does it."""

import json
import pathlib

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.training import loop as train


CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'diffit_shapes.py'


@pytest.mark.usefixtures('one_device')
@pytest.mark.turns(4, group='whole runs')
def test_training_sampling_and_scores(tmp_path):
  config = config_lib.load(f'{CONFIG}:debug')
  fields = {
    'data.image_size': 16,
    'network.window': 4,
    'train.steps': 2,
    'train.sample_every': 0,
    'train.eval_every': 0,
    'sample.steps': 2,
    'sample.solver': 'euler',
    'sample.guidance': 1,
  }
  config_lib.override(config, {k: str(v) for k, v in fields.items()})
  train.run(config, tmp_path)
  last = (tmp_path / 'metrics.jsonl').read_text().splitlines()[-1]
  assert json.loads(last)['step'] == 2
  sample.run(config, tmp_path, {'label': 'red circle, 24', 'count': 2})
  with np.load(tmp_path / 'samples' / 'samples.npz') as file:
    assert file['arr_0'].shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(file['class'], [1, 24])
  evaluate.run(config, tmp_path, {})
  scores = json.loads((tmp_path / 'samples' / 'scores.json').read_text())
  assert 0 <= scores['scores']['class_acc']['value'] <= 1
  with pytest.raises(errors.UserError, match=r'class 25 .*numbers are 1\.\.24'):
    sample.run(config, tmp_path, {'label': '25'})
