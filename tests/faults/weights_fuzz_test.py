"""Damaged weights and arrays: each reader raises its own error, or reads.

Damage is of the file, or, in archives, of one member under a checksum that is
right again. `-m faults` tries 2,000 copies of each, other runs a few.
"""

import io
import json
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import unfinished
from pyramid_jax.interop import diffusers_folder
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import code_uses
from pyramid_jax.metrics import inception_reference
from pyramid_jax.metrics import states
from pyramid_jax.pipeline import image_rows
from pyramid_jax.runs import array_parts
from pyramid_jax.runs import compact
from tests.helpers import diffusers_files
from tests.helpers import mutations
from tests.helpers import torch_writer
from tests.parity import verify


FEW, MANY = 60, 2_000
# Those that are slow, or that are several files of one format.
LESS = {'unfinished_totals': 300, 'unfinished_rows': 300, 'latents': 600}
RNG = np.random.default_rng(0)
WEIGHTS = {
  'a.weight': RNG.normal(size=(3, 4)).astype('f4'),
  'a.bias': RNG.normal(size=5).astype(ml_dtypes.bfloat16),
  'ids': np.arange(4),
}


def npz(save=np.savez, **arrays):
  stream = io.BytesIO()
  save(stream, **arrays)
  return stream.getvalue()


def read_weights(path):
  for array in weight_file.read(path).values():
    assert np.asarray(array).nbytes < 1 << 26


def torch(folder, write):
  state = {k: torch_writer.tensor(v) for k, v in WEIGHTS.items()}
  value = {'epoch': 3, 'state_dict': torch_writer.Ordered(state)}
  write(folder / 'whole', value)
  return (folder / 'whole').read_bytes(), read_weights


def torch_zip(folder):
  return torch(folder, torch_writer.write_zip)


def torch_packed(folder):
  return torch(
    folder,
    lambda *args: torch_writer.write_zip(
      *args, compression=zipfile.ZIP_DEFLATED
    ),
  )


def torch_legacy(folder):
  return torch(folder, torch_writer.write_legacy)


def safetensors(folder):
  safetensors_file.write(folder / 'whole', WEIGHTS, {'format': 'pt'})
  return (folder / 'whole').read_bytes(), read_weights


def index(folder):
  safetensors_file.write(folder / 'a.safetensors', WEIGHTS)
  safetensors_file.write(folder / 'b.safetensors', {'b': np.ones(3)})
  places = dict.fromkeys(WEIGHTS, 'a.safetensors') | {'b': 'b.safetensors'}
  text = json.dumps({'metadata': {'total_size': 9}, 'weight_map': places})

  def read(path):
    try:
      read_weights(path)
    except FileNotFoundError as error:  # another name of a file
      raise errors.UserError(str(error), errors.MISSING) from error

  return text.encode(), read


def npz_weights(folder):
  arrays = {**WEIGHTS, 'a.bias': WEIGHTS['a.bias'].astype('f2')}
  return npz(np.savez_compressed, **arrays), read_weights


def samples(folder):
  def read(path):
    images, conditions = image_sources.of_saved(path, 1)
    for places, _ in images.batches(2):
      for rows in conditions.values():
        rows[places[places < len(rows)]]

  images = RNG.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
  captions = np.array([b'a', b'bc', b'', b'd', b'e'])
  return npz(arr_0=images, prompt=captions), read


def samples_packed(folder):
  _, read = samples(folder)
  images = np.asfortranarray(RNG.integers(0, 256, (5, 4, 4, 3), np.uint8))
  return npz(np.savez_compressed, arr_0=images, label=np.arange(5)), read


def coarse_latent(folder):
  def read(path):
    for scale in image_rows.finished_scales(str(path)):
      np.asarray(scale[np.arange(len(scale))], np.float32)

  scales = {f'latent_{i}': np.ones((2, 2**i, 2**i, 3), 'f4') for i in range(2)}
  return npz(**scales), read


def reference(folder):
  images = np.zeros((2, 4, 4, 3), np.uint8)
  arrays = {
    'mu': np.zeros(3),
    'sigma': np.eye(3),
    'mu_s': np.zeros(2),
    'sigma_s': np.eye(2),
    'features': np.zeros((2, 3), 'f4'),
    'arr_0': images,
    'n': np.int64(2),
    'feature': np.str_(inception_reference.FEATURE),
    'resize': np.str_('tf1'),
  }
  return npz(**arrays), inception_reference.read


