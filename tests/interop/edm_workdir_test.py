"""A network that EDM pickled as a workdir that samples, and back."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import convert
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.runs import loading


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
CONFIG = f'{CONFIGS}/edm_cifar10.py:class,ve,debug'
SMALL = '--config.network.model_channels=4'
# A snapshot, and what the official code computes with it.
RECORDED = pathlib.Path(__file__).parent / 'recorded' / 'edm_snapshot.npz'
IDS = np.array([2, 4])


@pytest.fixture(scope='module')
def recorded():
  with np.load(RECORDED) as arrays:
    return dict(arrays)


@pytest.fixture(scope='module')
def pickled(recorded, tmp_path_factory):
  path = tmp_path_factory.mktemp('release') / 'network.pkl'
  path.write_bytes(recorded['pickle'].tobytes())
  return path


def run(workdir, *rest):
  return convert.main(['--family=edm', f'--workdir={workdir}', *rest])


@pytest.fixture(scope='module')
def workdir(pickled, tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'run'
  flags = (f'--config={CONFIG}', SMALL, f'--checkpoint={pickled}')
  assert run(folder, *flags) == 0
  return folder


@pytest.fixture(scope='module')
def loaded(workdir):
  config = config_lib.from_json((workdir / 'config.json').read_text())
  return systems.create(config), loading.load(config, workdir).weights


def test_the_denoiser_is_that_of_the_pickle(loaded, recorded):
  system, weights = loaded
  variables = {
    'params': weights.params['generator']['network'],
    **weights.extra,
  }
  moves = jnp.cos(jnp.arange(18.0)).reshape(2, 9)
  latents = np.random.RandomState(0).standard_normal((2, 32, 32, 3))

  @jax.jit
  def denoise(x, sigma):
    network = lambda x, noise: system.network.apply(
      variables, x, noise, IDS, moves
    )
    return edm.denoise(system.precond, network, x, sigma)

  with jax.default_matmul_precision('highest'):
    got = denoise(jnp.float32(latents), jnp.float32([0.4, 3.0]))
  want = recorded['D']
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.turns(3, group='releases')
def test_samples_are_those_of_the_official_sampler(loaded, recorded):
  system, weights = loaded
  latents = np.random.RandomState(0).standard_normal((2, 32, 32, 3))
  spec = spec_lib.SamplerSpec(solver='heun', steps=(4,))

  @jax.jit
  def sample(weights, latents):
    condition = system.condition(weights, {'class': jnp.asarray(IDS + 1)})
    stages = system.stages(weights, condition, (2, 32, 32), spec)
    noise = sampling.Noise.recorded([latents])
    return sampling.run(stages, spec.make_solver(), noise)[0]

  with jax.default_matmul_precision('highest'):
    got = sample(weights, jnp.float32(latents))
  want = recorded['sample']
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_export_is_the_state_dict_of_the_pickle(workdir, pickled, tmp_path):
  target = tmp_path / 'back.safetensors'
  assert run(workdir, f'--export={target}') == 0
  back, want = safetensors_file.Tensors(target), weight_file.read(pickled)
  assert back.keys() == want.keys()
  for key in want:
    np.testing.assert_allclose(back[key], want[key], rtol=1e-6, err_msg=key)


@pytest.mark.parametrize(
  ('config', 'flags', 'message'),
  [
    ('class,ve', [], 'keys of another shape'),
    (
      'class,vp',
      [SMALL, '--config.network.resample_filter=1,3,3,1'],
      'unknown keys',
    ),
    ('ve', [SMALL], 'label_dim = 10, that of the config is 0'),
    (
      'class,ve',
      [SMALL, '--config.diffusion.preconditioning=ve'],
      "class_name = 'EDMPrecond', that of the config is 'VEPrecond'",
    ),
    (
      'class,ve',
      [SMALL, '--config.network.resample_filter=1,1'],
      r'has the weights [1, 3, 3, 1], those of',
    ),
    (
      'class,ve',
      [SMALL, '--config.diffusion.sigma_data=0.4'],
      'sigma_data = 0.5, that of the config is 0.4',
    ),
  ],
)
def test_other_configs_are_refused(
  pickled, tmp_path, capsys, config, flags, message
):
  named = f'--config={CONFIGS}/edm_cifar10.py:{config},debug'
  code = run(tmp_path / 'run', named, *flags, f'--checkpoint={pickled}')
  assert code == errors.DATA
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'config', ['diffit_cifar10.py:debug', 'edm_cifar10.py:tmsa,debug']
)
def test_configs_without_a_release(pickled, tmp_path, capsys, config):
  named = f'--config={CONFIGS}/{config}'
  code = run(tmp_path / 'run', named, f'--checkpoint={pickled}')
  assert code == errors.USAGE
  assert 'config.network.tmsa False' in capsys.readouterr().err
