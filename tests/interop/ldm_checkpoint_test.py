"""Whole checkpoints of LDM, built small with every group of keys, and back."""

import pathlib

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert
from pyramid_jax.interop import latent_checkpoint
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import safetensors_file
from pyramid_jax.runs import loading
from tests.helpers import torch_writer


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'

# Spelled out here, not asked of the code under test.
CONV = 'model.diffusion_model.input_blocks.0.0.weight'
CONV_EMA = 'model_ema.diffusion_modelinput_blocks00weight'
CODEBOOK = 'first_stage_model.quantize.embedding.weight'
HEAD = [
  f'cond_stage_model.transformer.to_logits.{x}' for x in ('weight', 'bias')
]
DECODER = 'decoder.up.0.block.0.norm1.weight'
# config, a key of its condition encoder or None, number of such keys
CONDITIONS = {
  'ldm_unconditional:celebahq': (None, 0),
  'ldm_imagenet:v2': ('embedding.weight', 1),
  'ldm_retrieval:': (None, 0),  # CLIP is no part of the release.
  'ldm_semantic:px256': ('channel_mapper.weight', 1),
  'ldm_superres:bsr': (None, 0),
  'ldm_inpaint:': ('post_quant_conv.bias', -1),
  'ldm_text:small': ('transformer.pos_emb.emb.weight', -1),
}


def load(name):
  file, variant = name.split(':')
  return config_lib.load(f'{CONFIGS}/{file}.py:{variant},debug')


def release(system, averaged=True):
  """An official state dict of a system, and its account of the keys."""
  _, report = latent_workdir.from_official('ldm', {}, system, False)
  rng = np.random.default_rng(0)
  draw = lambda shape: rng.normal(size=shape).astype(np.float32)
  state = {key: draw(shape) for key, shape in report.missing.items()}
  for key, value in list(state.items()):
    if averaged and key.startswith('model.'):
      name = key.removeprefix('model.').replace('.', '')
      state[f'model_ema.{name}'] = draw(value.shape)
  if averaged:
    state['model_ema.decay'] = np.asarray(0.9999, np.float32)
    state['model_ema.num_updates'] = np.asarray(77, np.int32)
  if system.space.scale_by_std:
    state['scale_factor'] = np.asarray(0.22, np.float32)
  return state | latent_checkpoint.schedule_buffers(system.chain)


@pytest.mark.turns(3, group='releases')
@pytest.mark.parametrize('name', sorted(CONDITIONS))
def test_every_kind_of_condition_there_and_back(name):
  key, count = CONDITIONS[name]
  system = systems.create(load(name))
  state = release(system)
  if name.startswith('ldm_inpaint'):  # the first stage is there twice
    state |= {
      key.replace('first_stage_model', 'cond_stage_model'): value
      for key, value in state.items()
      if key.startswith('first_stage_model')
    }
  if name.startswith('ldm_text'):  # a release has a head that nothing reads
    state |= {key: np.ones(3, np.float32) for key in HEAD}
  conditions = [k for k in state if k.startswith('cond_stage_model.')]
  if count >= 0:
    assert len(conditions) == count
  if key:
    assert f'cond_stage_model.{key}' in state
  assert {CONV, CONV_EMA, f'first_stage_model.{DECODER}'} <= state.keys()
  assert 'scale_factor' not in state

  trees, report = latent_workdir.from_official('ldm', state, system, False)
  assert report.complete
  assert not report.unused
  left_out = f'left out, since no step reads it: {", ".join(HEAD)}'
  assert (left_out in report.notes) == name.startswith('ldm_text')
  scale = 0.22765929 if name.startswith('ldm_retrieval') else 1.0
  np.testing.assert_allclose(trees.latent_scale, [scale])
  back = latent_checkpoint.to_official(
    trees, system.chain, 0.9999, latent_workdir.layout_of('ldm', system)
  )
  assert back.keys() == state.keys() - set(HEAD)
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_a_first_stage_that_is_there_once_serves_both():
  system = systems.create(load('ldm_inpaint:'))
  _, report = latent_workdir.from_official(
    'ldm', release(system), system, False
  )
  assert report.complete


def test_log_variances_of_the_errors():
  config = load('ldm_unconditional:celebahq')
  config_lib.override(config, {'diffusion.learn_logvar': 'true'})
  system = systems.create(config)
  state = release(system)
  assert state['logvar'].shape == (1000,)
  trees, report = latent_workdir.from_official('ldm', state, system, False)
  assert not report.unused
  layout = latent_workdir.layout_of('ldm', system)
  back = latent_checkpoint.to_official(trees, system.chain, 0.9999, layout)
  np.testing.assert_array_equal(back['logvar'], state['logvar'])


