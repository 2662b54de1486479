"""Folders of Stable Diffusion in the layout of diffusers."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

import pyramid_jax as pj
from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.interop import diffusers_folder
from pyramid_jax.interop import safetensors_file
from pyramid_jax.runs import loading
from pyramid_jax.runs import sources
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import command_line
from tests.helpers import diffusers_files
from tests.helpers import official_fill
from tests.helpers import torch_writer


RECORDED = pathlib.Path(__file__).with_name('recorded')
UNET = 'unet/config.json'
VAE = 'vae/config.json'
TEXT = 'text_encoder/config.json'
TOKENIZER = 'tokenizer/tokenizer_config.json'
SCHEDULER = 'scheduler/scheduler_config.json'
INDEX = 'model_index.json'
WEIGHTS = 'unet/diffusion_pytorch_model'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Returns {kind: folder}."""
  top = tmp_path_factory.mktemp('diffusers')
  return {kind: diffusers_files.write(top / kind, kind) for kind in '12'}


def mesh():
  return mesh_lib.create(config_lib.base('ldm').mesh, jax.devices()[:1])


@pytest.mark.turns(3, group='releases')
@pytest.mark.parametrize('kind', ['1', '2'])
def test_samples_are_those_of_the_library(folders, kind):
  """The numbers were recorded by diffusers 0.42.1.

  `diffusers_library_test.py` compares more with the library itself.
  """
  recorded = np.load(RECORDED / f'stable_diffusion_{kind}.npz')
  config = workdir_lib.read_config(folders[kind])
  config_lib.override(config, {'sample.steps': '3'})
  run = loading.load(config, folders[kind], mesh=mesh())
  rows = request.from_text(['a cat!'], tokenizers.create(config))
  noise = official_fill.inputs('x_T', (1, 4, 8, 8)).transpose(0, 2, 3, 1)

  @jax.jit
  def sample(weights, ids):
    spec = spec_lib.from_config(config)
    condition = run.system.condition(weights, {'condition_ids': ids})
    stages = run.system.stages(weights, condition, (1, 16, 16), spec)
    recorded = sampling.Noise.recorded([noise])
    state = sampling.run(stages, spec.make_solver(), recorded)
    return state[0], run.system.decode(weights, state)

  latents, image = sample(run.weights, rows['condition_ids'])
  for name, got in (('latents', latents), ('image', image / 2 + 0.5)):
    np.testing.assert_allclose(
      np.transpose(got, (0, 3, 1, 2)), recorded[name], atol=1e-4, rtol=1e-4
    )


@pytest.mark.turns(3, group='releases')
def test_a_folder_is_a_model(folders):
  pipe = pj.load(folders['2'], mesh=mesh())
  assert {'prompt', 'guidance', 'solver', 'steps'} <= {*pipe.requests}
  images = pipe('a cat', count=1, steps=2)
  assert images.shape == (1, 16, 16, 3)
  assert images.std() > 1
  with pytest.raises(errors.UserError, match='no checkpoint of step 7'):
    pj.load(folders['1'], step=7)


def test_the_command_line_samples_a_folder(folders, one_device):
  del one_device
  folder = folders['2']
  code, said = command_line.call(
    '--mode=sample',
    f'--workdir={folder}',
    '--prompt=a cat',
    '--count=1',
    '--config.sample.steps=2',
  )
  assert code == 0, said
  made = np.load(folder / 'samples/samples.npz')
  assert made['arr_0'].shape == (1, 16, 16, 3)


def test_nothing_is_trained_in_a_folder(folders):
  code, said = command_line.call(f'--workdir={folders["2"]}')
  assert code == errors.USAGE
  assert '(model_index.json) and no state of a training run' in said
  assert not (folders['2'] / 'config.json').exists()


