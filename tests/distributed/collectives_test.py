"""What eight devices exchange in a training step and in a sampler."""

import itertools

import pytest

from tests.helpers import partitioned


# The systems that images are sampled from.
CONFIGS = {
  'ldm': 'ldm_shapes.py:class,debug',
  'ldm, captions': 'ldm_shapes.py:text,debug',
  'ldm, layouts': 'ldm_shapes.py:layout,debug',
  'frido': 'frido_shapes.py:layout,debug',
  'flow': 'flow_shapes.py:class,debug',
  'diffit': 'diffit_shapes.py:class,debug',
  'latent diffit': 'diffit_latent_shapes.py:class,debug',
  'ladm': 'ladm_shapes.py:text,debug',
  'ladm, latents': 'ladm_latent_shapes.py:class,debug',
  'ladm, larger': 'ladm_shapes.py:superres4,debug',
}
TRAINED = {
  **CONFIGS,
  'kl': 'ldm_autoencoder_shapes.py:debug',
  'msvqgan': 'msvqgan_shapes.py:debug',
}
MESHES = {'data 8': (8, 1), 'fsdp 8': (1, 8), 'data 2 x fsdp 4': (2, 4)}
QUICK = (('diffit', 'fsdp 8'), ('kl', 'fsdp 8'))


CASES = [
  pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
  for case in itertools.product(TRAINED, MESHES)
]


@pytest.mark.parametrize(('name', 'mesh'), CASES)
def test_a_training_step_exchanges_no_activations(name, mesh):
  config = partitioned.load(TRAINED[name], *MESHES[mesh])
  found = partitioned.of_step(config)
  assert found
  assert [c for c in found if partitioned.has_rows(c)] == []


@pytest.mark.parametrize(
  'name',
  [
    name if name == 'diffit' else pytest.param(name, marks=pytest.mark.slow)
    for name in CONFIGS
  ],
)
def test_a_sampler_exchanges_nothing(name):
  config = partitioned.load(CONFIGS[name], 1, 8)
  assert partitioned.of_sampler(config) == ()
