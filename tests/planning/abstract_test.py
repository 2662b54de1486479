import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import cache_latents
from pyramid_jax.data.pixels import images
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import abstract
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import autoencoder
from tests.config import configs_test
from tests.helpers import configs
from tests.helpers import tpu_lowering


# One for each network; the U-Nets of LaDM are lowered with `PUBLISHED`.
QUICK = (
  'diffit_cifar10.py:none,vp,debug',
  'diffit_imagenet.py:256,debug',
  'dit_imagenet.py:xl2_256,debug',
  'frido_coco.py:layout,debug',
  'ladm_latent_imagenet.py:256,debug',
  'ldm_autoencoder.py:kl_f8,debug',
  'ldm_text.py:small,debug',
  'msvqgan_coco.py:f8f4,debug',
  'sketch_ldm.py:small,debug',
)
PUBLISHED = [
  f'{name}.py:{variant}'
  for name, variants in configs_test.VARIANTS.items()
  for variant in variants
  if not name.endswith('_shapes')
]


def check_lowers(draft):
  assert 'mhlo.num_partitions = 8' in tpu_lowering.lower(draft).as_text()


@pytest.fixture
def for_tpus(monkeypatch):
  """Takes CPU devices for chips; jax forgets what it found of their meshes."""
  jax.clear_caches()
  tpu_lowering.take_for_tpus(monkeypatch)
  yield
  jax.clear_caches()


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', QUICK)
def test_the_training_step_of_every_network_lowers_for_tpus(
  name, tmp_path, for_tpus
):
  config = tpu_lowering.load(name, tmp_path)
  mesh = mesh_lib.create(ConfigDict({'data': 2, 'fsdp': 4, 'tensor': 1}))
  check_lowers(abstract.training(config, mesh))


def test_a_sampler_lowers_for_tpus(tmp_path, for_tpus):
  config = tpu_lowering.load('diffit_imagenet.py:256,debug', tmp_path)
  check_lowers(abstract.sampling(config, mesh_lib.create(config.mesh)))


@pytest.mark.pods
@pytest.mark.parametrize('name', PUBLISHED)
def test_every_published_program_lowers_for_tpus(name, tmp_path, for_tpus):
  config = tpu_lowering.load(name, tmp_path)
  mesh = mesh_lib.create(ConfigDict({'data': 2, 'fsdp': 4, 'tensor': 1}))
  check_lowers(abstract.training(config, mesh))
  if config.system.name != 'autoencoder':
    check_lowers(abstract.sampling(config, mesh))


def test_latents_are_those_that_a_cache_has():
  config = configs.load('diffit_imagenet.py:debug', **{'data.name': 'latents'})
  system = workdir_lib.create_system(config)
  got, finish = abstract.training_row(config, system)
  network = autoencoder.network(config.first_stage)
  mesh = mesh_lib.pure_data()
  encode = cache_latents.make_encode(network, images.finish, False, mesh)
  params = jax.eval_shape(
    system.pretrained_parts()['first_stage'].init, jax.random.key(0)
  )
  batch = {
    'image': np.zeros((1, 32, 32, 3), np.uint8),
    'class': np.zeros((1,), np.int32),
  }
  stored = jax.eval_shape(encode, params, batch)
  types = lambda rows: {k: (x.shape, x.dtype) for k, x in rows.items()}
  assert types(got) == types(stored)
  assert set(got) == {'latent_mean_0', 'latent_std_0', 'class'}
  assert finish(got) == got


@pytest.mark.parametrize(
  ('name', 'shapes'),
  [
    ('frido_coco.py:text,debug', {'condition_ids': (1, 77)}),
    ('frido_coco.py:layout,debug', {'condition_ids': (1, 96)}),
    ('ldm_semantic.py:px256,debug', {'mask': (1, 32, 32)}),
    ('ldm_superres.py:bsr,debug', {'lr_image': (1, 8, 8, 3)}),
    (
      'ladm_text.py:256,debug',
      {'condition_ids': (1, 128), 'pitch': (1,), 'depth_of_field': (1,)},
    ),
    ('ldm_autoencoder.py:kl_f8,debug', {}),
  ],
)
def test_a_row_has_what_the_system_reads_beside_the_image(name, shapes):
  system = workdir_lib.create_system(configs.load(name))
  found = abstract.condition_row(system)
  assert {k: x.shape for k, x in found.items()} == shapes
  assert all(x.dtype != np.float32 for x in found.values())


def test_a_batch_that_does_not_divide_is_refused():
  config = configs.load('diffit_imagenet.py:debug', **{'train.batch_size': 12})
  with pytest.raises(errors.UserError, match='12, .* by 8 = .*: 8 or 16'):
    abstract.training(config, mesh_lib.create(config.mesh))


def test_a_system_of_images_has_no_latents():
  config = configs.load('diffit_cifar10.py:debug', **{'data.name': 'latents'})
  system = workdir_lib.create_system(config)
  with pytest.raises(errors.UserError, match="'diffit' has no latents"):
    abstract.training_row(config, system)
