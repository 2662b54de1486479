"""The two files of the release as a workdir, built small, and back."""

import pathlib

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert
from pyramid_jax.commands import sample
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.runs import loading
from tests.helpers import system_weights
from tests.helpers import torch_writer


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
CONFIG = f'{CONFIGS}/diffit_imagenet.py:debug'


@pytest.fixture(scope='module')
def release(tmp_path_factory):
  """Returns the folder of both files, and their state dicts."""
  folder = tmp_path_factory.mktemp('release')
  shapes = system_weights.shapes_of(systems.create(config_lib.load(CONFIG)))
  network = system_weights.fill(shapes.params['generator']['network'])
  vae = system_weights.fill(shapes.frozen['first_stage'], 1)
  states = {
    'network': parts.to_official('diffit.latent', network),
    'vae': parts.to_official('ldm.autoencoder_kl', vae, 'diffusers'),
  }
  for name, state in states.items():
    safetensors_file.write(folder / f'{name}.safetensors', state)
  return folder, states


def run(workdir, *rest):
  return convert.main(['--family=latent_diffit', f'--workdir={workdir}', *rest])


def files(folder, *names):
  paths = [str(folder / f'{name}.safetensors') for name in names]
  return f'--checkpoint={",".join(paths)}'


@pytest.mark.turns(3, group='releases')
def test_a_workdir_that_samples_and_exports(release, tmp_path, capsys):
  folder, states = release
  workdir = tmp_path / 'run'
  both = files(folder, 'network', 'vae')
  assert run(workdir, f'--config={CONFIG}', both) == 0
  assert 'missing: 0\nmismatched: 0\nunused: 0' in capsys.readouterr().out
  config = config_lib.from_json((workdir / 'config.json').read_text())
  weights = loading.load(config, workdir).weights
  np.testing.assert_allclose(weights.extra['latent_scale'], [0.18215])
  label = weights.params['generator']['network']['y_embedder']['embedding']
  np.testing.assert_array_equal(
    label, states['network']['y_embedder.embedding_table.weight']
  )
  np.testing.assert_array_equal(
    weights.frozen['first_stage']['encoder']['conv_in']['bias'],
    states['vae']['encoder.conv_in.bias'],
  )

  target = tmp_path / 'back.safetensors'
  assert run(workdir, f'--export={target}') == 0
  back = safetensors_file.Tensors(target)
  assert back.keys() == states['network'].keys()
  jax.tree.map(np.testing.assert_array_equal, dict(back), states['network'])

  sample.run(config, workdir, {'count': 2, 'label': 'golden retriever'})
  with np.load(workdir / 'samples' / 'samples.npz') as saved:
    assert saved['arr_0'].shape == (2, 32, 32, 3)
    assert saved['class'].tolist() == [208, 208]  # 207 counted from 0
  with pytest.raises(errors.UserError, match='class 1001 is not known, .*1000'):
    sample.run(config, workdir, {'count': 2, 'label': '1001'})


@pytest.mark.parametrize(
  ('names', 'change', 'message'),
  [
    (('network',), {}, 'missing keys'),
    (('vae',), {}, 'missing keys'),
    (('network', 'vae', 'more'), {'pos_embed.more': 1}, '1 unknown keys'),
    (('network', 'vae', 'more'), {'pos_embed': 16}, 'pos_embed is (16,)'),
  ],
)
def test_other_files_are_refused(
  release, tmp_path, capsys, names, change, message
):
  folder, _ = release
  state = {name: np.zeros(size, np.float32) for name, size in change.items()}
  safetensors_file.write(
    folder / 'more.safetensors', state or {'a': np.ones(1)}
  )
  code = run(tmp_path / 'run', f'--config={CONFIG}', files(folder, *names))
  assert code == errors.DATA
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('config', 'code', 'message'),
  [
    ('diffit_latent_shapes.py:debug,plain', errors.DATA, "'add' with 24"),
    ('diffit_latent_shapes.py:debug,none', errors.DATA, "'tmsa' with 0"),
    ('ldm_imagenet.py:debug', errors.USAGE, 'of the system latent_diffit'),
  ],
)
def test_configs_without_a_release(
  release, tmp_path, capsys, config, code, message
):
  folder, _ = release
  named = f'--config={CONFIGS}/{config}'
  assert run(tmp_path / 'run', named, files(folder, 'network')) == code
  assert message in capsys.readouterr().err


def test_the_network_alone_with_a_config(release, tmp_path):
  folder, states = release
  flags = ['--family=diffit.latent', f'--workdir={tmp_path}/run']
  flags += [f'--config={CONFIG}', files(folder, 'network')]
  assert convert.main(flags) == 0
  family, tree, _ = parts.read_own(tmp_path / 'run' / 'params.safetensors')
  assert family == 'diffit.latent'
  np.testing.assert_array_equal(
    tree['blocks_1']['attn']['proj']['bias'],
    states['network']['blocks.1.attn.proj.bias'],
  )


def test_a_training_checkpoint_with_averages(release, tmp_path, capsys):
  folder, states = release
  sets = {
    name: torch_writer.Ordered(
      {
        key: torch_writer.tensor(value + plus * (value.dtype.kind == 'f'))
        for key, value in states['network'].items()
      }
    )
    for name, plus in (('model', 0), ('module.ema', 1))
  }
  # Constants are no weights and have no averages.
  for key in ('pos_embed', *(k for k in states['network'] if 'index' in k)):
    sets['module.ema'][key] = sets['model'][key]
  moments = {'state': {0: {'exp_avg': sets['model']}}}
  file = tmp_path / 'train.pt'
  torch_writer.write_zip(file, {**sets, 'opt': moments, 'args': None})
  checkpoint = f'--checkpoint={file},{folder}/vae.safetensors'
  workdir = tmp_path / 'run'
  assert run(workdir, f'--config={CONFIG}', checkpoint) == 0
  assert 'weights: module.ema (--weights takes others: model)' in (
    capsys.readouterr().out
  )
  config = config_lib.from_json((workdir / 'config.json').read_text())
  network = loading.load(config, workdir).weights.params['generator']
  np.testing.assert_array_equal(
    network['network']['y_embedder']['embedding'],
    states['network']['y_embedder.embedding_table.weight'] + 1,
  )
