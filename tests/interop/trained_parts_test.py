"""Networks of runs of one's own, written for other code and read again."""

import pathlib

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import convert as command
from pyramid_jax.interop import convert
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from tests.helpers import configs
from tests.helpers import written_run


CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
CASES = {
  'ldm.vq': ('ldm_autoencoder_shapes.py:vq,debug', 'diffusers'),
  'frido.msvqgan': ('msvqgan_shapes.py:debug', 'official'),
}


def run(family, workdir, *flags):
  return command.main([f'--family={family}', f'--workdir={workdir}', *flags])


def assert_equal_trees(got, want):
  got, want = mapping.flatten(got), mapping.flatten(want)
  assert got.keys() == want.keys()
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize('family', sorted(CASES))
def test_a_trained_first_stage_there_and_back(family, tmp_path):
  name, layout = CASES[family]
  _, weights = written_run.write(tmp_path / 'run', configs.load(name))
  file = tmp_path / 'official.safetensors'
  export = (f'--export={file}', f'--layout={layout}')
  assert run(family, tmp_path / 'run', *export) == 0
  keys = safetensors_file.Tensors(file).keys()
  is_theirs = any('.down_blocks.' in key for key in keys)
  assert is_theirs == (layout == 'diffusers')
  assert run(family, tmp_path / 'run', *export) == errors.OUTPUT
  again = (f'--config={CONFIGS}/{name}', f'--checkpoint={file}')
  assert run(family, tmp_path / 'back', *again) == 0
  kept, params, _ = parts.read_own(tmp_path / 'back' / convert.PARAMS)
  assert kept == family
  assert_equal_trees(params, weights.params['generator'])


def test_networks_of_a_run_and_of_its_first_stage(tmp_path, capsys):
  config = configs.load('ldm_shapes.py:class,debug')
  _, weights = written_run.write(tmp_path / 'run', config)
  first = configs.load('ldm_autoencoder_shapes.py:kl,debug')
  first_stage = written_run.write(tmp_path / 'run' / 'first_stage', first)[1]
  for family, tree in [
    ('ldm.unet', weights.params['generator']['unet']),
    ('class_embedder', weights.params['generator']['condition']),
    ('ldm.autoencoder_kl', first_stage.params['generator']),
  ]:
    file = tmp_path / f'{family}.safetensors'
    assert run(family, tmp_path / 'run', f'--export={file}') == 0
    shapes = jax.eval_shape(lambda tree=tree: tree)
    assert_equal_trees(parts.load_part(family, file, shapes), tree)
  capsys.readouterr()
  code = run('t5', tmp_path / 'run', f'--export={tmp_path}/x.safetensors')
  assert code == errors.DATA
  assert "first_stage has no 't5', only discriminator, ldm" in (
    capsys.readouterr().err
  )
  code = run('t5', tmp_path / 'nothing', f'--export={tmp_path}/x.safetensors')
  assert code == errors.MISSING
