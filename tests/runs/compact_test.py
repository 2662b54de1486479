"""Weights in one small file: written from a run, read in place of it."""

import jax
import numpy as np
import pytest

import pyramid_jax
from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import ship
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.interop import safetensors_file
from pyramid_jax.runs import compact
from pyramid_jax.runs import loading
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import written_run


STEP = 1  # of the written run


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Returns the folder of a run of two stages and that of its weights."""
  root = tmp_path_factory.mktemp('compact')
  config = config_lib.load('configs/frido_shapes.py:debug')
  written_run.write(root / 'run', config, extra=None)
  first = config_lib.first_stage(config)
  written_run.write(root / 'run' / 'first_stage', first, seed=1)
  flags = [f'--workdir={root}/run', f'--out={root}/out']
  assert ship.main(flags) == errors.OK
  assert ship.main(flags) == errors.OUTPUT
  return root / 'run', root / 'out'


def weights_of(folder):
  run = loading.load(workdir_lib.read_config(folder), folder)
  return run.weights, run.step


def test_weights_are_those_of_the_run(folders):
  (want, step), (got, same_step) = map(weights_of, folders)
  assert (step, same_step) == (STEP, STEP)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  float16, int8 = 2.0**-11, 0.5 / 127
  _, out = folders
  coarse = {
    name.removeprefix('frozen/first_stage/').removesuffix(':scale')
    for name in safetensors_file.Tensors(out / compact.FILE)
    if name.endswith(':scale')
  }
  assert {name.split('/')[0] for name in coarse} == {
    'encoder',
    *('ms_quant_conv_0', 'ms_quant_conv_1', 'shared_decoder_0'),
    *('shared_post_quant_conv_0', 'upsample_0'),
  }

  def compare(path, x, y):
    assert x.dtype == y.dtype == np.float32
    keys = [key.key for key in path[1:]]
    x, y = np.asarray(x), np.asarray(y)
    if '/'.join(keys[1:]) in coarse:
      largest = np.abs(y).max(tuple(range(y.ndim - 1)), keepdims=True)
      assert (np.abs(x - y) <= 1.001 * int8 * largest).all(), path
    else:
      np.testing.assert_allclose(x, y, float16, 1e-7, err_msg=str(path))

  jax.tree_util.tree_map_with_path(compare, got, want)
  np.testing.assert_array_equal(
    got.extra['latent_scale'], want.extra['latent_scale']
  )


def test_the_folder_has_what_the_run_says(folders):
  run, out = folders
  assert sorted(file.name for file in out.iterdir()) == [
    'config.json',
    'labels.json',
    'weights.safetensors',
  ]
  assert workdir_lib.read_config(out) == workdir_lib.read_config(run)
  assert workdir_lib.read_labels(out) == workdir_lib.read_labels(run)
  assert (out / compact.FILE).stat().st_mode & 0o444 == 0o444


def test_another_step_config_or_damage_is_one_line(folders, tmp_path):
  _, out = folders

  def load(folder, name, *shape, step=None):
    leaf = jax.ShapeDtypeStruct(shape, np.float32)
    return compact.load(folder, {name: leaf}, step)

  with pytest.raises(errors.UserError, match='no checkpoint of step 7.*: 1'):
    load(out, 'step', step=7)
  with pytest.raises(
    errors.UserError, match=r'config: step is \[2\] in .* \[\] in'
  ):
    load(out, 'step', 2)
  with pytest.raises(errors.UserError, match='x is .* and absent in the file'):
    load(out, 'x')
  (tmp_path / compact.FILE).write_bytes(b'{}')
  with pytest.raises(errors.UserError, match='not a safetensors file') as info:
    load(tmp_path, 'step')
  assert info.value.code == errors.DATA


def test_training_cannot_go_on_from_them(folders):
  _, out = folders
  config = workdir_lib.read_config(out)
  with pytest.raises(errors.UserError, match='no state of a training run'):
    workdir_lib.check_inputs(workdir_lib.stages(config, out))


def test_a_predictor_of_edges_reads_its_first_stage(folders, tmp_path):
  _, base = folders
  config = config_lib.load('configs/sketch_shapes.py:frido,layout,pixels,debug')
  config_lib.override(config, {'sketch.base': str(base)})
  system = workdir_lib.create_system(config)
  assert pretrained.missing(system, tmp_path) == []
  mesh = mesh_lib.create(config.mesh)
  name = pretrained.FIRST_STAGE
  got = pretrained.load(system, config, mesh, tmp_path, only=name)[name]
  weights, _ = weights_of(base)
  jax.tree.map(np.testing.assert_array_equal, got, weights.frozen[name])


def test_first_stages_are_refused(folders, tmp_path, capsys):
  run, _ = folders
  flags = [f'--workdir={run}/first_stage', f'--out={tmp_path}']
  assert ship.main(flags) == errors.USAGE
  assert 'the run does not sample' in capsys.readouterr().err


def test_values_beyond_float16_are_refused(tmp_path):
  trees = {'params': {'w': np.float32([7e4])}, 'step': np.int32(1)}
  with pytest.raises(ValueError, match='params/w .* float16 cannot hold'):
    compact.write(tmp_path, config_lib.base('ldm'), trees)
  trees['params'] = {'w': np.zeros((2, 3), np.float32)}
  compact.write(tmp_path, config_lib.base('ldm'), trees, {'params/w'})
  assert compact.is_there(tmp_path)


def test_models_of_the_package():
  assert 'shapes' in compact.names()
  assert compact.model('shapes').name == 'shapes'
  for name in ('shape', '', '.', '../models/shapes'):
    assert compact.model(name) is None


def test_the_model_that_comes_along_is_whole_and_small():
  folder = compact.model('shapes')
  assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
  pipe = pyramid_jax.load('shapes')
  assert pipe.label_names[1] == 'red circle'
  assert {'layout', 'image', 'strength'} <= set(pipe.requests)
  tensors = safetensors_file.Tensors(folder / compact.FILE)
  weights = {'params': pipe.weights.params, 'frozen': pipe.weights.frozen}
  leaves = sharding.leaves(weights)
  stored = {name for name in tensors if not name.endswith(':scale')}
  assert stored == leaves.keys() | {'extra/latent_scale', 'step'}
  assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves.values())


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('network.model_channels', 64),
    ('condition.dim', 48),
    ('first_stage.network.n_embed', (64, 32)),
  ],
)
def test_what_decides_other_shapes_is_named(folders, name, value):
  for folder in folders:
    config = workdir_lib.read_config(folder)
    was = config_lib.flatten(config)[name]
    config_lib.override(config, {name: str(value), 'sample.seed': '7'})
    with pytest.raises(errors.UserError) as error:
      loading.load(config, folder)
    assert error.value.code == errors.DATA
    text = str(error.value)
    assert text.count(' in the config and ') >= 1
    inner = name.removeprefix('first_stage.')
    assert text.endswith(f'{inner}: {was} -> {value}.')
    assert 'Its config -> the one that is given differ in' in text
