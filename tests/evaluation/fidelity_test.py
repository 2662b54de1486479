"""FID and related scores from the command line's options to the table.

A network of one layer stands in for Inception: what it computes is tested
elsewhere, and here it would take minutes.
"""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.evaluation import fid_state
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import image_sources
from pyramid_jax.evaluation import protocols
from pyramid_jax.evaluation import split_examples
from pyramid_jax.evaluation import unfinished
from pyramid_jax.interop import parts
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import image_sets
from pyramid_jax.metrics import inception_score
from pyramid_jax.metrics import precision_recall
from pyramid_jax.metrics import states
from pyramid_jax.pipeline import rows as rows_lib
from tests.helpers import painter
from tests.helpers import pictures


COUNT = 21  # images: with 8 devices the last batch is filled up


@pytest.fixture
def weights(monkeypatch, tmp_path):
  return pictures.small_inception(monkeypatch, tmp_path)


draw, paint, score = pictures.draw, pictures.paint, pictures.score
make_config = pictures.make_config


def wanted(features, ours, real):
  a, b = features(ours), features(real)
  precision, recall = precision_recall.precision_recall(b.pool, a.pool)
  splits = inception_score.split_sums(a.logits_unbiased, np.arange(len(ours)))
  return {
    f'fid_tf1_{COUNT}': frechet.feature_distance(a.pool, b.pool),
    f'sfid_tf1_{COUNT}': frechet.feature_distance(a.spatial, b.spatial),
    f'inception_score_{COUNT}': inception_score.over_splits(splits).value,
    f'inception_score_fidelity_{COUNT}': inception_score.over_splits(
      inception_score.sums_of(
        a.logits_unbiased, inception_score.shuffled_splits(len(ours))
      )
    ).value,
    f'precision_{COUNT}': precision[0],
    f'recall_{COUNT}': recall[0],
  }


def unnamed(score):
  return {name: x for name, x in score.items() if name != 'reference'}


def agree(table, want):
  assert table.keys() - {fid_state.SELF} == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(
      table[name]['value'], value, rtol=1e-4, atol=1e-6, err_msg=name
    )


def test_folders_and_files_of_pictures(weights, tmp_path):
  path, features = weights
  ours, real = draw(COUNT, 1), draw(30, 2, side=12)
  want = wanted(features, ours, real)
  folder = paint(tmp_path / 'ours', ours)
  config = make_config(path, paint(tmp_path / 'real', real))
  table, about = score(config, folder, samples=str(folder))
  agree(table, want)
  assert fidelity.create(config).batch_size % jax.device_count() == 0
  assert table[f'fid_tf1_{COUNT}']['low'] is None
  assert abs(table[fid_state.SELF]['value']) < 1e-9
  assert table[f'recall_{COUNT}']['n'] == 30
  half = frechet.feature_distance(
    features(real[::2]).pool, features(real[1::2]).pool
  )
  ceiling = table[f'fid_tf1_{COUNT}']['ceiling']
  assert ceiling == pytest.approx(half, rel=1e-4)
  for text in (
    f'{folder}, {COUNT} images; FID and related scores by '
    'weights.safetensors (sha256',
    f'against {tmp_path}/real (30 images)',
    f'FID of as few as {COUNT} images is biased upwards',
    'sFID is unverified against ADM',
  ):
    assert text in about
  text = (folder / 'scores.md').read_text()
  assert f'| fid_tf1_{COUNT} | {want[f"fid_tf1_{COUNT}"]:.4g} | - |' in text

  (tmp_path / 'npz').mkdir()
  file = tmp_path / 'npz' / 'adm.npz'
  np.savez(file, arr_0=ours, arr_1=np.arange(COUNT))
  again, _ = score(config, tmp_path / 'npz', samples=str(file))
  assert again == table


