import pathlib

import jax
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems


CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
VARIANTS = {
  'frido_coco': ('text', 'text_clip', 'layout', 'label', 'scene_graph'),
  'frido_shapes': (
    'layout',
    'text',
    'label',
    'scene_graph',
    'long',
    'official',
    'gpu',
  ),
  'msvqgan_coco': ('f16f8', 'f8f4'),
  'msvqgan_openimages': ('f16f8', 'f8f4'),
  'msvqgan_shapes': ('gpu', 'long'),
}


@pytest.mark.parametrize('name', sorted(VARIANTS))
def test_every_variant_builds_a_system_that_is_valid(name):
  assert set(VARIANTS) == {p.stem for p in CONFIGS.glob('*.py')}
  for variant in VARIANTS[name]:
    for debug in ('', ',debug'):
      config = config_lib.load(f'{CONFIGS}/{name}.py:{variant}{debug}')
      config_lib.validate(config)
      systems.create(config)
      if debug:
        assert config.train.steps == 6
  with pytest.raises(ValueError, match='layuot'):
    config_lib.load(f'{CONFIGS}/{name}.py:layuot')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('variant', 'unet', 'condition', 'first_stage'),
  [
    ('text', 511_678_088, 186_154_682, 67_994_775),
    ('layout', 511_669_446, 186_166_842, 63_946_989),
  ],
)
def test_coco_configs_have_the_published_sizes(
  variant, unet, condition, first_stage
):
  config = config_lib.load(f'{CONFIGS}/frido_coco.py:{variant}')
  system = systems.create(config)
  params, _ = jax.eval_shape(system.init, jax.random.key(0), {})
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(params['generator']['unet']) == unet
  assert count(params['generator']['condition']) == condition
  part = system.frozen_parts()['first_stage']
  assert count(jax.eval_shape(part.init, jax.random.key(0))) == first_stage


@pytest.mark.parametrize('variant', ['layout', 'text', 'label', 'scene_graph'])
def test_small_networks_stay_below_three_million(variant):
  config = config_lib.load(f'{CONFIGS}/frido_shapes.py:{variant}')
  system = systems.create(config)
  params, _ = jax.eval_shape(system.init, jax.random.key(0), {})
  part = system.frozen_parts()['first_stage']
  trees = {
    **params['generator'],
    'first_stage': jax.eval_shape(part.init, jax.random.key(0)),
  }
  for name, tree in trees.items():
    count = sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count <= 3_000_000, name
