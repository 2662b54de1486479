"""Files by name, from a cache that the tests make; nothing is downloaded."""

import hashlib
import json
import sys
import types

from huggingface_hub import constants
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.commands import convert
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.files import fetching
from pyramid_jax.files import known
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.metrics import inception
from pyramid_jax.networks import pretrained as pretrained_lib
from pyramid_jax.runs import pretrained


FIELD = 'config.condition.vocab_file'
COMMIT = 'a' * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """Returns a function that puts a file into an empty cache, offline."""
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)

  def put(repository, path, content, commit=COMMIT, ref='main'):
    base = tmp_path / 'hub' / f'models--{repository.replace("/", "--")}'
    blob = base / 'blobs' / hashlib.sha256(content).hexdigest()
    file = base / 'snapshots' / commit / path
    for folder in (blob.parent, file.parent, base / 'refs'):
      folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    file.symlink_to(blob)
    if ref:
      (base / 'refs' / ref).write_text(commit)
    return file

  return put


@pytest.fixture
def table(monkeypatch):
  """Returns a function that makes a well-known name."""

  def add(name, role, *entries):
    entry = {name: {role: entries}}
    monkeypatch.setattr(known, 'KNOWN', {**known.KNOWN, **entry})

  return add


def test_a_path_stays_and_the_home_folder_is_found(hub, tmp_path):
  assert files.local('some/vocab.txt', FIELD).parts == ('some', 'vocab.txt')
  assert files.local('~/vocab.txt', FIELD) == tmp_path / 'home' / 'vocab.txt'
  assert files.local_all('a.ckpt,b.ckpt', '--checkpoint') == [
    files.local('a.ckpt', ''),
    files.local('b.ckpt', ''),
  ]
  with_comma = tmp_path / 'a,b.ckpt'
  with_comma.touch()
  assert files.local_all(with_comma, '--checkpoint') == [with_comma]


def test_files_of_a_repository_come_from_the_cache(hub):
  top = hub('owner/name', 'vocab.txt', b'top')
  inner = hub('owner/name', 'a/b/vocab.txt', b'inner', 'b' * 40, 'v2')
  assert files.local('hf://owner/name/vocab.txt', FIELD) == top
  assert files.local('hf://owner/name/a/b/vocab.txt@v2', FIELD) == inner
  pinned = f'hf://owner/name/vocab.txt@{COMMIT}'
  assert files.local(pinned, FIELD).read_bytes() == b'top'


def test_an_index_brings_the_files_that_it_lists(hub):
  shard = 'te/model-00001-of-00001.safetensors'
  index = json.dumps({'weight_map': {'w': shard.removeprefix('te/')}})
  name = 'hf://owner/name/te/model.safetensors.index.json'
  path = hub('owner/name', 'te/model.safetensors.index.json', index.encode())
  with pytest.raises(errors.UserError, match=f'needs {shard} of owner/name'):
    files.local(name, 'config.condition.weights')
  hub('owner/name', shard, b'')
  assert files.local(name, 'config.condition.weights') == path
  odd = json.dumps({'weight_map': {'w': '../x.safetensors'}})
  hub('owner/odd', 'm.safetensors.index.json', odd.encode())
  with pytest.raises(errors.UserError, match='no safetensors file beside it'):
    files.local('hf://owner/odd/m.safetensors.index.json', 'weights')


@pytest.mark.parametrize('without', ['network', 'package'])
def test_what_cannot_be_fetched_is_one_line(
  hub, tmp_path, monkeypatch, without
):
  if without == 'package':
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  name = 'hf://owner/name/a/vocab.txt'
  with pytest.raises(errors.UserError) as caught:
    files.local(name, FIELD)
  line, place = str(caught.value), tmp_path / 'home/.cache/pyramid_jax/files'
  assert caught.value.code == errors.MISSING
  for part in (
    f'{FIELD} needs a/vocab.txt of owner/name',
    'https://huggingface.co/owner/name/resolve/main/a/vocab.txt',
    f'Put it at {place}/owner/name/a/vocab.txt, or give the path',
  ):
    assert part in line
  assert ('pip install "pyramid_jax[hub]"' in line) == (without == 'package')
  assert files.missing(name, FIELD) == line
  # What is put there serves without package and network.
  by_hand = place / 'owner/name/a/vocab.txt'
  by_hand.parent.mkdir(parents=True)
  by_hand.touch()
  assert files.local(name, FIELD) == by_hand
  assert not files.missing(name, FIELD)