def test_a_written_reference(weights, tmp_path):
  path, features = weights
  ours, real = draw(COUNT, 1), draw(30, 2)
  paint(tmp_path / 'real', real)
  file = tmp_path / 'real.npz'
  asked = {'samples': str(tmp_path / 'real'), 'write_reference': str(file)}
  evaluate.run(make_config(path), tmp_path, asked)
  with np.load(file, allow_pickle=False) as arrays:
    pool = features(real).pool
    np.testing.assert_allclose(arrays['mu'], pool.mean(0), rtol=1e-5)
    np.testing.assert_allclose(arrays['sigma'], np.cov(pool.T), rtol=1e-4)
    assert arrays['mu_s'].shape == (4,)
    assert arrays['sigma_s'].shape == (4, 4)
    np.testing.assert_array_equal(arrays['arr_0'], real)
    ours_only = {'features', 'n', 'source_sha256', 'feature', 'resize'}
    adm = {k: arrays[k] for k in arrays.files if k not in ours_only}

  folder = paint(tmp_path / 'ours', ours)
  table, about = score(make_config(path, file), folder, samples=str(folder))
  agree(table, wanted(features, ours, real))
  assert 'unverified' in about
  assert f'{file} (30 images, sha256 ' in about
  np.savez(tmp_path / 'adm.npz', **adm)
  config = make_config(path, tmp_path / 'adm.npz')
  same, about = score(config, folder, samples=str(folder))
  for of_file in (same, table):
    del of_file[fid_state.SELF]  # ADM does not say how many images there are
  assert list(map(unnamed, same.values())) == list(map(unnamed, table.values()))
  assert 'unverified' not in about
  assert '(unknown number of images, sha256 ' in about

  with pytest.raises(errors.UserError, match='must be a new file') as error:
    evaluate.run(make_config(path), tmp_path, asked)
  assert error.value.code == errors.OUTPUT


def test_the_real_images_of_a_split(weights, tmp_path):
  """Samples that are the split's own images are at no distance from it."""
  path, _ = weights
  root = tmp_path / 'data'
  root.mkdir()
  real = draw(COUNT, 2, side=16)
  paint(root / 'train', draw(COUNT, 3, side=16))
  paint(root / 'val', real)
  config = make_config(path, name='image_folder', root=str(root))
  np.savez(tmp_path / 'samples.npz', arr_0=real)
  asked = {'samples': str(tmp_path / 'samples.npz')}
  table, about = score(config, tmp_path, **asked)
  assert abs(table[f'fid_tf1_{COUNT}']['value']) < 1e-6
  assert f'against the real images of test ({COUNT} images)' in about
  other, about = score(config, tmp_path, **asked, split='train')
  assert other[f'fid_tf1_{COUNT}']['value'] > 1e-3
  assert 'the real images of train' in about


@pytest.fixture
def mesh(monkeypatch):
  """Makes every checkpoint one that paints negatives."""

  def negative(system, weights, keys, batch, *others):
    del system, weights, keys, others
    return -batch['image'], []

  return painter.install(monkeypatch, generate=negative).mesh


def test_a_checkpoint(weights, mesh, tmp_path):
  path, features = weights
  config = make_config(path, level=0)
  with config.unlocked():
    config.condition.task, config.evaluate.count = 'class', COUNT
  table, about = score(config, tmp_path)
  batches = image_sources.of_split(config, 'test', mesh).batches(5)
  real = np.concatenate([images for _, images in batches])
  want = wanted(features, 255 - real, real)
  agree({name: table.pop(name) for name in want}, want)
  assert table['class_acc']['ceiling'] > 0.9 > table['class_acc']['value']
  assert f'{tmp_path}, step 3, {COUNT} images of test; FID' in about
  assert f'against the real images of test ({COUNT} images)' in about


@pytest.mark.parametrize('saved', [False, True])
def test_what_was_killed_goes_on(weights, mesh, tmp_path, monkeypatch, saved):
  """Of a run, and of saved samples; with bounds, features and moments."""
  monkeypatch.setattr(unfinished, 'SHARE', float('inf'))
  config = make_config(weights[0], level=0)
  with config.unlocked():
    config.condition.task, config.evaluate.count = 'class', COUNT
  asked = {}
  if saved:
    np.savez(tmp_path / 'x.npz', arr_0=draw(COUNT, 1, side=16))
    asked = {'samples': str(tmp_path / 'x.npz')}
  want = score(config, tmp_path, **asked)
  update, count = fid_state.FidState.update, iter(range(100))

  def killed(self, batch):
    if next(count) == 3:
      raise KeyboardInterrupt
    return update(self, batch)

  with monkeypatch.context() as patch:
    patch.setattr(fid_state.FidState, 'update', killed)
    with pytest.raises(KeyboardInterrupt):
      score(config, tmp_path, **asked)
  assert len(list(tmp_path.rglob('totals_00000003.npz'))) == 1
  monkeypatch.setattr(fid_state.FidState, 'update', killed)
  assert score(config, tmp_path, **asked) == want
  assert next(count) == 6  # five batches, of which three were done
  assert not list(tmp_path.rglob('totals*'))


