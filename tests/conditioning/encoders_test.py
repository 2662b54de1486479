import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyramid_jax
from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import boxes
from pyramid_jax.conditioning import camera
from pyramid_jax.conditioning import classes as classes_lib
from pyramid_jax.conditioning import combined as combined_lib
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoder as encoder_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.conditioning import inpainting
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.conditioning import semantic_map
from pyramid_jax.conditioning import tokens as tokens_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.distributed import initial
from pyramid_jax.interop import parts
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import t5


TABLE = {'embedding': {'embedding': jnp.arange(8.0).reshape(4, 2)}}


class FirstStage:
  """Takes every fourth pixel for a latent."""

  factor = 4
  latent_channels = (3,)

  def apply(self, variables, image, method):
    assert method == 'encode'
    return [variables['params'] * image[:, ::4, ::4]]


def test_classes_count_from_one_and_none_is_the_last_row():
  encoder = classes_lib.ClassEncoder(classes=3, has_null=True, dim=2)
  batch = {'class': jnp.array([1, 3, 0])}
  got = encoder.encode(TABLE, batch).context
  np.testing.assert_array_equal(got, [[[0, 1]], [[4, 5]], [[6, 7]]])
  null = encoder.null(TABLE, batch).context
  np.testing.assert_array_equal(null, [[[6, 7]]] * 3)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  assert shapes['embedding']['embedding'].shape == (4, 2)


def test_classes_as_ids_have_no_weights():
  encoder = classes_lib.ClassEncoder(classes=3, has_null=True, dim=0)
  batch = {'class': jnp.array([1, 3])}
  assert encoder.init(jax.random.key(0)) == {}
  np.testing.assert_array_equal(encoder.encode({}, batch).y, [0, 2])
  np.testing.assert_array_equal(encoder.null({}, batch).y, [3, 3])


def test_without_a_row_for_none_there_is_no_null():
  encoder = classes_lib.ClassEncoder(classes=4, has_null=False, dim=2)
  batch = {'class': jnp.array([4])}
  assert encoder.rows == 4
  assert encoder.null(TABLE, batch) is None
  np.testing.assert_array_equal(
    encoder.encode(TABLE, batch).context, [[[6, 7]]]
  )
  assert conditioning.condition(encoder, TABLE, batch).null is None


def test_t5_gives_zeros_for_padding_and_does_not_read_it():
  network = t5.T5Encoder(
    vocab_size=9, dim=8, depth=1, heads=2, head_dim=4, mlp_dim=8
  )
  encoder = tokens_lib.T5Encoder(
    network=network, task='text', max_length=5, null_prefix=(1,), pad_id=0
  )
  assert encoder.widths == encoder_lib.Widths(context=8)
  params = initial.evaluate(encoder.init, jax.random.key(0))
  encode = jax.jit(
    lambda ids: encoder.encode(params, {'condition_ids': ids}).context
  )
  ids = jnp.array([[5, 3, 1, 0, 0], [1, 0, 0, 0, 0]])
  got = encode(ids)
  np.testing.assert_array_equal(got[0, 3:], 0)
  np.testing.assert_allclose(got[:1, :3], encode(ids[:1, :3]), atol=1e-6)
  assert np.abs(got[0, :3]).min() > 0
  null = jax.jit(lambda: encoder.null(params, {'condition_ids': ids}).context)()
  np.testing.assert_allclose(null, [got[1], got[1]], atol=1e-6)


def test_hole_is_black_before_encoding_and_one_in_the_mask():
  encoder = inpainting.InpaintingEncoder(first_stage=FirstStage(), image_size=8)
  mask = np.zeros((1, 8, 8), np.uint8)
  mask[0, :4, :4] = 1
  batch = {'image': jnp.full((1, 8, 8, 3), 0.5), 'inpaint_mask': mask}
  got = encoder.encode(2.0, batch).concat
  assert got.shape == (1, 2, 2, 4)
  np.testing.assert_array_equal(got[0, 0, 0], [-2, -2, -2, 1])
  np.testing.assert_array_equal(got[0, 1, 0], [1, 1, 1, -1])
  np.testing.assert_array_equal(encoder.null(2.0, batch).concat, 0)
  with pytest.raises(ValueError, match=r'\(1, 8, 8\) as the image has it'):
    encoder.encode(2.0, batch | {'inpaint_mask': mask[:, :4]})


