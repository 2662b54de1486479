import json

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import compact
from pyramid_jax.runs import workdir as workdir_lib
from tests.helpers import fake_run
from tests.runs import checkpoints_test


NAMES = ('padding', 'thing', 'other thing')


@pytest.fixture
def empty(tmp_path):
  """A workdir without checkpoints."""
  workdir_lib.write_record(tmp_path, fake_run.get_config(), NAMES)
  return tmp_path


@pytest.fixture
def saved(empty):
  """A workdir with a checkpoint."""
  mesh = checkpoints_test.make_mesh()
  state, _ = checkpoints_test.make_state(mesh, step=7)
  record = {workdir_lib.RECORDED_LABELS: list(NAMES)}
  store = checkpoints.Checkpoints(empty, 1, record=record)
  store.save(state, fake_run.get_config(), mesh, 0)
  store.close()
  return empty


def flips(file, count, seed=0):
  """Yields after each of some flips of a bit; the file is whole afterwards."""
  content = file.read_bytes()
  rng = np.random.default_rng(seed)
  for place in rng.choice(8 * len(content), count, replace=False):
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    file.write_bytes(flipped)
    yield
  file.write_bytes(content)


def test_round_trip(empty):
  assert workdir_lib.read_config(empty) == fake_run.get_config().lock()
  assert workdir_lib.read_labels(empty) == NAMES
  assert json.loads((empty / 'labels.json').read_text()) == list(NAMES)


def test_a_flipped_bit_of_the_config_changes_nothing(saved):
  want = workdir_lib.read_config(saved)
  for _ in flips(saved / 'config.json', 200):
    assert workdir_lib.read_config(saved) == want


def test_a_flipped_bit_without_a_checkpoint_is_found_or_harmless(empty):
  want, found = workdir_lib.read_config(empty), 0
  for _ in flips(empty / 'config.json', 200):
    try:
      assert workdir_lib.read_config(empty) == want
    except errors.UserError as error:
      found += error.code == errors.DATA
  assert found > 100


def test_a_flipped_bit_of_the_labels_changes_nothing(saved):
  for _ in flips(saved / 'labels.json', 100):
    assert workdir_lib.read_labels(saved) == NAMES
  for _ in flips(saved / 'config.json', 100):
    assert workdir_lib.read_labels(saved) == NAMES


def test_flipped_labels_without_a_checkpoint_are_refused(empty):
  for _ in flips(empty / 'labels.json', 50):
    with pytest.raises(errors.UserError, match='labels.json') as info:
      workdir_lib.read_labels(empty)
    assert info.value.code == errors.DATA


def test_an_edit_is_told_what_to_do(saved, caplog):
  file = saved / 'config.json'
  values = json.loads(file.read_text())
  values['train']['steps'] = 99
  file.write_text(json.dumps(values))
  assert workdir_lib.read_config(saved).train.steps == 4
  assert 'train.steps: 4 -> 99' in caplog.text
  assert 'on the command line' in caplog.text
  del values['sha256']
  file.write_text(json.dumps(values))
  assert workdir_lib.read_config(saved).train.steps == 99


def test_the_layout_of_the_text_does_not_matter(empty):
  file = empty / 'config.json'
  values = json.loads(file.read_text())
  file.write_text(json.dumps(dict(reversed(values.items()))))
  assert workdir_lib.read_config(empty) == fake_run.get_config().lock()


@pytest.mark.parametrize('text', ['', '{', '[]', '\0' * 100])
def test_garbage(saved, text):
  (saved / 'config.json').write_text(text)
  assert workdir_lib.read_config(saved) == fake_run.get_config().lock()
  (saved / 'labels.json').write_text(text)
  if text != '[]':  # of no sum, as that of the garbage is gone
    assert workdir_lib.read_labels(saved) == NAMES


def test_files_of_older_versions_are_read(empty):
  config = fake_run.get_config()
  (empty / 'config.json').write_text(config_lib.to_json(config))
  assert workdir_lib.read_config(empty) == config.lock()
  (empty / 'labels.json').write_text('["a"]')
  assert workdir_lib.read_labels(empty) == ('a',)


def test_a_changed_file_of_weights_is_refused(empty):
  (empty / compact.FILE).write_bytes(b'x' * 100)
  workdir_lib.write_record(empty, fake_run.get_config(), NAMES, [compact.FILE])
  (empty / compact.FILE).write_bytes(b'x' * 99 + b'y')
  with pytest.raises(errors.UserError, match='was changed since') as info:
    compact.load(empty, {})
  assert info.value.code == errors.DATA


def test_the_model_of_the_package_has_sums():
  folder = compact.model('shapes')
  values = json.loads((folder / 'config.json').read_text())
  assert values['sha256'].keys() == {
    'config.json',
    'labels.json',
    'weights.safetensors',
  }
