import pathlib

import jax
import jax.numpy as jnp
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.interop import mapping
from pyramid_jax.interop.families import msvqgan as family
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import autoencoder
from tests.helpers import config_systems


CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
VARIANTS = {
  'adm_classifier': ('64', '128', '256', '512'),
  'adm_imagenet': ('64', '128', '256', '512', '256,none'),
  'adm_shapes': ('class', 'none'),
  'classifier_shapes': ('latents', 'images'),
  'diffit_ablations': (
    '',
    't3_tokens512,ffhq64',
    't4_encoder',
    't5_ddpmpp',
    't5_ncsnpp',
    't6_bias',
    't6_mlp',
    't7_separate,ffhq64',
    't8_fourier',
    'window2',
  ),
  'diffit_cifar10': ('none,vp', 'class,vp', 'none,ve', 'class,ve'),
  'diffit_ffhq64': ('vp', 've'),
  'diffit_mnist': ('class', 'none'),
  'diffit_shapes': ('class', 'none', 'plain', 'long', 'gpu', 'none,gpu'),
  'diffit_imagenet': ('256', '512', '256,paper', '256,float32'),
  'diffit_latent_shapes': ('class', 'none', 'plain', 'long', 'gpu'),
  'dit_imagenet': ('xl2_256', 'xl2_512'),
  'edm_cifar10': ('none,vp', 'class,ve', 've,song', 'vp,tmsa'),
  'edm_ffhq64': ('ffhq,vp', 'afhqv2,ve'),
  'edm_shapes': ('class,vp', 'none,ve', 'tmsa'),
  'flow_shapes': ('class', 'none', 'pixels', 'pixels,none'),
  'frido_coco': (
    'text',
    'text_clip',
    'layout',
    'label',
    'label_sg2im',
    'scene_graph',
    'text_mini',
    'layout_mini',
  ),
  'frido_openimages': ('',),
  'frido_shapes': (
    'layout',
    'text',
    'label',
    'scene_graph',
    'long',
    'official',
    'gpu',
  ),
  'frido_unconditional': (
    'celebahq',
    'ffhq',
    'lsun_bedrooms',
    'lsun_churches',
  ),
  'frido_visual_genome': ('layout', 'scene_graph'),
  'hdr': ('',),
  'ladm_controlnet': ('edges', 'depth', 'inpaint'),
  'ladm_latent_imagenet': ('256', '512'),
  'ladm_latent_shapes': (
    'class',
    'text',
    'layout',
    'one',
    'known',
    'long',
    'gpu',
    'text,gpu',
  ),
  'ladm_shapes': (
    'layout',
    'text',
    'class',
    'none',
    'superres',
    'superres2',
    'superres4',
    'layout,two',
    'text,one',
    'layout,separate',
    'text,control',
    'long',
    'gpu',
  ),
  'ladm_text': ('256', '1k', '256,custom', '1k,custom'),
  'ladm_upsampler': ('control', 'tuned', 'control,shapes', 'tuned,shapes'),
  'ldm_autoencoder': (
    'kl_f4',
    'kl_f8',
    'kl_f16',
    'kl_f32',
    'vq_f4',
    'vq_f4_noattn',
    'vq_f8',
    'vq_f8_n256',
    'vq_f16',
    'kl_f2',
    'kl_f16_c8',
    'kl_f32_c16',
    'vq_f2',
    'vq_f2_n64',
    'vq_f4_n256',
    'vq_f32',
    'vq_f32_c32',
    'vqgan_f16_n1024',
    'vqgan_f16_n16384',
    'kl_f4,imagenet',
  ),
  'ldm_autoencoder_shapes': ('kl', 'vq', 'gpu', 'vq,gpu', 'kl,f2', 'vq,f8'),
  'ldm_compression': tuple(
    f'ldm{factor},{data}'
    for factor in (1, 2, 4, 8, 16, 32)
    for data in ('imagenet', 'celebahq')
  ),
  'ldm_compression_shapes': ('ldm1', 'ldm2', 'ldm4', 'ldm8'),
  'ldm_classifier': ('',),
  'ldm_imagenet': ('v1', 'v2', 'v2,scale1.25', 'v2,unguided'),
  'ldm_inpaint': ('big', 'big_512', 'vq', 'vq_attn', 'kl_attn', 'pixels'),
  'ldm_layout': ('openimages', 'openimages_512', 'coco', 'coco_tuned'),
  'ldm_retrieval': ('',),
  'ldm_semantic': ('px256', 'px512', 'px256,wide'),
  'ldm_shapes': (
    'layout',
    'class',
    'label',
    'text',
    'superres',
    'inpaint',
    'map',
    'none',
    'vq',
    'long',
    'gpu',
    'class,gpu',
    'inpaint,gpu',
  ),
  'ldm_superres': (
    'bsr',
    'bsr_full',
    'bicubic',
    'bicubic,big',
    'bicubic,pixels',
    'bicubic,guided',
  ),
  'ldm_text': ('small', '1p4b', '1p4b,unguided'),
  'ldm_unconditional': (
    'celebahq',
    'ffhq',
    'lsun_bedrooms',
    'lsun_churches',
  ),
  'msvqgan_coco': ('f16f8', 'f8f4'),
  'msvqgan_openimages': ('f16f8', 'f8f4'),
  'msvqgan_shapes': ('gpu', 'long'),
  'sketch_ldm': ('small', 'v1', 'v1,imagenet'),
  'stable_diffusion': ('v1', 'v2_base', 'v2'),
  'sketch_shapes': (
    'ldm',
    'ladm',
    'lapdit',
    'frido',
    'diffit',
    'ldm,pixels',
  ),
}