def test_models_of_images_get_images_with_black_holes():
  encoder = inpainting.HoleEncoder(image_size=2)
  batch = {
    'image': jnp.full((1, 2, 2, 3), 0.5),
    'inpaint_mask': jnp.array([[[1, 0], [0, 0]]], jnp.uint8),
  }
  got = encoder.encode({}, batch).concat
  np.testing.assert_array_equal(got[0, 0, 0], [-1, -1, -1, 1])
  np.testing.assert_array_equal(got[0, 1, 1], [0.5, 0.5, 0.5, -1])
  with pytest.raises(ValueError, match=r'\(1, 2, 2\) as the image has it'):
    encoder.encode({}, batch | {'inpaint_mask': jnp.zeros((1, 1, 2))})


def test_models_of_images_get_enlarged_images():
  encoder = low_resolution.EnlargedEncoder(side=4, factor=2)
  ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None], (4, 4))
  batch = {'lr_image': jnp.stack([ramp] * 3, -1)[None]}
  got = encoder.encode({}, batch).concat
  assert got.shape == (1, 8, 8, 3)
  np.testing.assert_allclose(got[0, 3:5, 4, 0], [1.25, 1.75], atol=1e-6)


def test_maps_are_one_hot_halved_and_mixed():
  encoder = semantic_map.MapEncoder(
    network=conditioners.SpatialRescaler(n_stages=1, out_channels=1),
    classes=3,
    image_size=2,
  )
  params = {'channel_mapper': {'kernel': jnp.array([[1.0], [10.0], [100.0]])}}
  mask = jnp.array([[[0, 1], [2, 2]]], jnp.uint8)
  got = encoder.encode(params, {'mask': mask}).concat
  np.testing.assert_allclose(got, [[[[(1 + 10 + 200) / 4]]]], rtol=1e-6)


def test_small_images_stay_what_they_are():
  encoder = low_resolution.LowResolutionEncoder(side=8)
  image = jnp.linspace(-1, 1, 12).reshape(1, 2, 2, 3)
  batch = {'lr_image': image}
  np.testing.assert_array_equal(encoder.encode({}, batch).concat, image)
  np.testing.assert_array_equal(encoder.null({}, batch).concat, 0)


def test_weights_of_two_encoders_come_from_where_they_are():
  hole = inpainting.InpaintingEncoder(first_stage=FirstStage(), image_size=8)
  classes = classes_lib.ClassEncoder(classes=3, has_null=True, dim=2)
  both = combined_lib.CombinedEncoder(first=hole, second=classes)
  trained = both.trained_part({'first': 1.0, 'second': TABLE})
  assert trained == {'second': TABLE}
  found = both.weights({'condition': trained}, {'first_stage': 2.0})
  assert found == {'first': 2.0, 'second': TABLE}
  batch = {
    'image': jnp.zeros((1, 8, 8, 3)),
    'inpaint_mask': jnp.zeros((1, 8, 8), jnp.uint8),
    'class': jnp.array([2]),
  }
  inputs = both.encode(found, batch)
  assert inputs.concat.shape == (1, 2, 2, 4)
  assert both.widths == encoder_lib.Widths(context=2, concat=4)
  np.testing.assert_array_equal(inputs.context, [[[2, 3]]])


def test_no_condition_is_an_encoder_that_gives_nothing():
  encoder = conditioning.create(config_lib.base('ldm'))
  assert encoder == encoder_lib.NoCondition()
  assert encoder.widths == encoder_lib.Widths()
  assert conditioning.pretrained_parts(encoder) == {}
  tree, blank = conditioning.init(encoder, jax.random.key(0))
  assert (tree, blank) == ({}, condition_lib.Inputs())
  assert encoder.weights({'unet': 1.0}, {'first_stage': 2.0}) == {}
  given = conditioning.training_context(
    encoder, {}, {}, 0.5, jax.random.key(0), {'image': jnp.ones((2, 4, 4, 3))}
  )
  assert given == condition_lib.Inputs()
  condition = conditioning.condition(encoder, {}, {})
  assert (condition.context, condition.null) == (given, None)
  assert not encoder.is_guidable


SIZES = {
  'dim': 8,
  'depth': 1,
  'heads': 2,
  'head_dim': 4,
  'vocab_size': 9,
  'max_length': 4,
  'num_labels': 5,
  'num_classes': 3,
  'map_classes': 3,
}


def create(**fields):
  config = config_lib.base('ldm')
  config.data.image_size, config.data.lr_factor = 8, 4
  for name, value in (SIZES | fields).items():
    config.condition[name] = value
  return conditioning.create(config, FirstStage())


