"""Every field of every system refuses what it cannot mean."""

import math

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.config import sections
from tests.helpers import configs


NUMBERS = (
  *(math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, 2.0**64),
  *(2**63, 2**64, 10**20, 10**400, -(10**20), -2, -0.5),
)
OTHERS = ('', 'word', None, [1], {'a': 1}, True, ((),), ('',), (None,), b'')
# Numbers that mean something in these fields.
SIGNED = ('time_mean', 'P_mean', 'logvar_init', 'min_similarity')


def declared():
  """Yields (field name, Field) of all systems, each once."""
  seen = set()
  for system in systems.SYSTEMS:
    for name, field in sections.of(system).fields.items():
      if (name, field) not in seen:
        seen.add((name, field))
        yield name, field


def is_number(field):
  return field.item_kind in (int, float) and not field.choices


def test_every_number_has_finite_bounds():
  names = []
  for name, field in declared():
    if is_number(field):
      low, high = field.bounds
      assert -1e9 <= low < high, name
      assert high < 2**63 or name == 'train.learning_rate', name
      assert math.isfinite(high), name
      assert field.range, name
      names.append(name)
  assert len(set(names)) > 100


def test_no_number_is_absurd():
  for name, field in declared():
    for value in NUMBERS if is_number(field) else ():
      for given in (value, (value,), (1, value)):
        is_signed = name.endswith(SIGNED) and given in (-2, -0.5)
        is_rate = name == 'train.learning_rate' and given in (
          *(2.0**64, 2**63, 2**64, 10**20),
        )
        assert is_signed or is_rate or field.problem(given), (name, given)


def test_no_field_takes_another_type():
  for name, field in declared():
    texts = field.item_kind is str and not field.choices
    for value in OTHERS:
      is_text = isinstance(value, str) and texts and field.kind is str
      is_texts = value == ('',) and texts and field.kind is tuple
      is_switch = value is True and field.item_kind is bool
      is_choice = value in field.choices
      ok = is_text or is_texts or is_switch or is_choice
      assert bool(field.problem(value)) != ok, (name, value)


def test_what_an_array_could_not_hold_is_refused_by_name():
  config = config_lib.base('frido')
  config_lib.add_first_stage(config, config_lib.base('autoencoder'))
  for name, text, allowed in (
    ('train.steps', '1' + 20 * '0', r'in \[1, 2147483647\]'),
    ('train.batch_size', str(2**34), r'in \[1, 1048576\]'),
    ('data.image_size', '1000000', r'in \[1, 32768\]'),
    ('train.seed', str(2**63), rf'in \[0, {2**63 - 1}\]'),
    ('data.seed', str(2**32), rf'in \[0, {2**32 - 1}\]'),
    ('sample.guidance_interval', 'nan,nan', 'a finite number'),
    ('first_stage.loss.kl_weight', '1e7', r'in \[0, 1e\+06\]'),
    ('condition.lr_noise_low', '1e-40', r'in \(0, 1e\+06\]'),
  ):
    changed = config_lib.from_json(config_lib.to_json(config))
    with pytest.raises(
      errors.UserError, match=f'^config.{name} is .*, must be {allowed}'
    ) as info:
      config_lib.complete(changed, {name: text})
    assert info.value.code == errors.USAGE


@pytest.mark.parametrize(
  'value',
  [math.nan, (1, math.inf), ((1, (-math.inf,)),), 2**21, -(2**21), 1e10, 2**99],
)
def test_arguments_of_networks_are_finite(value):
  config = config_lib.base('frido')
  config_lib.add_first_stage(config, config_lib.base('autoencoder'))
  for prefix in ('', 'first_stage.'):
    changed = config_lib.from_json(config_lib.to_json(config)).unlock()
    section = changed if not prefix else changed.first_stage
    section.network = {'width': value}
    with pytest.raises(
      errors.UserError, match=f'^config.{prefix}network.width is .*, must be'
    ):
      config_lib.validate(changed)
    section.network = {'width': 8, 'options': {'deep': value}}
    with pytest.raises(errors.UserError, match=f'{prefix}network.options.deep'):
      config_lib.validate(changed)


def test_texts_can_be_written_to_json():
  """Bytes of a command line that are not UTF-8 become half characters."""
  text = b'caf\xe9'.decode('utf-8', 'surrogateescape')
  for name in ('data.root', 'name', 'network.kind', 'data.splits'):
    config = config_lib.base('ldm')
    config.network.kind = 'a'
    with pytest.raises(errors.UserError, match=f'{name} is .*, must be of who'):
      config_lib.complete(config, {name: text})


@pytest.mark.parametrize(
  ('file', 'name', 'low'),
  [
    ('frido_shapes.py:debug', 'network.model_channels', 1),
    ('frido_shapes.py:debug', 'network.num_res_blocks', 0),
    ('frido_shapes.py:debug', 'network.grid_frequencies', 0),
    ('frido_shapes.py:debug', 'network.channel_mult', 1),
    ('frido_shapes.py:debug', 'first_stage.network.ddconfig.ch', 1),
    ('frido_shapes.py:debug', 'first_stage.network.shared_num_res_blocks', 0),
    ('diffit_shapes.py:debug', 'network.head_dim', 1),
  ],
)
def test_arguments_of_networks_have_a_least_number(file, name, low):
  config = configs.load(file)
  config_lib.complete(config, {name: str(low)})
  with pytest.raises(
    errors.UserError, match=rf'{name} is .*, must be in \[{low}, 1048576\]'
  ):
    config_lib.complete(config, {name: str(low - 1)})
