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
from pyramid_jax.planning import program
from tests.helpers import partitioned


# The systems that images are sampled from.
CONFIGS = {
  'adm': 'adm_shapes.py:class,debug',
  'ldm': 'ldm_shapes.py:class,debug',
  'ldm, captions': 'ldm_shapes.py:text,debug',
  'ldm, layouts': 'ldm_shapes.py:layout,debug',
  'frido': 'frido_shapes.py:layout,debug',
  'flow': 'flow_shapes.py:class,debug',
  'diffit': 'diffit_shapes.py:class,debug',
  'song_unet': 'edm_shapes.py:class,tmsa,debug',
  'latent diffit': 'diffit_latent_shapes.py:class,debug',
  'ladm': 'ladm_shapes.py:text,debug',
  'ladm, latents': 'ladm_latent_shapes.py:class,debug',
  'ladm, larger': 'ladm_shapes.py:superres4,debug',
  'ladm control': 'ladm_shapes.py:text,control,debug',
  'dit': 'dit_imagenet.py:xl2_256,debug',
}
TRAINED = {
  **CONFIGS,
  'classifier': 'classifier_shapes.py:images,debug',
  'kl': 'ldm_autoencoder_shapes.py:kl,debug',
  'vq': 'ldm_autoencoder_shapes.py:vq,debug',
  'msvqgan': 'msvqgan_shapes.py:debug',
  'sketch': 'sketch_shapes.py:ldm,debug',
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


@pytest.fixture(scope='module')
def training(tmp_path_factory):
  """Returns a function from a system and a mesh to a training step.

  It gives the config, the step, and its program; the last ones are kept.
  """

  @functools.lru_cache(maxsize=1)
  def one(name, mesh):
    folder = tmp_path_factory.mktemp('base')
    config = partitioned.load(TRAINED[name], *MESHES[mesh], folder)
    draft = partitioned.training(config)
    return config, draft, partitioned.compiled(draft)

  return one


@pytest.mark.parametrize(('name', 'mesh'), CASES)
def test_a_training_step_exchanges_no_activations(training, name, mesh):
  _, draft, found = training(name, mesh)
  assert {c.kind for c in found.collectives} & {'all-reduce', 'reduce-scatter'}
  of_rows = filter(partitioned.has_rows, found.collectives)
  assert [c for c in of_rows if not partitioned.is_looked_up(c)] == []
  assert partitioned.gathered_wholly(found, draft) == []


@pytest.mark.parametrize(('name', 'mesh'), CASES)
def test_a_training_step_exchanges_what_the_sharding_needs(
  training, name, mesh
):
  config, draft, found = training(name, mesh)
  least, moved = partitioned.needed(config, draft), partitioned.moved(found)
  # A network that serves several stages is gathered and summed for each.
  uses = config.laplacian.levels if 'laplacian' in config else 1
  # What is gathered for the forward pass may serve the backward pass.
  gathers = moved.get('all-gather', 0), least.get('all-gather', 0)
  assert gathers[0] <= 1.1 * uses * gathers[1], (moved, least)
  # Sums, of which every device has the whole or its part.
  sums = lambda of: 2 * of.get('all-reduce', 0) + of.get('reduce-scatter', 0)
  assert sums(moved) <= 1.1 * uses * sums(least), (moved, least)
  if 'diffit' in name:  # elsewhere large tables get the gradients of their rows
    assert sums(moved) >= 0.9 * sums(least), (moved, least)


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
