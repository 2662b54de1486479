"""The commands of the README, at the smallest size, as a user types them."""

import json

import numpy as np
from PIL import Image
import pytest

from tests.helpers import command_line
from tests.helpers import devices
from tests.helpers import processes


ROOT = processes.ROOT
# One level of the U-Net with attention in its middle block alone, which
# compiles in less than half of the time.
CONFIG = (
  '--config=configs/frido_shapes.py:debug',
  '--config.network.channel_mult=1',
  '--config.network.attention_resolutions=()',
)


def call(*args, code=0):
  """Runs `python -m pyramid_jax.main` on one device; returns its stderr."""
  done = processes.run('-m', 'pyramid_jax.main', *args)
  assert done.returncode == code, done.stderr[-3000:]
  return done.stderr


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def call_here():
  """Does what `call` does, without a process that has to import and compile."""

  def run(*args, code=0):
    got, text = command_line.call(*args)
    assert got == code, text
    return text

  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    devices.show_one(patch)
    yield run


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, call_here):
  folder = tmp_path_factory.mktemp('run') / 'frido'
  call_here(
    *CONFIG,
    f'--workdir={folder}',
    '--config.evaluate.batch_size=2',  # one sampler serves grids and scores
  )
  return folder


@pytest.mark.slow
def test_training_leaves_both_stages(workdir):
  for folder in (workdir, workdir / 'first_stage'):
    assert [line['step'] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(line['loss']) for line in lines(folder))
    assert (folder / 'checkpoints' / '6').is_dir()
    assert (folder / 'samples' / 'step_00000006.png').is_file()
    assert (folder / 'config.json').is_file()
  assert 'eval/layout_recall' in lines(workdir)[2]


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
def test_sampling_then_scoring(workdir, call_here):
  call('--mode=sample', f'--workdir={workdir}', '--count=3')
  folder = workdir / 'samples'
  assert np.asarray(Image.open(folder / '000002.png')).shape == (32, 32, 3)
  with np.load(folder / 'samples.npz') as saved:
    assert saved['arr_0'].shape == (3, 32, 32, 3)
    assert saved['arr_0'].dtype == np.uint8
    assert saved['boxes'].shape == (3, 4, 4)
    first = saved['arr_0']
  call_here('--mode=sample', f'--workdir={workdir}', '--count=3')
  with np.load(folder / 'samples.npz') as saved:
    np.testing.assert_array_equal(saved['arr_0'], first)

  call_here(
    '--mode=evaluate',
    f'--workdir={workdir}',
    f'--samples={folder}/samples.npz',
  )
  saved = json.loads((folder / 'scores.json').read_text())['scores']
  assert 0 <= saved['layout_recall']['value'] <= 1
  call_here('--mode=evaluate', f'--workdir={workdir}')
  scored = json.loads((folder / 'scores.json').read_text())['scores']
  assert scored['layout_recall']['ceiling'] > 0.9
  assert '| layout_recall |' in (folder / 'scores.md').read_text()


@pytest.mark.turns(4, group='whole runs')
@pytest.mark.slow
def test_sampling_what_a_person_asks_for(workdir, call_here, tmp_path):
  file = tmp_path / 'layout.json'
  file.write_text('[{"label": "red circle", "box": [0.1, 0.1, 0.5, 0.5]}]')
  asked = ('--mode=sample', f'--workdir={workdir}', '--count=2')
  call_here(*asked, f'--layout={file}', '--last_scale=0')
  with np.load(workdir / 'samples' / 'samples.npz') as saved:
    np.testing.assert_allclose(saved['boxes'][1, 0], [0.1, 0.1, 0.5, 0.5])
  with np.load(workdir / 'samples' / 'latents.npz') as saved:
    assert saved.files == ['latent_0']
  latents = workdir / 'samples' / 'latents.npz'
  call_here(*asked, f'--layout={file}', f'--coarse_latent={latents}')
  with np.load(latents) as saved:
    assert saved['latent_1'].shape == (2, 8, 8, 8)

  picture = tmp_path / 'picture.png'
  Image.new('RGB', (40, 40), 'red').save(picture)
  call_here(*asked, f'--layout={file}', f'--image={picture}', '--strength=0.5')
  with np.load(workdir / 'samples' / 'samples.npz') as saved:
    assert (saved['image'] == (255, 0, 0)).all()
  wrong = call_here(*asked, f'--image={picture}', '--strength=0.5', code=64)
  assert 'image needs layout' in wrong

  file.write_text('[{"label": "red cat", "box": [0.1, 0.1, 0.5, 0.5]}]')
  assert "'red cat' is not known" in call_here(
    *asked, f'--layout={file}', code=64
  )
  wrong = call_here(*asked, '--prompt=a red circle', code=64)
  assert "'layout', which takes layout" in wrong


@pytest.mark.slow
def test_bad_commands_say_one_line(workdir, call_here, tmp_path):
  def error(*args, code=64, call=call_here):
    last = call(*args, code=code).strip().splitlines()[-1]
    assert last.startswith('error: ')
    return last

  new = f'--workdir={tmp_path}/new'
  assert 'train.steps' in error(*CONFIG, new, '--config.train.stepz=3')
  assert 'layout' in error('--config=configs/frido_shapes.py:layuot', new)
  assert '36' in error(*CONFIG, new, '--config.data.image_size=36')
  assert not (tmp_path / 'new').exists()

  before = (workdir / 'config.json').read_text()
  changed = '--config.train.learning_rate=0.5'
  line = error(*CONFIG, f'--workdir={workdir}', changed, call=call)
  assert 'train.learning_rate' in line
  assert (workdir / 'config.json').read_text() == before

  empty = f'--workdir={tmp_path}/empty'
  assert 'config.json' in error('--mode=sample', empty, code=66)
