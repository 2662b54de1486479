"""What `import pyramid_jax` brings, and what it does not start."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import pyramid_jax
from pyramid_jax import __main__
from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.config import files
from pyramid_jax.evaluation import grids


ROOT = pathlib.Path(__file__).resolve().parents[1]
# Slow to import, and needed by some commands only.
HEAVY = {
  'clu',
  'flax',
  'jax',
  'orbax',
  'safetensors',
  'scipy',
  'skimage',
  'tensorboardX',
  'tensorflow',
  'torch',
  'tqdm',
}


def test_names_of_the_package():
  assert pyramid_jax.Pipeline is pipeline.Pipeline
  assert pyramid_jax.grid is grids.grid
  assert pyramid_jax.__version__.count('.') == 2
  assert set(pyramid_jax.__all__) <= set(dir(pyramid_jax))
  with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
    _ = pyramid_jax.Pipelin


def output_of(program, **options):
  command = [sys.executable, '-c', program]
  done = subprocess.run(
    command, capture_output=True, text=True, check=True, **options
  )
  return done.stdout.strip()


def test_importing_starts_no_device():
  program = """
import sys, pyramid_jax
for name in ('__version__', 'Pipeline', 'grid'):
  getattr(pyramid_jax, name)
  bridge = sys.modules.get('jax._src.xla_bridge')
  print(len(bridge._backends) if bridge else 0)
"""
  assert output_of(program).split() == ['0'] * 3


def test_importing_loads_nothing_slow():
  # `main` imports the package, so one process tells about both.
  program = 'import sys, pyramid_jax.main; print(*sys.modules)'
  loaded = {name.partition('.')[0] for name in output_of(program).split()}
  assert {'absl', 'pyramid_jax'} <= loaded
  assert loaded & HEAVY == set()


def test_metrics_of_clu_need_no_tensorflow():
  loaded = output_of('import sys, clu.metrics; print(*sys.modules)').split()
  assert 'tensorflow' not in loaded


def test_a_wheel_has_the_configs():
  program = (
    'import setuptools; from distutils import core;'
    'found = core.run_setup("setup.py", ["build_py"], "commandline");'
    'build = found.get_command_obj("build_py"); build.ensure_finalized();'
    'print(*(f"{package}:{file}" for package, _, file'
    ' in build.find_all_modules()),'
    '*found.entry_points["console_scripts"], sep="\\n")'
  )
  *found, script = output_of(program, cwd=ROOT).splitlines()
  assert script.split() == ['pyramid-jax', '=', 'pyramid_jax.__main__:main']
  assert callable(__main__.main)
  configs = {f'configs/{file.name}' for file in ROOT.glob('configs/*.py')}
  assert len(configs) > 20
  assert configs == {
    file.removeprefix('pyramid_jax.configs:')
    for file in found
    if file.startswith('pyramid_jax.configs:')
  }
  assert 'pyramid_jax:pyramid_jax/main.py' in found


def test_a_wheel_has_the_lists_of_categories_and_the_models():
  program = (
    'import setuptools; from distutils import core;'
    'found = core.run_setup("setup.py", ["build_py"], "commandline");'
    'build = found.get_command_obj("build_py"); build.ensure_finalized();'
    'print(*(f"{package}:{file}" for package, _, _, files'
    ' in build.data_files for file in files))'
  )
  found = output_of(program, cwd=ROOT).split()
  lists = {file.name for file in ROOT.glob('pyramid_jax/data/lists/*')}
  assert {'imagenet.csv', 'celebahqvalidation.txt'} <= lists
  assert {f'pyramid_jax.data:lists/{name}' for name in lists} <= set(found)
  model = [file.name for file in ROOT.glob('pyramid_jax/models/shapes/*')]
  assert sorted(model) == ['config.json', 'labels.json', 'weights.safetensors']
  wanted = {f'pyramid_jax:models/shapes/{name}' for name in model}
  assert wanted <= set(found)
  page = {f'pyramid_jax.demo:{x}' for x in ('canvas.js', 'canvas.html')}
  assert page | {'pyramid_jax.demo:page.css'} <= set(found)


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = 'configs/flow_shapes.py:debug'
  assert config_lib.load(path).system.name == 'flow'  # of the checkout
  package, checkout = files._ROOTS
  assert (checkout / 'setup.py').is_file()
  assert package.name == 'pyramid_jax'
  monkeypatch.setattr(files, '_ROOTS', (tmp_path / 'installed',))
  with pytest.raises(errors.UserError, match='no file configs/flow_shapes.py'):
    config_lib.load(path)
  shutil.copytree(checkout / 'configs', tmp_path / 'installed' / 'configs')
  assert config_lib.load(path).system.name == 'flow'
