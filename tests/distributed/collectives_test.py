"""What eight devices exchange in a training step and in a sampler."""

import functools
import itertools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from pyramid_jax import placement
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks.layers import quantizer
from pyramid_jax.planning import minimum
from pyramid_jax.planning import program
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
QUICK = (('diffit', 'fsdp 8'),)


CASES = [
  pytest.param(*case, marks=() if case in QUICK else pytest.mark.pods)
  for case in itertools.product(TRAINED, MESHES)
]


@pytest.mark.parametrize('codes', [64, 4096])
def test_a_codebook_comes_to_the_rows(codes):
  """XLA would bring few rows to the parts of a large codebook."""
  sizes = ConfigDict({'data': 1, 'fsdp': 8, 'tensor': 1})
  mesh = mesh_lib.create(sizes)
  module = quantizer.VectorQuantizer(codes, 8)
  rows = mesh_lib.batch_sharding(mesh)
  z = jax.ShapeDtypeStruct((88, 4, 4, 8), jnp.float32, sharding=rows)
  shapes = jax.eval_shape(module.init, jax.random.key(0), z)
  params = sharding.abstract(shapes, mesh, 16)

  def gradients(params, z):
    def loss(params, z):
      entries, _, error = module.apply(params, z)
      return error + jnp.square(entries).mean()

    of_params, of_z = jax.grad(loss, (0, 1))(params, z)
    return sharding.constrained(of_params, mesh, 16), placement.rows(of_z)

  step = jax.jit(placement.within(mesh, gradients)).lower(params, z)
  found = program.Program.of(step.compile().as_text()).collectives
  assert sorted((c.kind, c.example) for c in found) == [
    ('all-gather', f'f32[{codes},1]'),
    ('reduce-scatter', f'f32[{codes},8]'),
  ]


@functools.lru_cache(maxsize=1)
def training(name, mesh):
  """Returns the config of a training step, the step, and its program."""
  config = partitioned.load(TRAINED[name], *MESHES[mesh])
  draft = partitioned.training(config)
  return config, draft, partitioned.compiled(draft)


@pytest.mark.parametrize(('name', 'mesh'), CASES)
def test_a_training_step_exchanges_no_activations(name, mesh):
  _, _, found = training(name, mesh)
  assert {c.kind for c in found.collectives} & {'all-reduce', 'reduce-scatter'}
  moved = filter(partitioned.has_rows, found.collectives)
  assert [c for c in moved if not partitioned.is_looked_up(c)] == []


@pytest.mark.parametrize(
  ('name', 'mesh'), [case for case in CASES if 'diffit' in case.values[0]]
)
def test_a_training_step_exchanges_what_the_sharding_needs(name, mesh):
  config, draft, found = training(name, mesh)
  least = minimum.of_training(
    draft.params,
    draft.updated,
    minimum.read(draft.traced, draft.state, draft.frozen),
    draft.mesh,
    config.dtype,
  )
  moved = {kind: size for kind, (_, size) in found.by_kind().items()}
  # What is gathered for the forward pass may serve the backward pass.
  assert moved.get('all-gather', 0) <= 1.1 * least.get('all-gather', 0)
  # Sums, of which every device has the whole or its part.
  sums = lambda of: 2 * of['all-reduce'] + of['reduce-scatter']
  assert sums(moved) == pytest.approx(sums(least), rel=0.1)


@pytest.mark.parametrize(
  'name',
  [
    name if name == 'diffit' else pytest.param(name, marks=pytest.mark.pods)
    for name in CONFIGS
  ],
)
def test_a_sampler_exchanges_nothing(name):
  config = partitioned.load(CONFIGS[name], 1, 8)
  found = partitioned.compiled(partitioned.sampling(config))
  assert found.collectives == ()