def marked(name):
  """Predictors of edges trace their bases, which takes seconds."""
  turn = pytest.mark.turns(2)
  return pytest.param(name, marks=turn if name.startswith('sketch_') else ())


@pytest.mark.parametrize('name', [*map(marked, sorted(VARIANTS))])
def test_every_variant_builds_a_system_that_is_valid(name, tmp_path):
  files = {p.stem for p in CONFIGS.glob('*.py')} - {'common'}
  assert set(VARIANTS) == files
  for variant in VARIANTS[name]:
    for debug in ('', ',debug'):
      file = f'{name}.py:{variant}{debug}'
      config = config_systems.load(file, tmp_path)
      config_lib.validate(config)
      workdir_lib.create_system(config)
      if debug:
        assert config.train.steps == 6
  with pytest.raises(ValueError, match='layuot'):
    config_lib.load(f'{CONFIGS}/{name}.py:layuot')


def test_configs_load_from_any_directory(tmp_path, monkeypatch):
  want = config_lib.load(f'{CONFIGS}/sketch_ldm.py:debug').to_dict()
  monkeypatch.chdir(tmp_path)
  got = config_lib.load(f'{CONFIGS.resolve()}/sketch_ldm.py:debug')
  assert got.to_dict() == want
  (tmp_path / 'linked').symlink_to(CONFIGS.resolve())
  got = config_lib.load('linked/sketch_ldm.py:debug')
  assert got.to_dict() == want


# Millions of parameters of the whole, the encoder and the decoder, and keys.
# The encoder and decoder of vq_f8_n256 are those of vq_f8.
AUTOENCODERS = {
  'vq_f4': (55.32, 22.34, 32.96, 205),
  'vq_f4_noattn': (53.22, 21.29, 31.91, 185),
  'vq_f8': (67.72, 27.40, 40.25, 299),
  'vq_f8_n256': (67.65, 27.40, 40.25, 299),
  'vq_f16': (69.59, 28.16, 41.31, 343),
  'kl_f4': (55.31, 22.35, 32.96, 204),
  'kl_f8': (83.65, 34.16, 49.49, 248),
  'kl_f16': (69.61, 28.27, 41.34, 342),
  'kl_f32': (103.88, 42.61, 61.24, 436),
}


@pytest.mark.parametrize('variant', ['kl', 'vq'])
def test_small_autoencoders_stay_below_three_million(variant):
  config = config_lib.load(f'{CONFIGS}/ldm_autoencoder_shapes.py:{variant}')
  params, _ = jax.eval_shape(systems.create(config).init, jax.random.key(0))
  leaves = jax.tree.leaves(params['generator'])
  assert 400_000 < sum(leaf.size for leaf in leaves) <= 3_000_000


@pytest.mark.parametrize('variant', AUTOENCODERS)
def test_ldm_autoencoders_have_the_published_sizes(variant):
  config = config_lib.load(f'{CONFIGS}/ldm_autoencoder.py:{variant}')
  model = autoencoder.network(config)
  tree = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )['params']
  millions = lambda tree: round(
    sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6, 2
  )
  assert AUTOENCODERS[variant] == (
    millions(tree),
    millions(tree['encoder']),
    millions(tree['decoder']),
    len(mapping.to_flax({}, tree, family.rename)[1].missing),
  )


# In millions; class and augmentation add a linear map each, Fourier features
# are 256.
DIFFIT = (
  ('diffit_cifar10.py', 43.68),
  ('diffit_cifar10.py:class,ve', 43.75),
  ('diffit_ffhq64.py', 49.66),
)


