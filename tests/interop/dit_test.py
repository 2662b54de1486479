"""DiT: its network beside recorded runs of the reference, and its files.

The numbers were recorded by facebookresearch/DiT (models.py and diffusion/),
whose tensors were filled by `official_fill`.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import dit as names
from pyramid_jax.networks import dit
from pyramid_jax.runs import loading
from pyramid_jax.systems.diffit import latent
from tests.helpers import configs
from tests.helpers import official_fill
from tests.helpers import system_weights


RECORDED = pathlib.Path(__file__).with_name('recorded') / 'dit.npz'
WIDTH, DEPTH, GRID = 32, 2, 4
NETWORK = dit.DiT(
  input_size=8,
  hidden_size=WIDTH,
  depth=DEPTH,
  num_heads=4,
  num_classes=5,
)


def official_shapes():
  """Returns key -> shape, by the rules of the reference."""

  def affine(name, *shape):
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}

  shapes = {
    'pos_embed': (1, GRID**2, WIDTH),
    **affine('x_embedder.proj', WIDTH, 4, 2, 2),
    **affine('t_embedder.mlp.0', WIDTH, 256),
    **affine('t_embedder.mlp.2', WIDTH, WIDTH),
    'y_embedder.embedding_table.weight': (6, WIDTH),
    **affine('final_layer.linear', 2 * 2 * 8, WIDTH),
    **affine('final_layer.adaLN_modulation.1', 2 * WIDTH, WIDTH),
  }
  for i in range(DEPTH):
    block = f'blocks.{i}'
    shapes |= {
      **affine(f'{block}.attn.qkv', 3 * WIDTH, WIDTH),
      **affine(f'{block}.attn.proj', WIDTH, WIDTH),
      **affine(f'{block}.mlp.fc1', 4 * WIDTH, WIDTH),
      **affine(f'{block}.mlp.fc2', WIDTH, 4 * WIDTH),
      **affine(f'{block}.adaLN_modulation.1', 6 * WIDTH, WIDTH),
    }
  return shapes


def official_state():
  state = dict(official_fill.State(official_shapes()))
  return state | names.positions(WIDTH, GRID)


@pytest.fixture(scope='module')
def params():
  arguments = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), *arguments)
  tree, report = parts.to_flax('dit', official_state(), shapes['params'])
  report.require_complete()
  assert report.matched.keys() == official_shapes().keys()
  assert not report.unused
  return tree


def inputs(name):
  return official_fill.inputs(name, (2, 4, 8, 8)).transpose(0, 2, 3, 1)


def test_the_network_is_that_of_the_reference(params):
  recorded = np.load(RECORDED)
  out = jax.jit(NETWORK.apply)(
    {'params': params},
    inputs('x'),
    jnp.array([7.0, 900.0]),
    jnp.array([1, 5]),
  )
  np.testing.assert_allclose(
    np.transpose(out, (0, 3, 1, 2)), recorded['output'], atol=2e-5, rtol=1e-5
  )


def test_guided_samples_are_those_of_the_reference(params):
  """Four respaced steps with a learned variance, guidance 4 of 3 channels."""
  recorded = np.load(RECORDED)
  spec = spec_lib.SamplerSpec(
    solver='ddpm',
    steps=(4,),
    spacing='iddpm',
    variance='learned_range',
    guidance=classifier_free.Guidance(scale=4.0, channels=3),
  )
  chain = schedules.make_chain('linear', 1000, 1e-4, 0.02)
  (levels,) = spec.chain_levels(chain)
  labels = lambda *ids: condition_lib.Inputs(y=jnp.array(ids))
  condition = condition_lib.Condition(context=labels(1, 3), null=labels(5, 5))

  @jax.jit
  def sample(params):
    stage = latent.denoiser(NETWORK, params).guided(
      levels, condition, (2, 8, 8, 4), spec.guidance_of(0)
    )
    noise = sampling.Noise.recorded(
      [inputs('x_T')], [jnp.stack([inputs(f'noise{i}') for i in range(4)])]
    )
    return sampling.run([stage], spec.make_solver(), noise)[0]

  np.testing.assert_allclose(
    np.transpose(sample(params), (0, 3, 1, 2)), recorded['samples'], rtol=2e-4
  )


def test_a_table_of_other_positions_is_refused(params):
  state = official_state()
  state['pos_embed'] = state['pos_embed'] + 0.1
  with pytest.raises(ValueError, match=r'pos_embed is .*, needed'):
    parts.to_flax('dit', state, params)
  del state['pos_embed']
  _, report = parts.to_flax('dit', state, params)
  assert list(report.missing) == ['pos_embed']


@pytest.mark.slow
def test_the_published_number_of_parameters():
  system = systems.create(configs.load('dit_imagenet.py:xl2_256'))
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  leaves = jax.tree.leaves(params['generator'])
  assert sum(leaf.size for leaf in leaves) + 16**2 * 1152 == 675_129_632


@pytest.mark.turns(3, group='releases')
def test_a_release_becomes_a_workdir_and_back(tmp_path, capsys):
  config = configs.load('dit_imagenet.py:debug')
  system = systems.create(config)
  shapes = system_weights.shapes_of(system)
  network = system_weights.fill(shapes.params['generator']['network'])
  vae = system_weights.fill(shapes.frozen['first_stage'], 1)
  state = parts.to_official('dit', network)
  state |= names.positions(32, system.network.grid)
  files = {
    'network': state,
    'vae': parts.to_official('ldm.autoencoder_kl', vae, 'diffusers'),
    'large': state | names.positions(32, 2 * system.network.grid),
  }
  for name, tensors in files.items():
    safetensors_file.write(tmp_path / f'{name}.safetensors', tensors)

  def run(*rest):
    workdir = f'--workdir={tmp_path / "run"}'
    return convert.main(['--family=latent_diffit', workdir, *rest])

  of = lambda name: (
    f'--config={configs.FOLDER}/dit_imagenet.py:debug',
    f'--checkpoint={tmp_path}/{name}.safetensors,{tmp_path}/vae.safetensors',
  )
  assert run(*of('large')) == errors.DATA
  grid = system.network.grid
  assert (
    f'pos_embed has {4 * grid**2} positions, that of the config {grid**2}'
    in capsys.readouterr().err
  )
  assert run(*of('network')) == 0
  assert 'missing: 0\nmismatched: 0\nunused: 0' in capsys.readouterr().out
  written = config_lib.from_json((tmp_path / 'run/config.json').read_text())
  assert written.sample.to_uint8 == 'half_up'
  weights = loading.load(written, tmp_path / 'run').weights
  jax.tree.map(
    np.testing.assert_array_equal,
    weights.params['generator']['network'],
    network,
  )
  assert run(f'--export={tmp_path}/back.safetensors') == 0
  back = safetensors_file.Tensors(tmp_path / 'back.safetensors')
  assert back.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
