"""The notebooks: valid, without outputs, with public names, and they run.

They run as `PYRAMID_JAX_FAST=1` has them, at the smallest sizes. One runs with
the other tests, another one after each commit; all run with the marker
`notebooks`.
"""

import ast
import importlib.util
import os
import pathlib
import re
import sys

import nbclient
import nbformat
import pytest

import pyramid_jax
from tests.helpers import documented_runs
from tests.helpers import turns


ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / 'notebooks'
NAMES = tuple(sorted(path.name for path in FOLDER.glob('*.ipynb')))
SECONDS = 300  # of a cell, on a busy machine
SHOWN = 'image/png'
LAST_IMAGES = 2  # cells that end with images, at least
INSTALL = '%pip install'
PUBLIC = {*pyramid_jax.__all__, '__file__'}


def read(name):
  return nbformat.read(FOLDER / name, as_version=4)


def code(name):
  """Returns the code cells of a notebook, commands and magics left out."""
  cells = [c.source for c in read(name).cells if c.cell_type == 'code']
  magic = re.compile(r'^(\s*)(?:\w+ = )?[!%].*$', re.MULTILINE)
  return [magic.sub(r'\1pass', cell) for cell in cells]


def address_tool():
  spec = importlib.util.spec_from_file_location(
    'address', FOLDER / 'address.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def marked(name):
  now = turns.chosen(NAMES, len(NAMES), turns.commits())
  mark = pytest.mark.slow if name in now else pytest.mark.notebooks
  return pytest.param(name, marks=mark, id=name)


def test_the_four_notebooks_are_there():
  assert NAMES == (
    'frido.ipynb',
    'official_checkpoint.ipynb',
    'quickstart.ipynb',
    'your_own_images.ipynb',
  )


@pytest.mark.parametrize('name', NAMES)
def test_notebooks_are_valid_and_have_no_outputs(name):
  notebook = read(name)
  nbformat.validate(notebook)
  assert notebook.metadata.accelerator in ('GPU', 'TPU')
  assert notebook.metadata.colab.gpuType
  first, install, device, *_ = notebook.cells
  assert first.source.startswith('[![Open in Colab](https://colab.')
  assert INSTALL in install.source
  assert 'default_backend' in device.source
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs
      assert cell.execution_count is None
      assert cell.source.startswith('# @title ')


@pytest.mark.parametrize('name', NAMES)
def test_notebooks_use_what_the_readme_shows(name):
  for cell in code(name):
    for node in ast.walk(ast.parse(cell)):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        assert node.value.id != 'pj' or node.attr in PUBLIC, node.attr
      if isinstance(node, ast.Import):
        ours = [x for x in node.names if x.name.startswith('pyramid_jax')]
        assert all(x.name == 'pyramid_jax' for x in ours)
      if isinstance(node, ast.ImportFrom):
        assert not (node.module or '').startswith('pyramid_jax')
  readme = (ROOT / 'README.md').read_text()
  text = (FOLDER / name).read_text()
  for module in re.findall(r'-m (pyramid_jax[\w.]*)', text):
    assert f'python -m {module} ' in readme, module


def test_an_address_is_written_into_badge_and_install_cell():
  tool = address_tool()
  for name in NAMES:
    text = (FOLDER / name).read_text()
    found = tool.with_address(text, 'https://github.com/a/b.git', name)
    nbformat.validate(nbformat.reads(found, as_version=4))
    assert f'github/a/b/blob/main/notebooks/{name})' in found
    assert "REPOSITORY = 'https://github.com/a/b'" in found
    other = tool.with_address(found, 'https://github.com/c/d', name)
    assert 'a/b' not in other
  with pytest.raises(ValueError, match='must be https://github.com/OWNER'):
    tool.with_address(text, 'github.com/a', NAMES[0])


def test_four_commits_in_a_row_run_all():
  parts = [turns.chosen(NAMES, len(NAMES), n) for n in range(7, 11)]
  assert sorted(name for part in parts for name in part) == list(NAMES)


@pytest.fixture
def one_device_environment(monkeypatch):
  """The environment of a kernel: one device, and commands of this Python."""
  flags = os.environ.get('XLA_FLAGS', '').split()
  kept = [x for x in flags if 'device_count' not in x]
  monkeypatch.setenv('XLA_FLAGS', ' '.join(kept))
  monkeypatch.setenv('PYRAMID_JAX_FAST', '1')
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  folder = pathlib.Path(sys.executable).parent
  monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')


@pytest.mark.usefixtures('one_device_environment')
@pytest.mark.parametrize('name', [marked(name) for name in NAMES])
def test_notebooks_end_with_their_images(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if name.startswith('official'):
    documented_runs.write_files(tmp_path)  # `model.ckpt` and `vocab.txt`
  notebook = read(name)
  client = nbclient.NotebookClient(
    notebook,
    timeout=SECONDS,
    kernel_name='python3',
    resources={'metadata': {'path': str(tmp_path)}},
  )
  client.execute()
  shown = [
    any(SHOWN in output.get('data', {}) for output in cell.outputs)
    for cell in notebook.cells
    if cell.cell_type == 'code'
  ]
  assert shown[-1]
  assert sum(shown) >= LAST_IMAGES, shown
