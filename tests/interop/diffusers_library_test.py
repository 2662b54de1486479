"""Folders of diffusers beside that library itself, where it is installed.

pip install torch diffusers transformers
python -m pytest tests/interop/diffusers_library_test.py
"""

import json

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import diffusers_files


REASON = 'torch, diffusers and transformers are not installed'
torch = pytest.importorskip('torch', reason=REASON)
diffusers = pytest.importorskip('diffusers', reason=REASON)
pytest.importorskip('transformers', reason=REASON)

PROMPTS = ('a cat!', 'cat cat cat cat cat cat cat')
DDIM = {'_class_name': 'DDIMScheduler', 'set_alpha_to_one': False}
SCHEDULERS = {
  'pndm': {'_class_name': 'PNDMScheduler', 'skip_prk_steps': True},
  'ddim': DDIM,
  'ddim_clean': DDIM | {'set_alpha_to_one': True},
  'ddim_trailing': DDIM | {'timestep_spacing': 'trailing'},
  'dpm': {'_class_name': 'DPMSolverMultistepScheduler'},
}
CASES = [
  # PLMS combines velocities there, and the noise here.
  *((k, name, 10) for k in '12' for name in SCHEDULERS if k + name != '2pndm'),
  ('1', 'ddim', 7),  # no divisor of 1000
]


def _written(folder, kind, scheduler):
  prediction = {'prediction_type': 'epsilon' if kind == '1' else 'v_prediction'}
  values = SCHEDULERS[scheduler] | prediction
  diffusers_files.write(
    folder,
    kind,
    {
      'scheduler/scheduler_config.json': values,
      'model_index.json': {'scheduler': ['diffusers', values['_class_name']]},
    },
  )
  return folder


def _ours(folder, steps):
  """Returns initial noise, latents and images, channels first."""
  config = workdir_lib.read_config(folder)
  config_lib.override(config, {'sample.steps': str(steps)})
  run = loading.load(config, folder)
  tokenizer = tokenizers.create(config)
  rows = request.from_text(PROMPTS, tokenizer)
  batch = {'condition_ids': rows['condition_ids']}
  keys = system_lib.image_keys(0, np.arange(len(PROMPTS)))
  spec = spec_lib.from_config(config)
  images, (latents,) = jax.jit(
    lambda weights, keys, batch: system_lib.generate(
      run.system, weights, keys, batch, spec
    )
  )(run.weights, keys, batch)
  noise = sampling.Noise.from_keys(keys).start(0)(latents.shape)
  return tuple(
    np.asarray(x, np.float32).transpose(0, 3, 1, 2)
    for x in (noise, latents, images / 2 + 0.5)
  )


@pytest.mark.parametrize(('kind', 'scheduler', 'steps'), CASES)
def test_samples_are_those_of_the_library(tmp_path, kind, scheduler, steps):
  folder = _written(tmp_path / 'sd', kind, scheduler)
  noise, latents, images = _ours(folder, steps)
  pipe = diffusers.StableDiffusionPipeline.from_pretrained(
    folder, safety_checker=None, feature_extractor=None
  )
  pipe.set_progress_bar_config(disable=True)
  theirs = pipe(
    list(PROMPTS),
    latents=torch.from_numpy(noise.copy()),
    num_inference_steps=steps,
    output_type='latent',
  ).images
  np.testing.assert_allclose(latents, theirs.numpy(), atol=1e-4, rtol=1e-4)
  with torch.no_grad():
    decoded = pipe.vae.decode(theirs / pipe.vae.config.scaling_factor).sample
  decoded = (decoded / 2 + 0.5).clamp(0, 1).numpy()
  np.testing.assert_allclose(images, decoded, atol=1e-4)


@pytest.mark.parametrize('kind', ['1', '2'])
def test_the_folders_of_the_tests_are_official(tmp_path, kind):
  folder = _written(tmp_path / 'sd', kind, 'ddim')
  pipe = diffusers.StableDiffusionPipeline.from_pretrained(
    folder, safety_checker=None, feature_extractor=None
  )
  for name, shapes in (
    ('unet', diffusers_files.unet_shapes(kind)),
    ('vae', diffusers_files.vae_shapes()),
  ):
    state = getattr(pipe, name).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == shapes
  again = tmp_path / 'again'  # as the library writes it today
  pipe.save_pretrained(again)
  config = workdir_lib.read_config(again)
  run, first = (
    loading.load(config, again),
    loading.load(workdir_lib.read_config(folder), folder),
  )
  jax.tree.map(np.testing.assert_array_equal, run.weights, first.weights)
  index = json.loads((again / 'model_index.json').read_text())
  assert index['_class_name'] == 'StableDiffusionPipeline'
