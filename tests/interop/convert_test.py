"""A released checkpoint, built small with every group of keys, and back."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert as convert_command
from pyramid_jax.interop import convert
from pyramid_jax.interop import latent_checkpoint
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import text_encoders
from pyramid_jax.runs import loading
from tests.helpers import torch_writer


ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f'{ROOT}/configs/frido_coco.py'
FIRST_CONFIG = f'{ROOT}/configs/msvqgan_coco.py:debug'

# Spelled out here, not asked of the code under test.
UNET_KEY = 'input_blocks.0.0.in_layers.0.param_free_norm.weight'
EMA_KEY = (
  'model_ema.diffusion_modelinput_blocks00in_layers0param_free_normweight'
)
CONV = 'pre_input_blocks.0.0.weight'
CONV_EMA = 'model_ema.diffusion_modelpre_input_blocks00weight'
TOKENS = 'cond_stage_model.transformer.token_emb.weight'
QUERY = 'cond_stage_model.transformer.attn_layers.layers.0.1.to_q.weight'
UPSAMPLE = 'first_stage_model.upsample.0.weight'
LOSS = 'first_stage_model.loss.logvar'
# Of the condition encoder; no step reads it, and no run has it.
HEAD = {
  'cond_stage_model.transformer.to_logits.weight': (30522, 32),
  'cond_stage_model.transformer.to_logits.bias': (30522,),
}


def schedule():
  """The twelve buffers, by the formulas of DDPM."""
  beta = np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2
  bar = np.cumprod(1 - beta)
  prev = np.append(1, bar[:-1])
  variance = beta * (1 - prev) / (1 - bar)
  buffers = {
    'betas': beta,
    'alphas_cumprod': bar,
    'alphas_cumprod_prev': prev,
    'sqrt_alphas_cumprod': bar**0.5,
    'sqrt_one_minus_alphas_cumprod': (1 - bar) ** 0.5,
    'log_one_minus_alphas_cumprod': np.log(1 - bar),
    'sqrt_recip_alphas_cumprod': bar**-0.5,
    'sqrt_recipm1_alphas_cumprod': (1 / bar - 1) ** 0.5,
    'posterior_variance': variance,
    'posterior_log_variance_clipped': np.log(np.append(1e-20, variance[1:])),
    'posterior_mean_coef1': beta * prev**0.5 / (1 - bar),
    'posterior_mean_coef2': (1 - prev) * (1 - beta) ** 0.5 / (1 - bar),
  }
  return {k: v.astype(np.float32) for k, v in buffers.items()}


def system_of(config):
  return systems.create(config_lib.load(config))


def make_release(variant):
  """An official state dict of the smallest model of a task.

  Its keys are those that the converter wants, so it shows groups, prefixes and
  the way back. That the keys are those of the reference code is shown by the
  recorded cases of tests/parity, whose state dicts the reference wrote, and by
  the keys that are spelled out above.
  """
  system = system_of(f'{CONFIG}:{variant},debug')
  _, report = latent_workdir.from_official('frido', {}, system, False)
  rng = np.random.default_rng(0)
  draw = lambda shape: rng.normal(size=shape).astype(np.float32)
  state = {key: draw(shape) for key, shape in report.missing.items()}
  for key, value in list(state.items()):
    prefix, _, name = key.partition('.')
    if prefix == 'model':
      state[f'model_ema.{name.replace(".", "")}'] = draw(value.shape)
  state |= schedule()
  state['model_ema.decay'] = np.float32(0.9999).reshape(())
  state['model_ema.num_updates'] = np.asarray(1234, np.int32)
  state['scale_factor'] = np.asarray([0.25, 0.5], np.float32)
  state[LOSS] = draw((3,))
  if TOKENS in state:
    state |= {key: draw(shape) for key, shape in HEAD.items()}
  return state


@pytest.fixture(scope='module')
def released():
  return make_release('text')


def run(family, workdir, *rest):
  return convert_command.main(
    [f'--family={family}', f'--workdir={workdir}', *rest]
  )


@pytest.fixture(scope='module')
def converted(released, tmp_path_factory):
  """The workdir of the released model."""
  folder = tmp_path_factory.mktemp('converted')
  file = torch_writer.write_checkpoint(folder / 'model.ckpt', released)
  code = run(
    'frido',
    folder / 'run',
    f'--config={CONFIG}:text,debug',
    f'--checkpoint={file}',
    '--config.data.root=somewhere',
  )
  assert code == 0
  return folder / 'run'


def test_keys_of_a_release(released):
  for key in (EMA_KEY, CONV_EMA, TOKENS, QUERY, UPSAMPLE):
    assert key in released
  assert f'model.diffusion_model.{UNET_KEY}' in released
  counts = {}
  for key in released:
    prefix = key.partition('.')[0]
    counts[prefix] = counts.get(prefix, 0) + 1
  assert counts['model_ema'] == counts['model'] + 2


def test_values_land_in_their_places(released, converted):
  text = (converted / 'config.json').read_text()
  config = config_lib.from_json(text)
  assert config.data.root == 'somewhere'
  run_ = loading.load(config, converted)
  assert run_.step == 1234
  weights = run_.weights
  generator = weights.params['generator']
  conv = generator['unet']['pre_input_blocks_0_0']['kernel']
  np.testing.assert_array_equal(conv, released[CONV_EMA].transpose(2, 3, 1, 0))
  encoder = generator['condition']
  np.testing.assert_array_equal(
    encoder['token_emb']['embedding'], released[TOKENS]
  )
  query = encoder['layers']['layer_0']['attn']['to_q']['kernel']
  np.testing.assert_array_equal(query, released[QUERY].T)
  up = weights.frozen['first_stage']['upsample_0']['kernel']
  np.testing.assert_array_equal(
    up, released[UPSAMPLE].transpose(2, 3, 0, 1)[::-1, ::-1]
  )
  np.testing.assert_array_equal(weights.extra['latent_scale'], [0.25, 0.5])


def test_first_stage_is_a_run_of_its_own(converted):
  folder = converted / 'first_stage'
  config = config_lib.from_json((folder / 'config.json').read_text())
  assert config.system.name == 'autoencoder'
  assert config.data.root == 'somewhere'
  assert loading.load(config, folder).step == 1


def test_export_is_exact(released, converted, tmp_path, capsys, caplog):
  target = tmp_path / 'official.safetensors'
  assert run('frido', converted, f'--export={target}') == 0
  assert f'{len(released) - 3} tensors written' in capsys.readouterr().out
  assert f'{", ".join(HEAD)} of the release: not written' in caplog.text
  state = safetensors_file.Tensors(target)
  assert state.keys() == released.keys() - {LOSS, *HEAD}
  buffers = schedule()
  for key, value in state.items():
    if key in buffers:
      np.testing.assert_allclose(value, released[key], rtol=2e-5)
    else:
      np.testing.assert_array_equal(value, released[key], err_msg=key)
  assert run('frido', converted, f'--export={target}') == errors.OUTPUT


def test_second_conversion_is_refused(released, converted, tmp_path, capsys):
  code = run(
    'frido',
    converted,
    f'--config={CONFIG}:text,debug',
    '--checkpoint=whatever.ckpt',
  )
  assert code == errors.OUTPUT
  assert 'holds a run already (config.json)' in capsys.readouterr().err


def attempt(state, tmp_path, *rest):
  file = torch_writer.write_checkpoint(tmp_path / 'model.ckpt', state)
  config = f'--config={CONFIG}:text,debug'
  return run('frido', tmp_path / 'run', config, f'--checkpoint={file}', *rest)


def test_missing_keys(released, tmp_path, capsys):
  state = {k: v for k, v in released.items() if k != TOKENS}
  assert attempt(state, tmp_path) == errors.DATA
  captured = capsys.readouterr()
  assert f'missing: 1\n  {TOKENS} (30522, 32)' in captured.out
  assert f'unused: 1\n  {LOSS} (3,)' in captured.out
  assert f'  {EMA_KEY} (32,)' in captured.out
  assert '1 missing keys (listed above); --allow_missing' in captured.err
  assert not (tmp_path / 'run').exists()


@pytest.mark.turns(3, group='releases')
@pytest.mark.slow
def test_allowed_missing_keys_and_a_scalar_scale(released, tmp_path):
  state = {k: v for k, v in released.items() if k not in (QUERY, EMA_KEY)}
  state['scale_factor'] = np.asarray(0.3, np.float32)
  assert attempt(state, tmp_path, '--allow_missing') == 0
  text = (tmp_path / 'run' / 'config.json').read_text()
  weights = loading.load(config_lib.from_json(text), tmp_path / 'run').weights
  generator = weights.params['generator']
  query = generator['condition']['layers']['layer_0']['attn']['to_q']['kernel']
  assert 0 < np.abs(query).mean() < 1
  np.testing.assert_allclose(weights.extra['latent_scale'], [0.3, 0.3])
  norm = generator['unet']['input_blocks_0_0']['in_layers_0']
  # an average that is missing is its raw weight
  np.testing.assert_array_equal(
    norm['param_free_norm']['scale'],
    released[f'model.diffusion_model.{UNET_KEY}'],
  )


@pytest.mark.turns(3, group='releases')
def test_wrong_shapes_and_schedule(released, tmp_path, capsys):
  wrong = {**released, TOKENS: released[TOKENS][:-1]}
  assert attempt(wrong, tmp_path, '--allow_missing') == errors.DATA
  out = capsys.readouterr()
  assert f'{TOKENS} (30521, 32), needed (30522, 32)' in out.out
  betas = np.linspace(1e-4, 2e-2, 1000, dtype=np.float32)
  assert attempt({**released, 'betas': betas}, tmp_path) == errors.DATA
  assert 'betas of the checkpoint is 0.0001..0.02' in capsys.readouterr().err


def test_wrong_inputs(tmp_path, capsys):
  absent = '--checkpoint=absent.ckpt'
  config = f'--config={CONFIG}:text,debug'
  other = f'--config={FIRST_CONFIG}'
  text = tmp_path / 'text'
  text.write_text('hello')
  damaged = f'--checkpoint={text}'
  lines = [
    ([absent, config], errors.MISSING, 'absent.ckpt'),
    ([damaged, config], errors.DATA, 'not a weight file; formats read'),
    ([damaged], errors.DATA, 'not a weight file'),
    ([absent, f'{config}x'], errors.USAGE, "'debugx'"),
    ([absent, config, '--config.data.rot=x'], errors.USAGE, "'data.root'?"),
    ([f'--export={tmp_path}/x'], errors.MISSING, 'config.json'),
  ]
  for arguments, code, message in lines:
    assert run('frido', tmp_path / 'run', *arguments) == code
    assert message in capsys.readouterr().err
  for arguments in ([config], [absent, config, '--speed=2'], ['--config']):
    assert run('frido', tmp_path / 'run', *arguments) == errors.USAGE
    assert capsys.readouterr().err.count('\n') == 1
  file = torch_writer.write_checkpoint(
    tmp_path / 'x.ckpt', {'a': np.zeros(2, np.float32)}
  )
  tiny = f'--checkpoint={file}'
  assert run('frido', tmp_path / 'run', tiny, other) == errors.USAGE
  assert 'needs a config of the system frido' in capsys.readouterr().err
  assert run('bert', tmp_path / 'run', tiny, other) == errors.USAGE
  assert "has no part 'bert'; it has discr" in capsys.readouterr().err


@pytest.mark.turns(3, group='releases')
@pytest.mark.slow
def test_frozen_clip_becomes_a_file_of_the_workdir(tmp_path):
  released = make_release('text_clip')
  key = 'cond_stage_model.transformer.text_model.final_layer_norm.bias'
  file = torch_writer.write_checkpoint(tmp_path / 'model.ckpt', released)
  flags = [f'--config={CONFIG}:text_clip,debug', f'--checkpoint={file}']
  workdir = tmp_path / 'run'
  assert run('frido', workdir, *flags) == 0
  config = config_lib.from_json((workdir / 'config.json').read_text())
  assert not config.condition.pooled
  assert config.condition.weights == str(workdir / 'condition.safetensors')
  frozen = loading.load(config, workdir).weights.frozen
  np.testing.assert_array_equal(
    frozen['condition']['final_layer_norm']['bias'], released[key]
  )
  target = tmp_path / 'official.safetensors'
  assert run('frido', workdir, f'--export={target}') == 0
  state = safetensors_file.Tensors(target)
  assert state.keys() == released.keys() - {LOSS}
  np.testing.assert_array_equal(state[key], released[key])


def of_openai(released):
  """The same release with CLIP as openai/CLIP names it, whole."""
  start = 'cond_stage_model.transformer.'
  clip = {
    key.removeprefix(start): value
    for key, value in released.items()
    if key.startswith(start)
  }
  rest = {k: v for k, v in released.items() if not k.startswith(start)}
  projection = np.random.default_rng(3).normal(size=(32, 32)).astype('f4')
  clip['text_projection.weight'] = projection
  renamed = text_encoders.to_openai(clip)
  np.testing.assert_array_equal(renamed['text_projection'], projection.T)
  others = {'logit_scale': np.float32(4.6), 'visual.proj': np.ones((2, 2))}
  return rest | {
    f'cond_stage_model.model.{key}': np.array(value, np.float32, order='C')
    for key, value in {**renamed, **others}.items()
  }


@pytest.mark.turns(3, group='releases')
@pytest.mark.slow
def test_clip_of_openai_gives_one_token():
  hf = make_release('text_clip')
  released = of_openai(hf)
  config = config_lib.load(f'{CONFIG}:text_clip,debug')
  assert not latent_workdir.fitted(config, hf).condition.pooled
  config = latent_workdir.fitted(config, released)
  assert config.condition.pooled
  assert not latent_workdir.fitted(config, hf).condition.pooled
  system = systems.create(config)
  found, report = latent_workdir.from_official('frido', released, system, False)
  assert report.complete
  ids = np.array([[49406, 5, 49407, 49407], [49406, 5, 9, 49407]], np.int32)
  encoder = system.encoder
  token = np.asarray(encoder.embedded(found.clip, ids))
  assert token.shape == (2, 1, 32)
  np.testing.assert_allclose(np.linalg.norm(token, axis=-1), 1, rtol=1e-5)
  # The state at the first end of the text, projected.
  states = dataclasses.replace(encoder, pooled=False).embedded(found.clip, ids)
  want = np.stack([states[0, 2], states[1, 3]])
  want = want @ released['cond_stage_model.model.text_projection']
  want /= np.linalg.norm(want, axis=-1, keepdims=True)
  np.testing.assert_allclose(token[:, 0], want, rtol=1e-4, atol=1e-5)
  null = encoder.null(found.clip, {'condition_ids': ids})
  assert null.context.shape == (2, 1, 32)

  state = latent_checkpoint.to_official(
    found, system.chain, 0.9999, latent_workdir.layout_of('frido', system)
  )
  left_out = {
    key
    for key in released
    if '.visual.' in key or key.endswith('logit_scale') or key == LOSS
  }
  assert state.keys() == released.keys() - left_out
  for key in state:
    if key.startswith('cond_stage_model.'):
      np.testing.assert_array_equal(state[key], released[key], err_msg=key)


@pytest.mark.parametrize('family', ['frido.msvqgan', 'discriminator'])
def test_parts_of_a_training_checkpoint(family, tmp_path, capsys):
  rng = np.random.default_rng(0)
  state = {'loss.perceptual_loss.lin0.model.1.weight': np.zeros((1, 64, 1, 1))}
  names = {'frido.msvqgan': '', 'discriminator': 'loss.discriminator.'}
  for part, prefix in names.items():
    template = convert._template(part, config_lib.load(FIRST_CONFIG), False, {})
    _, report = convert.parts.to_flax(part, {}, template)
    state |= {
      prefix + key: rng.normal(size=shape).astype(np.float32)
      for key, shape in report.missing.items()
    }
  file = torch_writer.write_checkpoint(tmp_path / 'last.ckpt', state)
  workdir = tmp_path / 'part'
  flags = [f'--config={FIRST_CONFIG}', f'--checkpoint={file}']
  assert run(family, workdir, *flags) == 0
  out = capsys.readouterr().out
  assert 'missing: 0\nmismatched: 0\nunused: ' in out
  assert '  loss.perceptual_loss.lin0.model.1.weight (1, 64, 1, 1)' in out
  record = json.loads((workdir / 'params.json').read_text())
  assert record['family'] == family
  assert len(record['files'][str(file)]) == 64
  assert run(family, workdir, *flags) == errors.OUTPUT

  template = convert._template(family, config_lib.load(FIRST_CONFIG), False, {})
  theirs = convert.load_part(family, file, template)
  own = convert.load_part(family, workdir / 'params.safetensors', template)
  assert_equal_trees(theirs, own)
  other = {'frido.msvqgan': 'discriminator', 'discriminator': 'frido.msvqgan'}
  with pytest.raises(ValueError, match=f"holds '{family}', needed"):
    convert.load_part(other[family], workdir / 'params.safetensors', template)

  target = tmp_path / 'official.safetensors'
  assert run(family, workdir, f'--export={target}') == 0
  back = safetensors_file.Tensors(target)
  assert len(back) == record['tensors']
  for key, value in back.items():
    np.testing.assert_array_equal(value, state[names[family] + key])


def assert_equal_trees(a, b):
  a, b = (convert.mapping.flatten(tree) for tree in (a, b))
  assert a.keys() == b.keys()
  for path, value in a.items():
    np.testing.assert_array_equal(value, b[path])


@pytest.mark.turns(3, group='releases')
@pytest.mark.slow
@pytest.mark.parametrize(
  ('variant', 'first_stage', 'encoder'),
  # The encoders have 422, of which the head's two are not read.
  [('text', 410, 420), ('layout', 366, 420)],
)
def test_key_lists_of_the_released_models(variant, first_stage, encoder):
  """1057 tensors of the U-Net and the parts that are read (shapes only)."""
  system = system_of(f'{CONFIG}:{variant}')
  _, report = latent_workdir.from_official('frido', {}, system, False)
  prefixes = ('model.', 'first_stage_model.', 'cond_stage_model.', 'scale_f')
  counts = [sum(k.startswith(p) for k in report.missing) for p in prefixes]
  assert counts == [1057, first_stage, encoder, 1]