def reference_of_others(folder):
  arrays = {'mu': np.zeros(3), 'sigma': np.eye(3)}
  images = np.zeros((2, 4, 4, 3), np.uint8)
  return npz(**arrays, arr_0=images), inception_reference.read


def kept_index(folder):
  source = folder / 'annotations.json'
  source.write_text('{}')
  made = {'ids': np.arange(3), 'names': np.array([b'a', b'bc'])}
  cache = folder / 'cache'
  load = lambda: index_cache.of_files([source], {}, lambda: made, cache)
  load()
  (kept,) = cache.rglob('*.npz')
  whole = kept.read_bytes()

  def read(path):
    kept.write_bytes(path.read_bytes())
    found = load()
    assert found.keys() == made.keys()
    for name, array in made.items():
      np.testing.assert_array_equal(found[name], array)

  return whole, read


def latents(folder):
  """The manifest of a cache and its shard together."""
  config = config_lib.base('ldm')
  config.data.name, config.condition.task = 'latents', 'class'
  config.data.root = str(folder)
  manifest = {
    'format': latent_cache.FORMAT,
    'autoencoder': 'abc',
    'data': {**config.data.to_dict(), 'name': 'coco'},
    'fixed': latent_cache.fixed_fields(config),
    'label_names': ['', 'a'],
    'layout': {'label': ['int64', []], 'latent_mean_0': ['float16', [2, 2, 3]]},
    'count': 4,
    'shard_size': 4,
    'flips': False,
  }
  manifest = json.loads(json.dumps(manifest))
  arrays = {'latent_mean_0': np.ones((4, 2, 2, 3), 'f2'), 'label': np.arange(4)}
  latent_cache.shards(folder, manifest).write(0, arrays)

  def read(path):
    (folder / manifests.NAME).write_bytes(path.read_bytes())
    latent_cache.source(config)
    reader = latent_cache.LatentReader(config, 'train')
    if len(reader):
      indices = np.unique([0, len(reader) - 1])
      reader.batch(indices, np.zeros(len(indices), np.uint64))

  return json.dumps(manifest).encode(), read


def shard(folder):
  manifest, read = latents(folder)
  (folder / 'manifest').write_bytes(manifest)
  (file,) = folder.glob('*.records')

  def read_shard(path):
    file.write_bytes(path.read_bytes())
    read(folder / 'manifest')

  return file.read_bytes(), read_shard


class Grey:
  """The mean of images."""

  def of_images(self, batch):
    grey = batch.images.mean((1, 2, 3))
    return {'grey': bootstrap.mean_pairs(grey)}


class Images:
  """Batches of codes."""

  steps, size = 3, 2

  def batches(self, first):
    for step in range(first, self.steps):
      yield states.Batch(
        places=step * 2 + np.arange(2),
        images=np.full((2, 4, 4, 3), step, np.uint8),
        codes=[np.full((2, 2, 2), step)],
      )


def unfinished_totals(folder, pattern='totals_*.npz'):
  start = {
    'images': states.PerImage(measure=Grey()),
    'codes': code_uses.CodeUses.of_sizes([7]),
  }
  make = lambda: unfinished.Store(folder / 'run', {'count': 6})
  numbers = lambda found: [
    *found['codes'].counts,
    *found['images'].images.columns().values(),
  ]
  want = numbers(unfinished.accumulate(start, Images(), make()))
  found = {x: x.read_bytes() for x in (folder / 'run').rglob('*.npz')}
  target = max(x for x in found if x.match(pattern))

  def read(path):
    for file, content in found.items():
      file.write_bytes(content)
    target.write_bytes(path.read_bytes())
    got = unfinished.accumulate(start, Images(), make())
    for one, other in zip(numbers(got), want, strict=True):
      np.testing.assert_array_equal(one, other)

  return found[target], read


def unfinished_rows(folder):
  return unfinished_totals(folder, 'rows_*.npz')


def part(folder):
  parts = array_parts.ArrayParts(folder / 'parts')
  parts.add(
    {'image': np.ones((3, 2, 2, 3), np.uint8), 'text': np.array(['a'] * 3)}
  )
  (target,) = (folder / 'parts').iterdir()
  whole = target.read_bytes()

  def read(path):
    target.write_bytes(path.read_bytes())
    found = array_parts.ArrayParts(folder / 'parts')
    if found.count:
      found.write_npz(folder / 'x.npz', '')
      assert found.read(0, found.count)['image'].sum() == 36

  return whole, read