def run(workdir, *rest):
  return convert.main(['--family=ldm', f'--workdir={workdir}', *rest])


def flag(name):
  file, variant = name.split(':')
  return f'--config={CONFIGS}/{file}.py:{variant},debug'


@pytest.mark.turns(3, group='releases')
def test_a_workdir_that_samples_and_exports(tmp_path, capsys):
  name = 'ldm_unconditional:lsun_churches'
  system = systems.create(load(name))
  state = release(system)
  loss = {'first_stage_model.loss.logvar': np.zeros(1, np.float32)}
  file = torch_writer.write_checkpoint(tmp_path / 'model.ckpt', state | loss)
  workdir = tmp_path / 'run'
  assert run(workdir, flag(name), f'--checkpoint={file}') == 0
  printed = capsys.readouterr().out
  assert 'missing: 0\n' in printed
  assert 'unused: 1\n  first_stage_model.loss.logvar (1,)' in printed

  config = config_lib.from_json((workdir / 'config.json').read_text())
  run_ = loading.load(config, workdir)
  weights = run_.weights
  assert run_.step == 77
  np.testing.assert_allclose(weights.extra['latent_scale'], [0.22])
  unet = weights.params['generator']['unet']
  np.testing.assert_array_equal(
    unet['input_blocks_0_0']['kernel'], state[CONV_EMA].transpose(2, 3, 1, 0)
  )
  np.testing.assert_array_equal(
    weights.frozen['first_stage']['decoder']['up_0']['block_0']['norm1'][
      'scale'
    ],
    state[f'first_stage_model.{DECODER}'],
  )

  target = tmp_path / 'official.safetensors'
  assert run(workdir, f'--export={target}') == 0
  back = safetensors_file.Tensors(target)
  assert back.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
  code = convert.main(
    ['--family=frido', f'--workdir={workdir}', f'--export={tmp_path}/x']
  )
  assert code == errors.DATA
  assert 'is not of the system frido' in capsys.readouterr().err


def test_missing_and_unknown_keys_are_listed_with_shapes(tmp_path, capsys):
  name = 'ldm_unconditional:celebahq'
  system = systems.create(load(name))
  state = release(system, averaged=False)
  shape = state.pop(CODEBOOK).shape
  state['model.diffusion_model.extra'] = np.zeros(5, np.float32)
  file = torch_writer.write_checkpoint(tmp_path / 'model.ckpt', state)
  code = run(tmp_path / 'run', flag(name), f'--checkpoint={file}')
  assert code == errors.DATA
  printed = capsys.readouterr()
  assert f'missing: 1\n  {CODEBOOK} {shape}' in printed.out
  assert 'unused: 1\n  model.diffusion_model.extra (5,)' in printed.out
  assert '1 missing keys (listed above)' in printed.err
  assert not (tmp_path / 'run').exists()


def test_damaged_files_and_wrong_configs(tmp_path, capsys):
  name = 'ldm_unconditional:celebahq'
  file = torch_writer.write_checkpoint(
    tmp_path / 'model.ckpt', {'a': np.zeros(1000, np.float32)}
  )
  file.write_bytes(file.read_bytes()[:-200])
  code = run(tmp_path / 'run', flag(name), f'--checkpoint={file}')
  assert code == errors.DATA
  assert capsys.readouterr().err.count('\n') == 1
  file = torch_writer.write_checkpoint(
    tmp_path / 'whole.ckpt', {'a': np.zeros(2, np.float32)}
  )
  frido = f'--config={CONFIGS}/frido_coco.py:text,debug'
  code = run(tmp_path / 'run', frido, f'--checkpoint={file}')
  assert code == errors.USAGE
  assert 'needs a config of the system ldm' in capsys.readouterr().err


def test_a_config_that_no_official_checkpoint_has():
  config = load('ldm_text:small')
  config_lib.override(config, {'condition.also': 'class'})
  config_lib.override(
    config, {'condition.class_by': 'timestep', 'condition.num_classes': '3'}
  )
  with pytest.raises(ValueError, match=r'config\.condition\.also is set'):
    latent_workdir.layout_of('ldm', systems.create(config))
  config = load('ldm_text:small')
  config_lib.override(config, {'condition.encoder': 't5'})
  with pytest.raises(ValueError, match="encoder is 't5', which no official"):
    latent_workdir.layout_of('ldm', systems.create(config))
