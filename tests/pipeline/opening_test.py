"""What `pj.load` opens, and what it refuses."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

import pyramid_jax as pj
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.pipeline import opening
from pyramid_jax.runs import loading
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import configs
from tests.helpers import painter
from tests.helpers import written_run


def write(folder, variants, size):
  config = configs.load(
    f'ladm_shapes.py:{variants},debug',
    data__image_size=size,
    sample__steps=1,
    sample__count=3,
    sample__batch_size=3,
  )
  extra = {'process': systems.create(config).fingerprint()}
  written_run.write(folder, config, extra=extra)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('opening') / 'run'
  write(folder, 'none', 16)
  return folder


@pytest.fixture(scope='module')
def pipe(run):
  mesh = mesh_lib.create(configs.of_task('none').mesh, jax.devices()[:1])
  pipe = pj.load(str(run), step=1, mesh=mesh)
  assert pipe.mesh == mesh
  return pipe


def test_a_run_makes_images(pipe):
  assert isinstance(pipe, pj.Pipeline)
  assert pipe.label_names == ('padding',)
  assert pipe.stages == ('4x4', '8x8', '16x16')
  images = pipe(last_scale='4x4', seed=1)
  assert images.shape == (3, 4, 4, 3)
  np.testing.assert_array_equal(pipe(last_scale=0, seed=1), images)
  grid = pj.grid(images)
  assert isinstance(grid, Image.Image)
  with pytest.raises(errors.UserError, match="last_scale='9x9': must be one"):
    pipe.request(last_scale='9x9')
  for last in ([], 0.5, True):
    with pytest.raises(
      errors.UserError, match='^last_scale=.*: must be a numb'
    ):
      pipe.request(last_scale=last)
  with pytest.raises(errors.UserError, match='the last scale is 3, allowed'):
    pipe.request(last_scale=3)
  with pytest.raises(errors.UserError, match='multiples of'):
    pipe.request(shape=(17, 16))


def test_finished_scales_are_built_upon(pipe, run, tmp_path):
  (made,) = pipe.stream(pipe.request(count=3, last_scale=0))
  assert len(made.scales) == 1
  given = {'coarse_latent': made.scales, 'last_scale': 1}
  (more,) = pipe.stream(pipe.request(count=3, **given))
  np.testing.assert_array_equal(more.scales[0], made.scales[0])
  file = tmp_path / 'latents.npz'
  np.savez(file, latent_0=made.scales[0])
  (same,) = pipe.stream(pipe.request(count=3, coarse_latent=file, last_scale=1))
  np.testing.assert_array_equal(same.scales[1], more.scales[1])
  np.savez(file, arr_0=made.scales[0])
  for path, code, message in (
    (file, errors.DATA, r"has no array latent_0, only \['arr_0'\]"),
    (tmp_path / 'no.npz', errors.MISSING, 'no.npz: not there'),
    (run / 'config.json', errors.DATA, 'config.json: not an .npz'),
  ):
    with pytest.raises(errors.UserError, match=message) as error:
      pipe.request(coarse_latent=path)
    assert error.value.code == code
  bad = np.repeat(made.scales[0], 200, 0).astype(np.float64)
  bad[517, 0, 1, 0] = 1e39  # float32 has no such number
  np.savez(file, latent_0=bad)
  message = 'scale 0 has NaN or Inf in its row 517'
  for value, code in ((bad, errors.USAGE), (file, errors.DATA)):
    with pytest.raises(errors.UserError, match=message) as error:
      pipe.request(coarse_latent=value)
    assert error.value.code == code
  for value in (
    np.float32(1),
    [[1.0], [1.0, 2.0]],
    made.scales[0].astype('U4'),
    [[]],
  ):
    with pytest.raises(errors.UserError, match='^coarse_latent: scale 0 is'):
      pipe.request(coarse_latent=[value])
  with pytest.raises(errors.UserError, match='scale 0 of the start has the sh'):
    pipe.request(coarse_latent=[made.scales[0][:, 1:]])


def test_what_is_no_model_is_refused(tmp_path, run):
  def refused(code, *args, **options):
    with pytest.raises(errors.UserError) as error:
      pj.load(*args, **options)
    assert error.value.code == code
    return str(error.value)

  assert 'nowhere: not there.' in refused(errors.MISSING, tmp_path / 'nowhere')
  assert 'is no model' in refused(errors.MISSING, tmp_path)
  assert 'is empty' in refused(errors.USAGE, '')
  message = refused(errors.USAGE, run, sketch=run)
  assert "must be one of the system 'sketch'" in message
  message = refused(errors.USAGE, run, upsampler=run)
  assert "run: its condition is 'none', its image_size 16; needed is" in message
  (tmp_path / 'config.json').write_text(json.dumps([1]))
  assert 'a config is a JSON object' in refused(errors.DATA, tmp_path)


def test_a_first_stage_is_refused_before_it_is_loaded(tmp_path):
  config = configs.load('ldm_autoencoder_shapes.py:debug')
  workdir_lib.write_record(tmp_path, config, ())
  with pytest.raises(
    errors.UserError, match="'autoencoder', which does not sample"
  ):
    pj.load(tmp_path)


def test_a_request_is_refused_before_weights_are_read(tmp_path):
  config = configs.of_task('layout')
  request = pj.Request(layout=tmp_path / 'no.json')
  with pytest.raises(errors.UserError, match='no.json: not there'):
    opening.of_run(config, tmp_path, request=request)
  with pytest.raises(errors.UserError, match='guidance=inf'):
    opening.of_run(config, tmp_path, request=pj.Request(guidance=float('inf')))


def test_kinds_of_sources_are_a_table(run, monkeypatch):
  painter.install(monkeypatch)
  asked = []

  def open_other(path, options):
    asked.append((path, options.step))
    return opening.open_run(path, options)

  other = (lambda path: path.name == 'run', open_other)
  monkeypatch.setattr(opening, 'KINDS', (other, *opening.KINDS))
  pj.load(run, step=7)
  assert asked == [(run, 7)]
  assert loading.load(None, run).step == 3  # the painter's


@pytest.mark.pods
def test_controls_join_a_run(run, tmp_path):
  process = loading.load(workdir_lib.read_config(run), run).weights.extra
  for seed, name in enumerate(('a', 'b')):
    config = configs.load(
      'ladm_shapes.py:none,control,debug',
      data__image_size=16,
      sample__steps=1,
      sample__count=2,
      sample__batch_size=2,
      control__base=run,
    )
    written_run.write(tmp_path / name, config, seed, process)
  sketch = np.zeros((16, 16), np.uint8)
  sketch[4] = 255

  def make(*weights):
    control = dict(zip((tmp_path / 'a', tmp_path / 'b'), weights, strict=False))
    pipe = pj.load(run, control=control)
    return pipe(sketch=sketch, seed=1, last_scale=0)

  alone = make(1)
  np.testing.assert_array_equal(make(1, 0), alone)
  assert (make(1, 1) != alone).any()
  with pytest.raises(errors.UserError, match='give one of'):
    pj.load(run, control=tmp_path / 'a', sketch=tmp_path / 'a')