@pytest.mark.parametrize(
  ('fields', 'kind', 'family'),
  [
    ({'task': 'text'}, tokens_lib.TokenEncoder, 'bert'),
    ({'task': 'label'}, tokens_lib.TokenEncoder, 'bert'),
    ({'task': 'text', 'encoder': 'clip'}, tokens_lib.ClipEncoder, ''),
    ({'task': 'text', 'encoder': 't5'}, tokens_lib.T5Encoder, ''),
    ({'task': 'layout', 'encoder': 'boxes'}, boxes.BoxesEncoder, ''),
    ({'task': 'class'}, classes_lib.ClassEncoder, 'class_embedder'),
    ({'task': 'class', 'class_by': 'timestep'}, classes_lib.ClassEncoder, ''),
    ({'task': 'map'}, semantic_map.MapEncoder, 'spatial_rescaler'),
    ({'task': 'superres'}, low_resolution.LowResolutionEncoder, ''),
    ({'task': 'inpaint'}, inpainting.InpaintingEncoder, ''),
    ({'task': 'text', 'also': 'camera'}, combined_lib.CombinedEncoder, ''),
  ],
)
def test_the_task_or_the_encoder_says_who_serves(fields, kind, family):
  encoder = create(**fields)
  assert type(encoder) is kind
  assert encoder.is_guidable
  assert encoder.family == family
  assert not family or family in parts.FAMILIES


def test_an_unknown_encoder_is_named():
  with pytest.raises(ValueError, match="'bertram', must be one of tokens"):
    create(task='text', encoder='bertram')


def test_conditions_that_are_images_need_a_first_stage():
  for system, task in (('ldm', 'map'), ('ladm', 'inpaint')):
    config = config_lib.base(system)
    config.condition.task = task
    with pytest.raises(ValueError, match=f'{task!r} is not served by'):
      conditioning.create(config)


@pytest.mark.parametrize(
  ('name', 'family'), [('clip', 'clip_text'), ('t5', 't5')]
)
def test_pretrained_encoders_say_what_is_loaded(name, family):
  encoder = create(task='text', encoder=name, weights='some/file')
  both = create(task='text', encoder=name, weights='some/file', also='camera')
  for one in (encoder, both):
    (part,) = conditioning.pretrained_parts(one).values()
    assert (part.family, part.path) == (family, 'some/file')
    assert part.field == 'condition.weights'
    assert part.family in parts.FAMILIES
  key = jax.random.key(0)
  shapes = jax.eval_shape(part.init, key)
  assert shapes == jax.eval_shape(encoder.init, key)
  assert encoder.trained_part({'any': 1.0}) == {}
  frozen = {'condition': 2.0, 'first_stage': 3.0}
  assert encoder.weights({'unet': 1.0}, frozen) == 2.0
  trained = both.trained_part({'first': 1.0, 'second': 4.0})
  assert trained == {'second': 4.0}
  got = both.weights({'condition': trained}, frozen)
  assert got == {'first': 2.0, 'second': 4.0}


def test_trained_encoders_load_nothing():
  for fields in ({'task': 'text'}, {'task': 'class'}, {'task': 'map'}):
    encoder = create(**fields)
    assert conditioning.pretrained_parts(encoder) == {}
    assert encoder.pretrained_name == ''
    assert encoder.trained_part({'any': 1.0}) == {'any': 1.0}
    assert encoder.weights({'condition': 1.0}, {'condition': 2.0}) == 1.0


def test_inpainting_uses_the_weights_of_the_first_stage():
  encoder = create(task='inpaint')
  assert encoder.pretrained_name == 'first_stage'
  assert conditioning.pretrained_parts(encoder) == {}
  assert encoder.trained_part({'any': 1.0}) == {}
  frozen = {'condition': 2.0, 'first_stage': 3.0}
  assert encoder.weights({'condition': 1.0}, frozen) == 3.0
  assert create(task='inpaint', also='class').pretrained_name == 'first_stage'


def test_what_no_published_checkpoint_has():
  assert create(task='layout', encoder='boxes').unpublished.endswith("'boxes'")
  assert create(task='text', encoder='t5').unpublished.endswith("'t5'")
  both = create(task='text', also='camera')
  assert both.unpublished == 'config.condition.also is set'
  for name in ('tokens', 'clip'):
    assert create(task='text', encoder=name).unpublished == ''


IDS = {'condition_ids': jnp.array([[1, 5, 3], [4, 2, 0]])}


@pytest.mark.parametrize(
  ('task', 'ids'),
  [('text', [7, 8, 6]), ('scene_graph', [7, 8, 6]), ('label', [7, 8, 6])],
)
def test_the_null_of_tokens_is_the_encoded_empty_text(task, ids):
  encoder = create(task=task, null_prefix=(7, 8), pad_id=6)
  params = initial.evaluate(encoder.init, jax.random.key(0))
  null = jax.jit(encoder.null)(params, IDS).context
  want = jax.jit(encoder.encode)(params, {'condition_ids': jnp.array([ids])})
  np.testing.assert_allclose(null, jnp.tile(want.context, (2, 1, 1)), atol=1e-6)


