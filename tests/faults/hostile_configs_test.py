"""Whatever a config is told to be, it is a config or one line says why not."""

import functools
import json

from hypothesis import strategies as st
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.config import command_line
from tests.helpers import hostile


SECTIONS = ('format', 'train', 'data', 'network', 'first_stage', 'system')


@functools.cache
def text_of(system):
  """Returns the text of a config with a network and a first stage."""
  config = config_lib.base(system)
  config.network = {'width': 3, 'mults': (1, 2), 'name': 'a', 'on': False}
  if system != 'autoencoder':
    config_lib.add_first_stage(config, config_lib.base('autoencoder'))
  return config_lib.to_json(config)


def names_of(system):
  return sorted(config_lib.flatten(config_lib.from_json(text_of(system))))


def overrides():
  """A system, and texts for some of its fields or for no field."""
  pieces = st.sampled_from(
    ['1', '0.5', '-1', 'nan', 'inf', '1e400', 'none', 'true', '~', 'e1', '*']
    + list('()[]{}\'",.= :/\\')
    + ['()', '(,)', '[1,2]', "('a','b')", ', ']
  )
  texts = st.lists(pieces, max_size=6).map(''.join) | hostile.texts()
  values = st.none() | texts | hostile.numbers().map(errors.shown)
  return st.sampled_from(sorted(systems.SYSTEMS)).flatmap(
    lambda system: st.tuples(
      st.just(system),
      st.dictionaries(
        st.sampled_from(names_of(system)) | hostile.texts(),
        values,
        min_size=1,
        max_size=3,
      ),
    )
  )


def said(call):
  """Returns what a call returns, None where it refuses with one line."""
  try:
    return call()
  except errors.UserError as error:
    line = error
  assert str(line).isprintable()
  assert 0 < len(str(line)) < 2100
  assert line.code == errors.USAGE
  return None


def check_round_trip(config):
  """A config that is allowed is what its text says, and resumes."""
  text = config_lib.to_json(config)
  again = config_lib.from_json(text)
  before, after = config_lib.flatten(config), config_lib.flatten(again)
  assert before == after
  assert {k: type(v) for k, v in before.items()} == {
    k: type(v) for k, v in after.items()
  }
  assert config_lib.to_json(again) == text
  assert config_lib.resume_differences(config, again) == []
  config_lib.validate(again)


def check_overrides(system, texts):
  config = config_lib.from_json(text_of(system))
  if said(lambda: command_line.complete(config, texts)) is None:
    return
  check_round_trip(config)
  before = config_lib.to_json(config)
  command_line.complete(config, texts)
  assert config_lib.to_json(config) == before


@hostile.examples(40, given=overrides())
def test_overrides_are_taken_or_refused(given):
  check_overrides(*given)


@pytest.mark.rounds
@hostile.examples(hostile.ROUNDS, given=overrides())
def test_overrides_are_taken_or_refused_in_many_rounds(given):
  check_overrides(*given)


def files():
  """A system, and values of JSON for some of its fields or for no field."""
  return st.sampled_from(sorted(systems.SYSTEMS)).flatmap(
    lambda system: st.tuples(
      st.just(system),
      st.dictionaries(
        st.sampled_from([*names_of(system), *SECTIONS]) | hostile.texts(),
        hostile.things(),
        min_size=1,
        max_size=2,
      ),
    )
  )


def check_file(system, values):
  tree = json.loads(text_of(system))
  for name, value in values.items():
    *parents, last = name.split('.')
    section = tree
    for parent in parents:
      section = section.setdefault(parent, {})
      if not isinstance(section, dict):
        return
    section[last] = value
  text = json.dumps(tree, default=repr)

  def read():
    with errors.user_errors():
      config = config_lib.from_json(text)
    config_lib.validate(config)
    return config

  config = said(read)
  if config is not None:
    check_round_trip(config)


@hostile.examples(30, given=files())
def test_a_config_file_is_read_or_refused(given):
  check_file(*given)


@pytest.mark.rounds
@hostile.examples(hostile.ROUNDS, given=files())
def test_a_config_file_is_read_or_refused_in_many_rounds(given):
  check_file(*given)
