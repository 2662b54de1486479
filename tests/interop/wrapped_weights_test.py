"""Weights under the names that frameworks put before them, and several sets."""

import json
import pathlib

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert
from pyramid_jax.interop import latent_checkpoint
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import parts
from pyramid_jax.interop import weight_file
from tests.helpers import torch_writer


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
CONFIG = f'{CONFIGS}/ldm_autoencoder_shapes.py:kl,debug'
FAMILY = 'ldm.autoencoder_kl'
PREFIXES = ('module.', '_orig_mod.', '_orig_mod.module.', 'vae.', 'a.b.c.')


@pytest.fixture(scope='module')
def template():
  system = systems.create(config_lib.load(CONFIG))
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  return params['generator']


def official(template, seed=0, layout='official'):
  rng = np.random.default_rng(seed)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
  return parts.to_official(FAMILY, jax.tree.map(draw, template), layout)


@pytest.mark.parametrize('layout', parts.LAYOUTS)
@pytest.mark.parametrize('prefix', PREFIXES)
def test_a_first_stage_behind_any_prefix(template, prefix, layout):
  state = official(template, layout=layout)
  beside = {'loss.logvar': np.zeros(1), f'{prefix}more.weight': np.ones(2)}
  wrapped = {prefix + key: value for key, value in state.items()} | beside
  params, report = parts.to_flax(FAMILY, wrapped, template)
  assert report.complete
  assert report.notes == [f'keys: those behind {prefix!r}']
  assert report.unused.keys() == beside.keys()
  assert all(key.startswith(prefix) for key in report.matched)
  back = parts.to_official(FAMILY, params, layout)
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value)


def test_modules_that_were_compiled_one_by_one(template):
  state = {
    f'module.{key.replace(".", "._orig_mod.", 1)}': value
    for key, value in official(template).items()
  }
  params, report = parts.to_flax(FAMILY, state, template)
  assert report.complete
  assert report.matched.keys() == state.keys()
  np.testing.assert_array_equal(
    params['decoder']['conv_out']['bias'],
    state['module.decoder._orig_mod.conv_out.bias'],
  )


def test_a_prefix_before_that_of_a_release(template):
  state = {
    f'module.first_stage_model.{key}': value
    for key, value in official(template).items()
  }
  _, report = parts.to_flax(FAMILY, state, template)
  assert report.complete


def run(tmp_path, *flags):
  return convert.main(
    [f'--family={FAMILY}', f'--config={CONFIG}', *flags]
    + [f'--workdir={tmp_path}/part']
  )


def decoder(folder):
  kept = weight_file.read(folder / 'part' / 'params.safetensors')
  return kept['decoder/conv_out/bias']


@pytest.mark.parametrize(
  ('weights', 'seed'), [('', 1), ('ema', 1), ('raw', 0), ('model', 0)]
)
def test_a_set_can_be_chosen(template, tmp_path, capsys, weights, seed):
  sets = [official(template, seed) for seed in (0, 1)]
  tensors = [
    torch_writer.Ordered(
      {key: torch_writer.tensor(value) for key, value in state.items()}
    )
    for state in sets
  ]
  mine = torch_writer.Name('mine', 'Callback')
  file = tmp_path / 'model.pt'
  torch_writer.write_zip(
    file, {'model': tensors[0], 'ema': tensors[1], 'callbacks': {mine: 1}}
  )
  assert run(tmp_path, f'--checkpoint={file}', f'--weights={weights}') == 0
  np.testing.assert_array_equal(
    decoder(tmp_path), sets[seed]['decoder.conv_out.bias']
  )
  name, other = ('ema', 'model') if seed else ('model', 'ema')
  note = f'weights: {name} (--weights takes others: {other})'
  assert note in capsys.readouterr().out
  record = json.loads((tmp_path / 'part' / 'params.json').read_text())
  assert record['notes'] == [note]
  assert record['unused'] == []