@pytest.mark.parametrize(('file', 'millions'), DIFFIT)
def test_diffit_configs_have_the_recommended_sizes(file, millions):
  config = config_lib.load(f'{CONFIGS}/{file}')
  system = systems.create(config)
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  leaves = jax.tree.leaves(params['generator'])
  assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == millions
  images = config.train.steps * config.train.batch_size
  assert images == pytest.approx(200e6, rel=1e-4)


# The official classes count these numbers (NVlabs/edm: training/networks.py).
EDM = (
  ('edm_cifar10.py:vp', 55_733_891),
  ('edm_cifar10.py:class,ve', 56_400_643),
  ('edm_ffhq64.py:vp', 61_805_571),
  ('edm_ffhq64.py:ve', 62_761_091),
)


@pytest.mark.parametrize(('file', 'count'), EDM)
def test_edm_configs_have_the_official_sizes(file, count):
  config = config_lib.load(f'{CONFIGS}/{file}')
  system = systems.create(config)
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  leaves = jax.tree.leaves(params['generator'])
  assert sum(leaf.size for leaf in leaves) == count
  images = config.train.steps * config.train.batch_size
  assert images == pytest.approx(200e6, rel=1e-4)


def test_ablations_differ_from_the_full_model_in_their_row_alone():
  load = lambda row: config_lib.load(f'{CONFIGS}/diffit_ablations.py:{row}')
  for data in ('cifar10', 'ffhq64'):
    full = config_lib.load(f'{CONFIGS}/diffit_{data}.py').to_dict()
    network = full.pop('network')
    names = ('t3_tokens512', 't4_encoder', 't7_separate', 'window2')
    for name in names:
      row = load(f'{name},{data}').to_dict()
      changed = row.pop('network')
      assert {**full, 'name': ''} == {**row, 'name': ''}
      assert 1 <= sum(v != network.get(k) for k, v in changed.items()) <= 1
  with pytest.raises(ValueError, match='t5_ddpmpp is a row of cifar10, not'):
    load('t5_ddpmpp,ffhq64')


# Latent DiffiT's of that size, with the biases of the 8 x 8 grid, patches and a
# vector of another stage: 561,035,232 + 100,800 + 19,584 + 2,304; at 512 px,
# 562,382,816 and two stages more, each with half of its last layer.
LADM_LATENT = (('256', 561_157_920), ('512', 562_975_216))


@pytest.mark.parametrize(('size', 'count'), LADM_LATENT)
def test_laplacian_latent_diffit_has_the_published_blocks(size, count):
  config = config_lib.load(f'{CONFIGS}/ladm_latent_imagenet.py:{size}')
  system = systems.create(config)
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  leaves = jax.tree.leaves(params['generator'])
  assert sum(leaf.size for leaf in leaves) == count


@pytest.mark.turns(3, group='published sizes')
@pytest.mark.parametrize(
  'variant',
  [
    'adm_shapes.py:class',
    'classifier_shapes.py:images',
    *(f'diffit_shapes.py:{v}' for v in ('class', 'plain')),
    *(f'edm_shapes.py:{v}' for v in ('vp', 've', 'tmsa')),
    *(f'diffit_latent_shapes.py:{v}' for v in ('class', 'none', 'plain')),
    *(
      f'ladm_latent_shapes.py:{v}'
      for v in ('class', 'text', 'layout', 'one', 'known')
    ),
    *(f'frido_shapes.py:{v}' for v in VARIANTS['frido_shapes'][:4]),
    *(f'ladm_shapes.py:{v}' for v in VARIANTS['ladm_shapes'][:8]),
    *(f'ldm_shapes.py:{v}' for v in VARIANTS['ldm_shapes'][:9]),
    *(f'ldm_compression_shapes.py:ldm{n}' for n in (1, 2, 4, 8)),
  ],
)
def test_small_networks_stay_below_three_million(variant):
  config = config_lib.load(f'{CONFIGS}/{variant}')
  system = systems.create(config)
  params, _ = jax.eval_shape(system.init, jax.random.key(0))
  trees = dict(params['generator'])
  for name, part in system.pretrained_parts().items():
    trees[name] = jax.eval_shape(part.init, jax.random.key(0))
  for name, tree in trees.items():
    count = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count <= 3_000_000, name


def test_small_models_of_all_factors_are_of_one_size():
  counts, shapes = [], []
  for factor in (1, 2, 4, 8):
    name = f'ldm_compression_shapes.py:ldm{factor}'
    config = config_lib.load(f'{CONFIGS}/{name}')
    system = systems.create(config)
    assert system.space.factor == factor
    params, _ = jax.eval_shape(system.init, jax.random.key(0))
    counts.append(sum(x.size for x in jax.tree.leaves(params['generator'])))
    shapes.append(system.space.channels)
  assert max(counts) < 1.1 * min(counts)
  assert shapes == [3, 2, 4, 8]