def test_states_of_parts_are_merged(weights):
  path, features = weights
  ours, real = draw(COUNT, 1), draw(COUNT, 2)
  start = fid_state.start(fidelity.create(make_config(path)), COUNT, 'x', COUNT)
  parts = []
  for places in np.array_split(np.arange(COUNT), 3):
    batch = states.Batch(
      places=places, images=ours[places], reference=real[places]
    )
    parts.append(start.update(batch))
  rows = parts[2].merge(parts[0]).merge(parts[1]).finish()
  agree(
    {row.name: {'value': row.score.value} for row in rows},
    wanted(features, ours, real),
  )


def test_one_image_is_too_few_before_any_is_made(weights, mesh, tmp_path):
  config = make_config(weights[0], level=0)
  with config.unlocked():
    config.condition.task, config.evaluate.count = 'class', 1
  text, code = _fails(config, tmp_path)
  assert text == 'FID needs at least 2 images, the samples are 1.'
  assert code == errors.DATA


def test_conditions_from_all_over_the_split(
  weights, mesh, tmp_path, monkeypatch
):
  """Statistics of whole sets are not met by the first classes alone."""
  root = tmp_path / 'data'
  root.mkdir()
  real = draw(30, 2, side=16)
  val = paint(root / 'val', real)
  paint(root / 'train', real[:1])
  made = []
  record = lambda images, *_: made.append(images) or images
  monkeypatch.setattr(rows_lib, 'composite', record)
  first = [image.tobytes() for image in 255 - real[:COUNT]]
  for reference in ('', val):
    config = make_config(weights[0], reference, name='image_folder')
    with config.unlocked():
      config.data.root, config.evaluate.count = str(root), COUNT
    made.clear()
    score(config, tmp_path)
    got = [image.tobytes() for image in np.concatenate(made)[:COUNT]]
    assert len(set(got)) == COUNT
    assert (got == first) == (not reference)


def test_without_weights(tmp_path, caplog):
  np.savez(tmp_path / 'x.npz', arr_0=draw(4, 1))
  config = make_config('', name='image_folder')
  with caplog.at_level(logging.WARNING):
    table, _ = score(config, tmp_path, samples=str(tmp_path / 'x.npz'))
  assert table == {}
  (line,) = [r.getMessage() for r in caplog.records if 'FID' in r.getMessage()]
  assert line.startswith('FID and related scores are unavailable: put pt_')
  assert line.endswith('at config.evaluate.inception; it is not set.')
  folder = paint(tmp_path / 'ours', draw(2, 1))
  with pytest.raises(errors.UserError) as error:
    score(config, folder, samples=str(folder))
  assert error.value.code == errors.MISSING
  assert 'has no samples.npz' in str(error.value)
  assert line in str(error.value)


def _fails(config, folder, **options):
  with pytest.raises(errors.UserError) as error:
    score(config, folder, **options)
  assert '\n' not in str(error.value)
  return str(error.value), error.value.code


def test_weights_that_are_not_those(weights, tmp_path):
  path, _ = weights
  asked = {'samples': str(paint(tmp_path / 'ours', draw(2, 1)))}
  text, code = _fails(make_config('no.pth'), tmp_path, **asked)
  assert code == errors.MISSING
  assert 'at config.evaluate.inception; no.pth is no file.' in text
  other = tmp_path / 'other.safetensors'
  parts.write('lpips', other, {'lin0': {'kernel': np.zeros((1, 1, 4, 1))}})
  text, code = _fails(make_config(other), tmp_path, **asked)
  assert code == errors.DATA
  assert text == f"{other} holds 'lpips', needed 'inception'"
  other.write_bytes(path.read_bytes()[:-9])
  text, code = _fails(make_config(other), tmp_path, **asked)
  assert code == errors.DATA
  assert str(other) in text