@pytest.mark.parametrize(
  'name',
  [
    'hf://',
    'hf://owner',
    'hf://owner/name',
    'hf://owner/name/',
    'hf://owner/name/file@',
    'hf://owner/name/../../file',
    'hf:///name/file',
  ],
)
def test_malformed_names_are_refused(hub, name):
  with pytest.raises(errors.UserError, match='must be hf://OWNER/NAME/FILE'):
    files.local(name, FIELD)


def test_a_well_known_name_is_one_file_for_each_field(hub, table, tmp_path):
  vocab = known.File(repository='o/clip', path='vocab.json')
  merges = known.File(repository='o/clip', path='merges.txt')
  table('mini', 'vocabulary', vocab)
  known.KNOWN['mini']['merges'] = (merges,)
  for path in ('vocab.json', 'merges.txt'):
    hub('o/clip', path, path.encode())
  for field, want in (('vocab_file', vocab), ('merges_file', merges)):
    found = files.local('mini', f'config.condition.{field}')
    assert found.read_text() == want.path
  message = 'mini has vocabulary and merges, no weights'
  with pytest.raises(errors.UserError, match=message):
    files.local('mini', 'config.condition.weights')


def test_a_file_goes_before_a_well_known_name_and_a_folder_does_not(
  hub, table, tmp_path, monkeypatch
):
  table('mini', 'weights', known.File(repository='o/mini', path='w.bin'))
  cached = hub('o/mini', 'w.bin', b'w')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mini').mkdir()
  assert files.local('mini', 'weights') == cached
  (tmp_path / 'mini').rmdir()
  (tmp_path / 'mini').touch()
  assert str(files.local('mini', 'weights')) == 'mini'


def test_several_files_of_one_name(hub, table):
  parts = [known.File(repository='o/two', path=path) for path in 'ab']
  table('two', 'weights', *parts)
  made = [hub('o/two', path, path.encode()) for path in 'ab']
  assert files.local_all('two', 'config.loss.perceptual_weights') == made
  with pytest.raises(errors.UserError, match='two is 2 files, needed is one'):
    files.local('two', 'config.evaluate.inception')


def test_sizes_and_hashes_are_checked(hub, table):
  good = hashlib.sha256(b'good').hexdigest()
  name = 'hf://o/checked/w.bin'  # the table holds for files named so, too
  entry = {'repository': 'o/checked', 'path': 'w.bin', 'revision': COMMIT}
  table('checked', 'weights', known.File(**entry, size=4, sha256=good))
  path = hub('o/checked', 'w.bin', b'good')
  assert files.local('checked', 'weights') == path
  for bad, message in (
    (b'goods', 'has 5 bytes, needed 4'),
    (b'fake', f'has the SHA-256 .*, needed {good[:8]}'),
  ):
    path.resolve().write_bytes(bad)
    for asked in ('checked', name):
      with pytest.raises(errors.UserError, match=message) as caught:
        files.local(asked, 'config.condition.weights')
      assert caught.value.code == errors.DATA
      assert '\n' not in str(caught.value)
  path.resolve().write_bytes(b'good')
  assert files.local(name, 'weights') == path


def test_a_file_is_hashed_once(hub, table, monkeypatch):
  digest = hashlib.sha256(b'good').hexdigest()
  table('c', 'weights', known.File(repository='o/c', path='w', sha256=digest))
  hub('o/c', 'w', b'good')
  files.local('c', 'weights')
  monkeypatch.setattr(fetching.digests, 'sha256', None)
  files.local('c', 'weights')


def test_a_pinned_file_may_be_cached_as_the_newest(hub, table):
  entry = {'repository': 'o/p', 'path': 'w', 'revision': 'c' * 40}
  digest = hashlib.sha256(b'good').hexdigest()
  table('p', 'weights', known.File(**entry, sha256=digest))
  path = hub('o/p', 'w', b'good')
  assert files.local('p', 'weights') == path
  table('p', 'weights', known.File(**entry))  # nothing proves that it is equal
  with pytest.raises(errors.UserError, match='weights needs w of o/p'):
    files.local('p', 'weights')