def test_what_the_files_say(folders):
  one, two = (diffusers_folder.config(folders[kind]) for kind in '12')
  assert one.data.image_size == 16  # 8 latents of a factor of 2
  assert one.network.num_heads == 2
  assert two.network.num_head_channels == 16  # heads of each level differ
  assert (one.condition.hidden_act, two.condition.hidden_act) == (
    'quick_gelu',
    'gelu',
  )
  assert (one.condition.pad_id, two.condition.pad_id) == (8, 0)
  assert one.condition.null_prefix == two.condition.null_prefix == (7, 8)
  assert (one.diffusion.parameterization, one.sample.solver) == ('eps', 'plms')
  assert (two.diffusion.parameterization, two.sample.solver) == ('v', 'ddim')
  for config in (one, two):
    assert config.sample.guidance == 7.5
    assert (config.sample.spacing, config.sample.end) == ('leading', 'first')
    assert config.sample.to_uint8 == 'round'
    assert config.diffusion.scale_factor == 0.18215


def test_a_padding_token_is_read_in_texts(folders):
  one, two = (
    tokenizers.create(diffusers_folder.config(folders[kind])) for kind in '12'
  )
  assert one.encode('a!cat').tolist() == [7, 1, 8, 6, 8, 8, 8, 8]
  assert two.encode('a!cat').tolist() == [7, 1, 0, 6, 8, 0, 0, 0]


SCHEDULERS = [
  ({'timestep_spacing': 'trailing'}, ('plms', 'trailing', 'first')),
  ({'timestep_spacing': 'linspace'}, ('plms', 'exact', 'first')),
  ({'set_alpha_to_one': True}, ('plms', 'leading', 'clean')),
  ({'_class_name': 'DDIMScheduler'}, ('ddim', 'leading', 'first')),
  ({'_class_name': 'DDPMScheduler'}, ('ddpm', 'leading', 'clean')),
  (
    {'_class_name': 'DPMSolverMultistepScheduler'},
    ('dpmpp_2m', 'linspace', 'clean'),
  ),
  (
    {
      '_class_name': 'DPMSolverMultistepScheduler',
      'use_karras_sigmas': True,
      'final_sigmas_type': 'sigma_min',
    },
    ('dpmpp_2m', 'karras', 'first'),
  ),
  (
    {
      '_class_name': 'UniPCMultistepScheduler',
      'timestep_spacing': 'leading',
    },
    ('unipc', 'leading_inner', 'clean'),
  ),
  ({'_class_name': 'EulerDiscreteScheduler'}, ('euler', 'exact', 'clean')),
  ({'_class_name': 'HeunDiscreteScheduler'}, ('heun', 'exact', 'clean')),
]


@pytest.mark.parametrize(('changes', 'want'), SCHEDULERS)
def test_schedulers(folders, tmp_path, caplog, changes, want):
  config = diffusers_folder.config(
    changed(folders['1'], tmp_path, {SCHEDULER: changes})
  )
  s = config.sample
  assert (s.solver, s.spacing, s.end) == want
  assert not caplog.records


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'_class_name': 'LMSDiscreteScheduler'}, "'LMSDiscreteScheduler'.* ddim"),
    ({'prediction_type': 'v_prediction'}, "of 'v_prediction' is not.* plms"),
    ({'skip_prk_steps': False}, 'skip_prk_steps False'),
    (
      {'_class_name': 'DPMSolverMultistepScheduler', 'solver_order': 3},
      'solver_order 3 .* dpmpp_2m',
    ),
    ({'timestep_spacing': 'other'}, "timestep_spacing 'other'"),
  ],
)
def test_solvers_that_are_not_here(folders, tmp_path, caplog, changes, said):
  folder = changed(folders['1'], tmp_path, {SCHEDULER: changes})
  diffusers_folder.config(folder)
  (record,) = caplog.records
  assert record.levelname == 'WARNING'
  assert re.search(said, record.getMessage())


