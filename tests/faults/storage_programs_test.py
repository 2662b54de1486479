"""Programs that write weights and caches, where no file may grow large."""

import contextlib
import json
import pathlib
import resource
import shutil
import sys

import jax
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.commands import cache_latents
from pyramid_jax.commands import convert
from pyramid_jax.commands import ship
from pyramid_jax.distributed import initial
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from tests.helpers import full_disk
from tests.helpers import written_commands
from tests.helpers import written_run


pytestmark = pytest.mark.rounds
CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
LIMITS = (300, 20_000)  # bytes of a file


@contextlib.contextmanager
def limited(size):
  """Lets no file grow beyond a size, as a quota does."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def compare(main, flags, out, content, capsys):
  """Runs a program with and without limits; what it writes must be the same.

  Args:
    main: of the program.
    flags: of its command line.
    out: what it writes.
    content: returns what is equal in equal results.
    capsys: pytest's.
  """
  assert main(flags) == errors.OK
  want = content(out)
  refused = 0
  for size in LIMITS:
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    capsys.readouterr()
    with limited(size):
      code = main(flags)
    text = capsys.readouterr().err
    if code != errors.OK:
      assert code == errors.OUTPUT, text
      written_commands.assert_one_line(text, 'cannot write', 'File too large')
      assert full_disk.left(out.parent) == []
      refused += 1
      assert main(flags) == errors.OK
    assert content(out) == want
  sys.stdout.write(f'{refused} of {len(LIMITS)} limits refused, all repeated\n')
  assert refused


def tensors(path):
  found = safetensors_file.Tensors(path)
  return {name: found[name].tobytes() for name in found}


def test_a_cache_of_latents(tmp_path, capsys):
  config = CONFIGS / 'ldm_shapes.py'
  system = systems.create(config_lib.load(f'{config}:class,debug'))
  part = system.pretrained_parts()['first_stage']
  weights = initial.evaluate(part.init, jax.random.key(0))
  parts.write(part.family, tmp_path / 'first.safetensors', weights)
  flags = [
    f'--config={config}:class,debug',
    f'--first_stage={tmp_path}/first.safetensors',
    f'--output={tmp_path}/cache',
    *('--count=64', '--shard_size=32', '--batch_size=32'),
  ]
  tree = full_disk.tree
  compare(cache_latents.main, flags, tmp_path / 'cache', tree, capsys)


def test_shipped_weights(tmp_path, capsys):
  config = config_lib.load(f'{CONFIGS}/frido_shapes.py:debug')
  written_run.write(tmp_path / 'run', config)
  first = config_lib.first_stage(config)
  written_run.write(tmp_path / 'run' / 'first_stage', first, seed=1)
  flags = [f'--workdir={tmp_path}/run', f'--out={tmp_path}/out']

  def content(folder):
    # The order of what a header says differs.
    file = folder / 'weights.safetensors'
    said = safetensors_file.Tensors(file).metadata()
    return tensors(file), said, (folder / 'labels.json').read_bytes()

  compare(ship.main, flags, tmp_path / 'out', content, capsys)


def test_a_converted_workdir_and_its_export(tmp_path, capsys):
  config = f'{CONFIGS}/frido_coco.py:text,debug'
  system = systems.create(config_lib.load(config))
  _, report = latent_workdir.from_official('frido', {}, system, False)
  rng = np.random.default_rng(0)
  state = {
    key: rng.normal(size=shape).astype(np.float32)
    for key, shape in report.missing.items()
  }
  safetensors_file.write(tmp_path / 'model.safetensors', state)
  flags = ['--family=frido', f'--workdir={tmp_path}/run']
  made = [
    f'--config={config}',
    f'--checkpoint={tmp_path}/model.safetensors',
    '--allow_missing',
  ]

  def content(folder):
    files = full_disk.tree(folder)
    meta = json.loads(files['checkpoints/1/meta/metadata'])
    names = [name for name in files if '/checkpoints/' not in f'/{name}']
    return meta['tree'], {name: files[name] for name in names}

  compare(convert.main, flags + made, tmp_path / 'run', content, capsys)
  file = tmp_path / 'out.safetensors'
  export = [*flags, f'--export={file}']
  compare(convert.main, export, file, tensors, capsys)