def weights_of_a_run(folder):
  import jax

  leaf = jax.ShapeDtypeStruct((3, 4), np.float32)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  leaf = jax.ShapeDtypeStruct((3, 4), np.float32, sharding=device)
  abstract = {'params': {'w': leaf}}
  file = folder / compact.FILE
  arrays = {'params/w': np.ones((3, 4), np.float16), 'step': np.int32(3)}
  safetensors_file.write(file, {k: np.asarray(v) for k, v in arrays.items()})
  whole = file.read_bytes()

  def read(path):
    file.write_bytes(path.read_bytes())
    compact.load(folder, abstract)

  return whole, read


def case(folder):
  meta = json.dumps({'family': 'x', 'config': {}, 'tolerance': 1e-5})
  arrays = {'meta': np.array(meta), 'state/w': np.ones(3), 'out/y': np.ones(2)}
  return npz(**arrays), verify.read_case


def diffusers(name):
  def make(folder):
    folder = diffusers_files.write(folder / 'diffusers', '1')
    file = folder / name
    whole = file.read_bytes()

    def read(path):
      file.write_bytes(path.read_bytes())
      diffusers_folder.config(folder)

    return whole, read

  return make


CASES = {
  'torch_zip': torch_zip,
  'torch_packed': torch_packed,
  'torch_legacy': torch_legacy,
  'safetensors': safetensors,
  'index': index,
  'npz_weights': npz_weights,
  'samples': samples,
  'samples_packed': samples_packed,
  'coarse_latent': coarse_latent,
  'reference': reference,
  'reference_of_others': reference_of_others,
  'kept_index': kept_index,
  'shard': shard,
  'latents': latents,
  'unfinished_totals': unfinished_totals,
  'unfinished_rows': unfinished_rows,
  'part': part,
  'weights_of_a_run': weights_of_a_run,
  'case': case,
  'model_index.json': diffusers('model_index.json'),
  'unet.json': diffusers('unet/config.json'),
  'vae.json': diffusers('vae/config.json'),
  'text_encoder.json': diffusers('text_encoder/config.json'),
  'scheduler.json': diffusers('scheduler/scheduler_config.json'),
  'tokenizer.json': diffusers('tokenizer/tokenizer_config.json'),
}
# A manifest and a config that differ may both be right.
CODES = {'latents': (errors.DATA, errors.MISSING, errors.USAGE)}
# What the program itself writes is kept by checksums alone.
OWN = ('kept_index', 'unfinished_totals', 'unfinished_rows', 'part')


def again(whole, number, raw):
  """Returns an archive of which one member is damaged, with checksums."""
  with zipfile.ZipFile(io.BytesIO(whole)) as archive:
    members = [(x, archive.read(x)) for x in archive.infolist()]
  stream, chosen = io.BytesIO(), number % len(members)
  copies = mutations.several(members[chosen][1], 1, seed=number)
  with zipfile.ZipFile(stream, 'w') as archive:
    for place, (info, content) in enumerate(members):
      if place == chosen:
        content = next(copies)[1]
      archive.writestr(info.filename, content, info.compress_type)
  return stream.getvalue()


def copies(name, whole, count):
  is_archive = whole[:2] == b'PK' and name not in OWN
  for number, raw in mutations.several(whole, count):
    is_member = is_archive and number % 2
    yield number, again(whole, number, raw) if is_member else raw


def tried(name, folder, count):
  whole, read = CASES[name](folder)
  target = folder / 'copy'
  target.write_bytes(whole)
  read(target)  # what is whole is read

  def reader(raw):
    target.write_bytes(raw)
    try:
      read(target)
    except errors.UserError as error:
      if error.code not in CODES.get(name, (errors.DATA, errors.MISSING)):
        raise AssertionError(f'{error.code}: {error}') from error
      raise

  found = mutations.tried(reader, copies(name, whole, count))
  sys.stdout.write(f'{name}: {found}\n')
  assert found.read + found.refused == count
  return found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 1)


@pytest.mark.parametrize('name', CASES)
def test_a_few(name, tmp_path):
  found = tried(name, tmp_path, FEW)
  assert found.refused or name in OWN


@pytest.mark.rounds
@pytest.mark.parametrize('name', CASES)
def test_many(name, tmp_path):
  count = 400 if name.endswith('.json') else MANY  # of diffusers, six files
  tried(name, tmp_path, LESS.get(name, count))