def test_sets_that_cannot_be_told_apart(template, tmp_path, capsys):
  state = official(template)
  file = torch_writer.write_checkpoint(
    tmp_path / 'model.ckpt',
    {f'{net}.{key}': x for net in ('a', 'b') for key, x in state.items()},
  )
  assert run(tmp_path, f'--checkpoint={file}') == errors.DATA
  assert 'several weights fit: a, b; choose' in capsys.readouterr().err
  code = run(tmp_path, f'--checkpoint={file}', '--weights=c')
  assert code == errors.DATA
  assert "no weights 'c'; those that fit are a, b" in capsys.readouterr().err
  assert not (tmp_path / 'part').exists()
  assert run(tmp_path, f'--checkpoint={file}', '--weights=b') == 0


def test_a_denoiser_has_the_averages_of_its_checkpoint():
  system = systems.create(
    config_lib.load(f'{CONFIGS}/ldm_unconditional.py:celebahq,debug')
  )
  state, raw, averaged = whole(system)
  shapes = jax.eval_shape(system.init, jax.random.key(0))[0]
  tree = shapes['generator']['unet']
  conv = 'input_blocks_0_0'
  for weights, want in [('', averaged), ('ema', averaged), ('raw', raw)]:
    params, report = parts.to_flax('ldm.unet', state, tree, None, weights)
    assert report.complete
    np.testing.assert_array_equal(params[conv]['bias'], want)
    other = {'raw': 'model_ema'}.get(weights, 'model.diffusion_model')
    assert f'others: {other})' in report.notes[0]


def whole(system):
  """A state dict of LDM, and a bias of its U-Net, raw and averaged."""
  _, report = latent_workdir.from_official('ldm', {}, system, False)
  state = {
    key: np.zeros(shape, np.float32) for key, shape in report.missing.items()
  }
  key = 'model.diffusion_model.input_blocks.0.0.bias'
  state[key] = state[key] + 1
  flat = lambda key: f'model_ema.{key.removeprefix("model.").replace(".", "")}'
  unet = {k: x for k, x in state.items() if k.startswith('model.')}
  state |= {flat(k): 2 * x for k, x in unet.items()}
  state['model_ema.num_updates'] = np.asarray(5, np.int32)
  return state, state[key], state[flat(key)]


def test_whole_checkpoints_behind_a_prefix_and_without_averages():
  system = systems.create(
    config_lib.load(f'{CONFIGS}/ldm_unconditional.py:celebahq,debug')
  )
  state, raw, averaged = whole(system)
  conv = 'input_blocks_0_0'

  template = latent_workdir._template(system)
  layout = latent_workdir.layout_of('ldm', system)

  def take(state, weights=''):
    return latent_checkpoint.to_flax(
      state, template, system.chain, layout, weights
    )

  wrapped = {f'module.{key}': value for key, value in state.items()}
  found, report = take(wrapped | {'other': np.zeros(3)})
  assert report.complete
  assert report.notes == ["keys: those behind 'module.'"]
  assert 'module.model_ema.num_updates' in report.matched
  np.testing.assert_array_equal(found.ema[conv]['bias'], averaged)
  np.testing.assert_array_equal(found.generator['unet'][conv]['bias'], raw)
  assert found.updates == 5

  few = {f'copy.{key}': value for key, value in list(state.items())[-40:]}
  few |= {f'copy.{key}': value for key, value in list(state.items())[:5]}
  found, report = take(state | few, 'raw')
  assert report.complete
  assert found.ema is None
  without = {k: x for k, x in state.items() if not k.startswith('model_ema.')}
  with pytest.raises(ValueError, match='no averages'):
    take(without, 'ema')
  with pytest.raises(ValueError, match="no weights 'best'; a whole checkpoint"):
    take(state, 'best')

  other = {key: value + 3 for key, value in without.items()}
  both = {f'state_dict.{k}': x for k, x in without.items()} | {
    f'ema_state_dict.{k}': x for k, x in other.items()
  }
  found, report = take(both)
  np.testing.assert_array_equal(found.generator['unet'][conv]['bias'], raw + 3)
  assert report.notes == [
    'weights: ema_state_dict (--weights takes others: state_dict)'
  ]
  found, _ = take(both, 'state_dict')
  np.testing.assert_array_equal(found.generator['unet'][conv]['bias'], raw)