def test_files_of_sites_are_downloaded_whole_or_not_at_all(
  hub, table, tmp_path, monkeypatch
):
  source = tmp_path / 'site' / 'w.bin'
  source.parent.mkdir()
  source.write_bytes(b'good')
  digest = hashlib.sha256(b'good').hexdigest()
  site = source.parent.as_uri()
  table('s', 'weights', known.File(site=site, path='w.bin', sha256=digest))
  place = known.folder() / 'w.bin'
  with pytest.raises(errors.UserError, match='OFFLINE is set. Put it at'):
    files.local('s', 'weights')
  monkeypatch.delenv('HF_HUB_OFFLINE')
  source.write_bytes(b'fake')
  with pytest.raises(errors.UserError, match='what came has the SHA-256'):
    files.local('s', 'weights')
  assert list(place.parent.glob('*w.bin*')) == []
  source.write_bytes(b'good')
  assert files.local('s', 'weights') == place
  source.unlink()
  assert files.local('s', 'weights').read_bytes() == b'good'


def test_missing_files_are_one_line_with_the_known_names(hub, tmp_path):
  (tmp_path / 'vocab.txt').touch()
  assert not files.missing(tmp_path / 'vocab.txt', FIELD)
  assert files.missing('brt', FIELD) == (
    f'brt ({FIELD}; known names: bert, clip_l, t5_xxl)'
  )
  assert files.missing('x/brt', FIELD, 'pieces') == f'x/brt ({FIELD}, pieces)'


def test_tokenizers_take_names(hub):
  hub('o/v', 'vocab.txt', b'[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n')
  name = 'hf://o/v/vocab.txt'
  assert tokenizers.load_word_piece(name, 8).tokens('a') == [2, 4, 3]
  condition = {'task': 'text', 'encoder': 'clip', 'vocab_file': name}
  merges = 'hf://o/v/merges.txt'
  config = ConfigDict({'condition': {**condition, 'merges_file': merges}})
  (line,) = tokenizers.missing_inputs(config)
  assert line.startswith('config.condition.merges_file needs merges.txt of o/v')


def test_weights_take_names(hub, table, tmp_path):
  values = np.arange(6, dtype=np.float32).reshape(3, 2)
  for name in ('embedding.weight', 'other'):
    safetensors_file.write(tmp_path / name, {name: values}, {})
    hub('o/w', name, (tmp_path / name).read_bytes())
  template = {'embedding': {'embedding': values}}
  for names in ('hf://o/w/embedding.weight', 'hf://o/w/other,two', 'two'):
    table(
      'two',
      'weights',
      known.File(repository='o/w', path='embedding.weight'),
      known.File(repository='o/w', path='other'),
    )
    params = parts.load_part('class_embedder', names, template)
    np.testing.assert_array_equal(params['embedding']['embedding'], values)
  with pytest.raises(errors.UserError, match='config.x needs absent of o/w'):
    parts.load_part('class_embedder', 'hf://o/w/absent', template, 'config.x')


def test_weights_are_asked_for_before_anything_is_built(hub):
  part = pretrained_lib.PretrainedPart(
    init=lambda key: {},
    family='class_embedder',
    path='hf://o/w/absent',
    field='condition.weights',
  )
  system = types.SimpleNamespace(pretrained_parts=lambda: {'encoder': part})
  (line,) = pretrained.missing(system, '')
  assert line.startswith('config.condition.weights needs absent of o/w')
  hub('o/w', 'absent', b'')
  assert pretrained.missing(system, '') == []


def test_inception_takes_a_name(hub, tmp_path):
  path = hub('o/i', 'inception.pth', b'')
  name, field = 'hf://o/i/inception.pth', 'config.evaluate.inception'
  assert inception.require_weights(name, field) == path
  with pytest.raises(errors.UserError, match='inception needs pt_inception-'):
    inception.require_weights('inception', field)


def test_convert_takes_names(hub, tmp_path, capsys):
  flags = ['--family=lpips', f'--workdir={tmp_path}/out']
  assert convert.main([*flags, '--checkpoint=lpips']) == errors.MISSING
  assert '--checkpoint needs vgg16-397923af.pth (' in capsys.readouterr().err
  hub('o/w', 'w', b'no weights')
  assert convert.main([*flags, '--checkpoint=hf://o/w/w']) == errors.DATA
  assert 'not a weight file' in capsys.readouterr().err


def test_the_table_is_well_formed():
  for name, entry in known.KNOWN.items():
    assert name.isidentifier()
    for file in (file for some in entry.values() for file in some):
      assert bool(file.repository) != bool(file.site)
      assert len(file.sha256) in (0, 64)
      assert file.sha256 == file.sha256.lower()
      assert len(file.revision) in (0, 40)
      assert file.address.startswith('https://')