def changed(folder, tmp_path, changes):
  """Returns a copy of the small files of a folder with other options.

  Its weights are links to those of the folder.
  """
  copy = tmp_path / 'changed'
  for file in folder.rglob('*'):
    place = copy / file.relative_to(folder)
    if file.is_dir():
      place.mkdir(parents=True, exist_ok=True)
    elif file.suffix == '.json':
      values = json.loads(file.read_text())
      name = str(file.relative_to(folder))
      place.write_text(json.dumps(values | changes.get(name, {})))
    else:
      place.symlink_to(file)
  return copy


REFUSED = [
  (INDEX, {'_class_name': 'StableDiffusionXLPipeline'}),
  (INDEX, {'_class_name': 'StableDiffusion3Pipeline'}),
  (INDEX, {'text_encoder_2': ['transformers', 'CLIPTextModelWithProjection']}),
  (INDEX, {'unet': ['diffusers', 'UNet3DConditionModel']}),
  (INDEX, {'vae': ['diffusers', 'AutoencoderTiny']}),
  (UNET, {'class_embed_type': 'timestep'}),
  (UNET, {'addition_embed_type': 'text_time'}),
  (UNET, {'dual_cross_attention': True}),
  (UNET, {'time_cond_proj_dim': 256}),
  (UNET, {'resnet_time_scale_shift': 'scale_shift'}),
  (UNET, {'norm_num_groups': 16}),
  (UNET, {'some_new_option': 'on'}),
  (UNET, {'in_channels': 9}),
  (UNET, {'cross_attention_dim': 32}),
  (UNET, {'attention_head_dim': [3, 4]}),
  (UNET, {'attention_head_dim': [2, 1]}),
  (UNET, {'block_out_channels': [32, 'x']}),
  (UNET, {'block_out_channels': [32, 48]}),
  (UNET, {'up_block_types': ['CrossAttnUpBlock2D', 'UpBlock2D']}),
  (UNET, {'transformer_layers_per_block': [1, 2]}),
  (VAE, {'latent_channels': 16}),
  (VAE, {'use_quant_conv': False}),
  (VAE, {'shift_factor': 0.1}),
  (VAE, {'scaling_factor': 'big'}),
  (TEXT, {'hidden_act': 'relu'}),
  (TEXT, {'model_type': 't5'}),
  (TEXT, {'use_attention_mask': True}),
  (TOKENIZER, {'pad_token': '<pad>'}),
  (SCHEDULER, {'trained_betas': [0.1, 0.2]}),
  (SCHEDULER, {'rescale_betas_zero_snr': True}),
  (SCHEDULER, {'prediction_type': 'flow'}),
  (SCHEDULER, {'beta_schedule': 'sigmoid'}),
]


@pytest.mark.parametrize(('file', 'changes'), REFUSED)
def test_what_is_not_served_is_refused_by_name(
  folders, tmp_path, file, changes
):
  folder = changed(folders['1'], tmp_path, {file: changes})
  with pytest.raises(errors.UserError) as error:
    diffusers_folder.config(folder)
  (name,) = changes
  said = str(error.value)
  assert name in said
  assert str(folder) in said
  assert '\n' not in said
  assert error.value.code == errors.DATA


def test_options_that_are_off_may_be_there(folders, tmp_path):
  off = {'some_new_option': False, 'another': None, '_name_or_path': 'x'}
  one = diffusers_folder.config(folders['1'])
  two = diffusers_folder.config(changed(folders['1'], tmp_path, {UNET: off}))
  assert one.network == two.network


def test_missing_files_are_named_at_once(folders, tmp_path):
  folder = changed(folders['1'], tmp_path, {})
  for name in (
    SCHEDULER,
    'tokenizer/merges.txt',
    'vae/diffusion_pytorch_model.safetensors',
  ):
    (folder / name).unlink()
  with pytest.raises(errors.UserError) as error:
    workdir_lib.read_config(folder)
  assert error.value.code == errors.MISSING
  said = str(error.value)
  assert f'{folder} lacks {SCHEDULER}, tokenizer/merges.txt, vae/' in said
  assert 'unet' not in said