def test_the_null_of_a_layout_is_zeros_or_no_object():
  encoder = create(task='layout')
  null = encoder.null({}, IDS).context
  np.testing.assert_array_equal(null, jnp.zeros((2, 3, 8)))
  encoder = create(task='layout', encoder='boxes')
  params = initial.evaluate(encoder.init, jax.random.key(0))
  batch = {
    'boxes': jnp.array([[[0.1, 0.2, 0.5, 0.6]]] * 2),
    'labels': jnp.array([[3], [4]]),
    'n_boxes': jnp.array([1, 0]),
  }
  null = jax.jit(encoder.null)(params, batch).context
  given = jax.jit(encoder.encode)(params, batch).context
  np.testing.assert_allclose(null.values[1], given.values[1], atol=1e-6)
  np.testing.assert_allclose(null.values[0], given.values[1], atol=1e-6)
  np.testing.assert_array_equal(null.places, [[[0, 0, 1, 1]] * 2] * 2)


def test_guidance_needs_a_null_condition():
  guidance = classifier_free.Guidance(scale=2.0)
  encoder = create(task='class', null_class=False)
  with pytest.raises(ValueError, match='config.sample.guidance must be 1'):
    conditioning.check_guidance(encoder, guidance)
  conditioning.check_guidance(encoder, None)
  conditioning.check_guidance(create(task='class'), guidance)
  conditioning.check_guidance(create(task='none'), guidance)


CLASS = {'class': jnp.arange(1, 4).repeat(40)}


@pytest.mark.parametrize('share', [0.0, 0.25, 1.0])
def test_dropped_conditions_are_the_null_of_their_encoder(share):
  encoder = create(task='class', class_by='timestep')
  got = conditioning.training_context(
    encoder, {}, {}, share, jax.random.key(0), CLASS
  )
  gone = np.asarray(got.y) == 3
  np.testing.assert_allclose(gone.mean(), share, atol=0.1)
  np.testing.assert_array_equal(got.y[~gone], CLASS['class'][~gone] - 1)


def test_each_of_two_conditions_is_perturbed_with_a_key_of_its_own():
  both = combined_lib.CombinedEncoder(
    first=low_resolution.NoisyImageEncoder(side=4, factor=2, levels=2),
    second=camera.CameraEncoder(dim=2, cond_dropout=0.5),
  )
  batch = {
    'lr_image': jnp.zeros((64, 4, 4, 3)),
    'pitch': jnp.ones(64, jnp.int32),
    'depth_of_field': jnp.ones(64, jnp.int32),
  }
  key = jax.random.key(0)
  got = both.augmented(batch, key)
  keys = jax.random.split(key)
  noisy = both.first.augmented(batch, keys[0])
  np.testing.assert_array_equal(got['lr_noise'], noisy['lr_noise'])
  dropped = both.second.augmented(batch, keys[1])
  np.testing.assert_array_equal(got['pitch'], dropped['pitch'])
  assert 0 < np.mean(got['pitch']) < 1
  plain = create(task='class')
  assert plain.augmented(batch, key) is batch


def test_two_conditions_without_a_null_each_have_none():
  classes = classes_lib.ClassEncoder(classes=3, has_null=False, dim=0)
  small = low_resolution.LowResolutionEncoder(side=8)
  batch = {'class': jnp.array([1]), 'lr_image': jnp.zeros((1, 8, 8, 3))}
  params = {'first': {}, 'second': {}}
  for first, second in ((classes, small), (small, classes)):
    both = combined_lib.CombinedEncoder(first=first, second=second)
    assert both.null(params, batch) is None
    assert not both.is_guidable


def encoder_classes_asked_for(source):
  """Returns the names of the encoders that `isinstance` asks for."""
  calls = [
    node
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Call)
    and getattr(node.func, 'id', '') in ('isinstance', 'issubclass')
  ]
  names = [
    getattr(leaf, 'attr', getattr(leaf, 'id', ''))
    for call in calls
    for leaf in ast.walk(call.args[1])
  ]
  return [n for n in names if n.endswith(('Encoder', 'NoCondition'))]


def test_nobody_asks_which_encoder_it_is():
  asked = encoder_classes_asked_for('isinstance(x, tokens.T5Encoder | int)')
  assert asked == ['T5Encoder']
  root = pathlib.Path(pyramid_jax.__file__).parent
  found = {
    str(path.relative_to(root)): names
    for path in root.rglob('*.py')
    if (names := encoder_classes_asked_for(path.read_text()))
  }
  assert found == {}
