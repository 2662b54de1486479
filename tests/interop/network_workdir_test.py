"""Files of ADM and of noisy classifiers as workdirs, and back.

The tensors are those of recorded cases, under the names of the official code.
"""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import convert
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.runs import loading
from tests.helpers import configs
from tests.parity import verify


CASES = pathlib.Path(__file__).parents[1] / 'parity' / 'cases'
NETWORK = {
  'data__image_size': 16,
  'network__channel_mult': '1,1',
  'network__num_head_channels': 16,
}
FILES = {
  'adm': ('adm_imagenet.py:64,debug', 'adm_unet_64', 6),
  'classifier': ('adm_classifier.py:256,debug', 'adm_classifier_attention', 5),
}


def written(folder, family, prefix=''):
  """Writes the weights of a case and a config; returns case and arguments."""
  file, name, classes = FILES[family]
  case = verify.read_case(CASES / f'{name}.npz')
  config = folder / 'small.py'
  config.write_text(
    'from tests.helpers import configs\n\n\n'
    'def get_config(arg=""):\n'
    f'  fields = {NETWORK | {"condition__num_classes": classes}!r}\n'
    f'  return configs.load({file!r}, **fields)\n'
  )
  state = {prefix + key: value for key, value in case.state.items()}
  safetensors_file.write(folder / 'official.safetensors', state, {})
  arguments = [
    f'--family={family}',
    f'--config={config}',
    f'--checkpoint={folder / "official.safetensors"}',
    f'--workdir={folder / "run"}',
  ]
  return case, arguments


@pytest.mark.parametrize(
  ('family', 'prefix'),
  [('adm', ''), ('classifier', ''), ('classifier', 'model.')],
)
def test_there_and_back(tmp_path, monkeypatch, family, prefix):
  case, arguments = written(tmp_path, family, prefix)
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))
  assert convert.main(arguments) == errors.OK
  out = tmp_path / 'again.safetensors'
  arguments = [
    f'--family={family}',
    f'--workdir={tmp_path / "run"}',
    f'--export={out}',
  ]
  assert convert.main(arguments) == errors.OK
  again = weight_file.read(out)
  assert set(again) == set(case.state)
  for name, value in case.state.items():
    np.testing.assert_array_equal(again[name], value)


@pytest.mark.usefixtures('one_device')
def test_a_converted_network_predicts_what_the_official_one_did(tmp_path):
  case, arguments = written(tmp_path, 'adm')
  assert convert.main(arguments) == errors.OK
  fields = NETWORK | {'condition__num_classes': 6}
  config = configs.load(FILES['adm'][0], **fields)
  run = loading.load(config, tmp_path / 'run')
  unet = run.system.unet
  y = unet.apply(
    {'params': run.weights.params['generator']['unet']},
    case.inputs['x'].transpose(0, 2, 3, 1),
    jnp.asarray(case.inputs['timesteps']),
    None,
    jnp.asarray(case.inputs['y']),
  )
  want = case.expected['y'].transpose(0, 2, 3, 1)
  assert np.abs(y - want).max() < 1e-4 * np.abs(want).max()


def test_another_network_is_refused_by_its_keys(tmp_path, capsys):
  _, arguments = written(tmp_path, 'adm')
  (tmp_path / 'other').mkdir()
  _, other = written(tmp_path / 'other', 'classifier')
  arguments[2] = other[2]
  assert convert.main(arguments) == errors.DATA
  assert 'missing keys' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()
