"""`~` and working directories in the paths of configs and command lines."""

import argparse
import os
import pathlib

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.config import checks
from pyramid_jax.config import command_line
from pyramid_jax.config import paths
from pyramid_jax.config import sections


@pytest.fixture
def home(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


def test_the_home_folder(home):
  assert paths.expand('~/x') == f'{home}/x'
  assert paths.expand('~') == str(home)
  assert paths.expand('~root/x') == f'{pathlib.Path("~root").expanduser()}/x'
  for text in ('', 'a/~/b', './~x', 'hf://owner/name/file', 'bert'):
    assert paths.expand(text) == text
  with pytest.raises(errors.UserError, match='--map=~nobody-x/a: the home'):
    paths.expand('~nobody-x/a', '--map')
  assert command_line.path('~/a,~/b') == f'{home}/a,{home}/b'


def test_every_field_that_names_a_file_is_a_path():
  words = ('file', 'folder', 'workdir', 'vocabulary', 'merges')
  for system in systems.SYSTEMS:
    for name, field in sections.of(system).fields.items():
      is_free = field.item_kind is str and not field.choices
      says = any(word in field.doc.lower() for word in words)
      assert field.path == (is_free and says), name


def test_fields_from_the_command_line(home):
  config = config_lib.load('configs/ldm_shapes.py:debug')
  given = {
    'data.root': '~/images',
    'first_stage.checkpoint': '~/first',
    'condition.vocab_file': 'bert',
    'name': '~/no path',
  }
  config_lib.override(config, given)
  assert config.data.root == f'{home}/images'
  assert config.first_stage.checkpoint == f'{home}/first'
  assert config.condition.vocab_file == 'bert'
  assert config.name == '~/no path'
  with pytest.raises(errors.UserError, match='data.root=~nobody-x: the home'):
    config_lib.override(config, {'data.root': '~nobody-x'})


def test_fields_of_files(home):
  (home / 'my.py').write_text("""
from pyramid_jax import config as config_lib

def get_config(arg=''):
  config = config_lib.base('ldm')
  config.data.root = '~/images'
  config.name = arg
  return config
""")
  config = config_lib.load('~/my.py:variant')
  assert (config.name, config.data.root) == ('variant', f'{home}/images')
  text = config_lib.to_json(config).replace(str(home), '~')
  assert config_lib.from_json(text).data.root == f'{home}/images'


def test_what_is_there_is_recorded_by_its_absolute_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('images').mkdir()
  config = config_lib.load('configs/ldm_shapes.py:debug')
  config_lib.override(
    config,
    {
      'data.root': 'images',
      'first_stage.data.root': './images',
      'condition.vocab_file': 'bert',
      'condition.weights': 'hf://owner/name/file',
      'first_stage.checkpoint': 'not/there',
    },
  )
  recorded = config_lib.make_absolute(config)
  assert config.data.root == 'images'
  assert recorded.is_locked
  assert recorded.data.root == f'{tmp_path}/images'
  assert recorded.first_stage.data.root == f'{tmp_path}/images'
  assert recorded.condition.vocab_file == 'bert'
  assert recorded.condition.weights == 'hf://owner/name/file'
  assert recorded.first_stage.checkpoint == 'not/there'
  assert checks.resume_differences(recorded, config) == []
  monkeypatch.chdir('/')
  assert os.path.isdir(recorded.data.root)


def test_resumes_compare_files_not_texts(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  old, new = (config_lib.load('configs/ldm_shapes.py:debug') for _ in range(2))
  old.condition.weights, new.condition.weights = 'w.npz', f'{tmp_path}/w.npz'
  assert checks.resume_differences(old, new) == []
  for other in ('v.npz', '', 'hf://owner/name/w.npz'):
    old.condition.weights = other
    (line,) = checks.resume_differences(old, new)
    assert line.startswith('condition.weights: ')


@pytest.mark.parametrize(
  'name', ['a' * 256, '\u00e9' * 128, 'a\0b', '\ud800', 'x/' + 'a' * 256 + '/y']
)
def test_what_no_file_can_be_called_is_refused(name):
  config = config_lib.load('configs/ldm_shapes.py:debug')
  with pytest.raises(errors.UserError, match='^--config.data.root=.*: no path'):
    config_lib.override(config, {'data.root': name})
  with pytest.raises(argparse.ArgumentTypeError, match='no path'):
    command_line.path(name)
  config_lib.override(config, {'data.root': 'a' * 255 + '/' + 'b' * 255})