@pytest.mark.parametrize('text', ['{', '[]', '\xff', '[' * 10_000])
def test_damaged_configs(folders, tmp_path, text):
  folder = changed(folders['1'], tmp_path, {})
  (folder / UNET).write_bytes(text.encode('latin-1'))
  with pytest.raises(errors.UserError, match=r'unet/config\.json') as error:
    diffusers_folder.config(folder)
  assert error.value.code == errors.DATA


def test_a_tokenizer_in_one_file(folders, tmp_path):
  folder = changed(folders['1'], tmp_path, {})
  pieces = folder / 'tokenizer'
  vocab = json.loads((pieces / 'vocab.json').read_text())
  for merges in (['c a', 'ca t</w>'], [['c', 'a'], ['ca', 't</w>']]):
    for name in ('vocab.json', 'merges.txt'):
      (pieces / name).unlink(missing_ok=True)
    whole = {'model': {'type': 'BPE', 'vocab': vocab, 'merges': merges}}
    (pieces / 'tokenizer.json').write_text(json.dumps(whole))
    tokenizer = tokenizers.create(diffusers_folder.config(folder))
    assert tokenizer.tokens('a cat') == [7, 1, 6, 8]


@pytest.fixture(scope='module')
def abstract(folders):
  """Returns the shapes of the denoiser."""
  system = workdir_lib.create_system(diffusers_folder.config(folders['1']))
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  return sharding.abstract({'params': params}, mesh(), 1 << 20)


def _sharded(folder, state):
  names = sorted(state)
  parts = {'00001': names[::2], '00002': names[1::2]}
  places = {}
  for number, keys in parts.items():
    file = f'diffusion_pytorch_model-{number}-of-00002.safetensors'
    safetensors_file.write(folder / file, {key: state[key] for key in keys})
    places |= dict.fromkeys(keys, file)
  index = {'metadata': {}, 'weight_map': places}
  name = 'diffusion_pytorch_model.safetensors.index.json'
  (folder / name).write_text(json.dumps(index))


def _half(folder, state):
  half = {key: value.astype(np.float16) for key, value in state.items()}
  file = folder / 'diffusion_pytorch_model.fp16.safetensors'
  safetensors_file.write(file, half)


def _pickled(folder, state):
  file = folder / 'diffusion_pytorch_model.bin'
  torch_writer.write_checkpoint(file, state)


def _linear(folder, state):
  linear = {
    key: value[..., 0, 0] if '.proj_' in key and value.ndim == 4 else value
    for key, value in state.items()
  }
  safetensors_file.write(folder / 'diffusion_pytorch_model.safetensors', linear)


@pytest.mark.parametrize('write', [_sharded, _half, _pickled, _linear])
def test_forms_of_the_weights(folders, tmp_path, abstract, write):
  folder = changed(folders['1'], tmp_path, {})
  (folder / f'{WEIGHTS}.safetensors').unlink()
  write(folder / 'unet', diffusers_files.weights('1')['unet'])
  got = sources.load(folder, abstract)
  want = sources.load(folders['1'], abstract)
  tolerance = 1e-3 if write is _half else 0
  for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
  ('key', 'value', 'said'),
  [
    ('conv_in.bias', None, r'input_blocks\.0\.0\.bias \(32,\) is missing'),
    ('add_embedding.linear_1.bias', (8,), r'add_embedding.* no place'),
    ('conv_in.bias', (8,), r'\(8,\), needed \(32,\)'),
  ],
)
def test_weights_of_another_network(
  folders, tmp_path, abstract, key, value, said
):
  folder = changed(folders['1'], tmp_path, {})
  file = folder / f'{WEIGHTS}.safetensors'
  file.unlink()
  state = diffusers_files.weights('1')['unet']
  state.pop(key, None)
  if value:
    state[key] = np.zeros(value, np.float32)
  safetensors_file.write(file, state)
  with pytest.raises(errors.UserError, match=said) as error:
    sources.load(folder, abstract)
  assert str(file) in str(error.value)
  assert error.value.code == errors.DATA