def test_references_that_are_none(weights, tmp_path):
  path, _ = weights
  asked = {'samples': str(paint(tmp_path / 'ours', draw(5, 1)))}

  def fails(reference):
    return _fails(make_config(path, reference), tmp_path, **asked)

  text, code = fails(tmp_path / 'no.npz')
  assert text == f'config.evaluate.reference is {tmp_path}/no.npz: not there.'
  assert code == errors.MISSING
  (tmp_path / 'empty').mkdir()
  text, code = fails(tmp_path / 'empty')
  assert code == errors.MISSING
  assert 'empty holds no images' in text
  file = tmp_path / 'stats.npz'
  np.savez(file, mu=np.zeros(7), sigma=np.eye(7))
  text, code = fails(file)
  assert code == errors.DATA
  assert text == f'{file}: mu is of 7 features, those of Inception are 6.'
  six = {'mu': np.zeros(6), 'sigma': np.eye(6)}
  np.savez(file, **six, mu_s=np.zeros(3), sigma_s=np.eye(3))
  assert 'mu_s is of 3 features, those of Inception are 4' in fails(file)[0]
  np.savez(file, **six, arr_0=np.zeros((4, 8, 8, 3)))
  text, code = fails(file)
  assert code == errors.DATA
  assert text.startswith(f'{file}: images must be')


def test_pictures_that_cannot_be_scored(weights, tmp_path):
  path, _ = weights
  file = tmp_path / 'stats.npz'
  np.savez(file, mu=np.zeros(6), sigma=np.eye(6))
  config = make_config(path, file)
  folder = paint(tmp_path / 'ours', draw(3, 1))
  asked = {'samples': str(folder)}
  (folder / '001.png').write_bytes(b'no picture')
  text, code = _fails(config, tmp_path, **asked)
  assert code == errors.DATA
  assert text.startswith(f'{folder}/001.png: not one of JPEG, PNG, WEBP')
  for name in ('001.png', '002.png'):
    (folder / name).unlink()
  text, code = _fails(config, tmp_path, **asked)
  assert code == errors.DATA
  assert 'at least 2' in text


def test_where_a_reference_cannot_be_written(weights, tmp_path):
  path, _ = weights
  for name in ('stats.txt', 'none/stats.npz'):
    text, code = _fails(
      make_config(path), tmp_path, write_reference=str(tmp_path / name)
    )
    assert code == errors.OUTPUT
    assert text.startswith(f'--write_reference={tmp_path}/{name}: must be')
  text, code = _fails(
    make_config(''), tmp_path, write_reference=str(tmp_path / 'a.npz')
  )
  assert code == errors.MISSING
  assert 'FID and related scores are unavailable' in text


def test_the_least_of_three_runs_against_the_training_set(
  weights, mesh, tmp_path, monkeypatch
):
  """By the protocol of EDM, made small; classes are drawn for each image."""
  path, features = weights
  small = dataclasses.replace(protocols.PROTOCOLS['edm'], count=7)
  monkeypatch.setitem(protocols.PROTOCOLS, 'edm', small)
  config = make_config(path, level=0)
  with config.unlocked():
    config.condition.task, config.evaluate.count = 'class', 7
    config.evaluate.protocol = 'edm'
  every = image_sources.of_split(config, 'train', mesh, 30)
  monkeypatch.setattr(image_sources, 'of_split', lambda *_, **__: every)
  real = np.concatenate([images for _, images in every.batches(5)])
  reader = data.create(config, 'test')
  examples = split_examples.SplitExamples(
    config, reader, mesh, 7, shuffle=True, protocol=small
  )
  assert (examples.count, examples.run_size, examples.distinct) == (21, 7, 7)
  classes, made = [], []
  for step in range(examples.steps):
    own, places = examples.own(step), examples.places(step)
    rows = examples.at(step)
    classes += rows.rows['class'][: len(own)].tolist()
    made += [255 - rows.real[: len(own)]]
    assert len(places) == len(own)
  assert classes[:7] != classes[7:14]
  table, about = score(config, tmp_path)
  made = np.concatenate(made).reshape(3, 7, 16, 16, 3)
  runs = [
    frechet.feature_distance(features(x).pool, features(real).pool)
    for x in made
  ]
  names = [f'fid_tf1_7_run{n}' for n in (1, 2, 3)]
  agree({n: table[n] for n in names}, dict(zip(names, runs, strict=True)))
  assert table['fid_tf1_7']['value'] == min(table[n]['value'] for n in names)
  assert '3 runs of 7 images of test; protocol edm (NVlabs/edm' in about
  label = table['fid_tf1_7']['reference']
  contents = image_sets.Contents.of_images(real).digest
  assert label == f'the real images of train (30 images), contents {contents}'
  assert table['class_acc']['ceiling'] is None
