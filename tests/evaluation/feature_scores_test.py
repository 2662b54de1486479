"""CLIP score, CMMD, FD-DINOv2 and VGG's precision, by small networks.

Their features are those of the networks (tests/interop/feature_networks_test);
the scores are compared with independent forms of their definitions.
"""

import functools
import json

import jax
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.evaluation import clip_score
from pyramid_jax.evaluation import feature_networks
from pyramid_jax.evaluation import feature_state
from pyramid_jax.evaluation import merging
from pyramid_jax.metrics import states
from pyramid_jax.networks import vgg
from pyramid_jax.networks import vision_transformer
from tests.helpers import configs
from tests.helpers import feature_files
from tests.helpers import painter


COUNT = 13
SMALL = {'patch': 7, 'grid': 4, 'dim': 128, 'depth': 2}
WORDS = ('a', 'cat', 'dog', 'photo', 'depicts')


def make_config(**fields):
  values = {'evaluate.batch_size': 5, 'data.image_size': 16}
  values |= {name.replace('__', '.'): x for name, x in fields.items()}
  return configs.change(config_lib.base('ldm'), values).lock()


@pytest.fixture
def files(monkeypatch, tmp_path):
  """The fields of the config with files of small networks."""
  monkeypatch.setattr(vision_transformer, 'CLIPS', {'l14_336': SMALL})
  dino = {'patch': 14, 'grid': 5, 'dim': 128, 'depth': 2}
  monkeypatch.setattr(vision_transformer, 'DINOS', {'l14': dino})
  monkeypatch.setattr(feature_networks, 'DINO_SIDE', 42)
  feature_files.narrow_vgg(monkeypatch)
  monkeypatch.setattr(vgg, 'SIDE', 64)
  small = functools.partial(vgg.VGG16, features=24)
  monkeypatch.setattr(vgg, 'VGG16', small)
  write = lambda name, shapes: str(
    feature_files.write(tmp_path / f'{name}.safetensors', shapes)
  )
  letters = sorted(set(''.join(WORDS)))
  pieces = [*letters, *(f'{x}</w>' for x in letters)]
  pieces = [*pieces[:38], '<|startoftext|>', '<|endoftext|>']
  vocab, merges = tmp_path / 'vocab.json', tmp_path / 'merges.txt'
  vocab.write_text(json.dumps({x: i for i, x in enumerate(pieces)}))
  merges.write_text('#version: 0.2\n')
  clip = write('clip', feature_files.openai_shapes())
  return {
    'evaluate__clip': clip,
    'evaluate__clip_tokenizer': f'{vocab},{merges}',
    'evaluate__cmmd': clip,
    'evaluate__dinov2': write('dinov2', feature_files.dino_shapes('mlp')),
    'evaluate__vgg16': write('vgg16', feature_files.vgg_shapes()),
  }


def draw(count, seed, side=20):
  rng = np.random.default_rng(seed)
  shades = rng.integers(0, 200, (count, 1, 1, 3))
  return (shades + rng.integers(0, 56, (count, side, side, 3))).astype(np.uint8)


def frechet_distance(x, y):
  """By the nuclear norm of the centred rows: fewer than they have columns."""
  a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
  cross = np.linalg.norm(a @ b.T, 'nuc')
  spread = np.square(a).sum() + np.square(b).sum()
  return np.square(x.mean(0) - y.mean(0)).sum() + spread - 2 * cross


def discrepancy(x, y):
  mean = lambda a, b: np.mean(
    np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 200)
  )
  return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def precision(x, y):
  """The share of y in a ball of x."""
  apart = lambda a, b: np.square(a[:, None] - b[None]).sum(-1)
  reach = np.sort(apart(x, x), 1)[:, 3]
  return (apart(y, x) <= reach).any(1).mean()


def wanted(network, ours, real):
  a, b = (np.float64(network.extractor(x)) for x in (ours, real))
  return {
    'CMMD': lambda: {'cmmd': discrepancy(a, b)},
    'FD-DINOv2': lambda: {'fd_dinov2_l14': frechet_distance(a, b)},
    'VGG precision and recall': lambda: {
      'vgg_precision': precision(b, a),
      'vgg_recall': precision(a, b),
    },
  }[network.kind.title]()


def test_scores_of_batches_in_any_order(files):
  """Merged, and read back from disk; the last batches are smaller."""
  ours, real = draw(COUNT, 1), draw(COUNT, 2)
  networks = feature_networks.find(make_config(**files))
  assert [x.kind.field for x in networks] == ['cmmd', 'dinov2', 'vgg16']
  for network in networks:
    start = feature_state.start(network, COUNT, 'val')
    values = []
    for cuts in ([], [1, 6], [7]):
      state = {'x': start}
      pieces = np.split(np.arange(COUNT), cuts)
      for rows in reversed(pieces):
        # As many real images as come with the first examples.
        batch = states.Batch(
          places=rows, images=ours[rows], reference=real[rows]
        )
        new = {'x': start.update(batch)}
        saved = merging.restored(
          {'x': start}, [merging.columns_of(new)], merging.totals_of(new)
        )
        state = {'x': state['x'].merge(saved['x'])}
      rows = state['x'].finish()
      values.append({row.name: row.score.value for row in rows})
      assert rows[0].reference.startswith('val, contents ')
    want = wanted(network, ours, real)
    assert values[0].keys() == {f'{name}_{COUNT}' for name in want}
    for found in values:
      for name, value in want.items():
        np.testing.assert_allclose(
          found[f'{name}_{COUNT}'], value, rtol=1e-6, err_msg=name
        )
    half = wanted(network, real[::2], real[1::2])
    if network.kind.field != 'vgg16':
      ceiling = rows[0].ceiling.value
      np.testing.assert_allclose(ceiling, *half.values(), rtol=1e-6)


def test_several_runs_and_images_without_features(files):
  network = feature_networks.find(make_config(**files))[1]
  ours, real = draw(2 * COUNT, 1), draw(COUNT, 2)
  start = feature_state.start(network, COUNT, 'val', runs=2)
  for rows in np.array_split(np.arange(2 * COUNT), 3):
    fresh = rows[rows < COUNT]
    start = start.update(
      states.Batch(places=rows, images=ours[rows], reference=real[fresh])
    )
  found = {row.name: row.score.value for row in start.finish()}
  values = [
    wanted(network, x, real)['fd_dinov2_l14'] for x in np.split(ours, 2)
  ]
  name = f'fd_dinov2_l14_{COUNT}'
  runs = [found[f'{name}_run{n}'] for n in (1, 2)]
  np.testing.assert_allclose(runs, values, rtol=1e-6)
  assert found[name] == min(runs)


def test_clip_score_of_images_captions_and_others(files):
  measure = clip_score.find(make_config(**files))
  images, real = draw(5, 1), draw(5, 2)
  captions = np.array([b'a cat', b'a dog', b'a photo', b'cat dog', b''])
  batch = states.Batch(
    places=np.arange(5),
    images=images,
    examples={'caption': captions},
    real=real[:3],
    others={'caption': captions[[1, 2, 0]]},
  )
  state = states.PerImage(measure=measure).update(batch)
  rows = {row.name: row for row in state.finish()}
  assert rows.keys() == {'clip_score_l14_336_5', 'clip_score_hessel_l14_336_5'}

  def mean(factor, pixels, texts):
    a, b = measure.embed_images(pixels), measure.embed_texts(texts)
    cosines = [np.dot(x, y) for x, y in zip(a, b, strict=True)]
    assert np.ptp(cosines) > 1e-3
    return factor * np.mean([max(x, 0) for x in cosines])

  texts = [x.decode() for x in captions]
  row = rows['clip_score_l14_336_5']
  for got, want in (
    (row.score, mean(100, images, texts)),
    (row.ceiling, mean(100, real[:3], texts[:3])),
    (row.floor, mean(100, real[:3], [texts[i] for i in (1, 2, 0)])),
    (
      rows['clip_score_hessel_l14_336_5'].score,
      mean(2.5, images, [f'A photo depicts {text}' for text in texts]),
    ),
  ):
    np.testing.assert_allclose(got.value, want, rtol=1e-6)


def score(config, folder, **options):
  evaluate.run(config, folder, options)
  saved = json.loads((folder / 'scores.json').read_text())
  return saved['scores'], saved['about']


def test_saved_samples_beside_a_folder(files, tmp_path):
  ours, real = draw(COUNT, 1), draw(15, 2)

  folder = tmp_path / 'real'
  folder.mkdir()
  for i, image in enumerate(real):
    Image.fromarray(image).save(folder / f'{i:02d}.png')
  captions = np.array([b'a cat', b'a dog'])[np.arange(COUNT) % 2]
  np.savez(tmp_path / 'x.npz', arr_0=ours, caption=captions)
  config = make_config(
    **files,
    evaluate__reference=str(folder),
    condition__task='text',
    data__name='coco',
  )
  table, about = score(config, tmp_path, samples=str(tmp_path / 'x.npz'))
  want = {}
  for network in feature_networks.find(config):
    want |= wanted(network, ours, real)
  for name, value in want.items():
    np.testing.assert_allclose(
      table[f'{name}_{COUNT}']['value'], value, rtol=1e-6
    )
  assert table[f'clip_score_l14_336_{COUNT}']['n'] == COUNT
  assert 'FD-DINOv2 by dinov2.safetensors (sha256 ' in about
  assert f'against {folder} (15 images)' in about
  assert 'CLIP score by clip.safetensors (sha256 ' in about


def test_a_run_whose_samples_are_the_real_images(files, tmp_path, monkeypatch):
  paint = lambda system, weights, keys, batch, *_: (batch['image'], [])
  painter.install(monkeypatch, generate=paint)
  config = make_config(
    evaluate__dinov2=files['evaluate__dinov2'],
    evaluate__clip=files['evaluate__clip'],
    evaluate__clip_tokenizer=files['evaluate__clip_tokenizer'],
    evaluate__count=COUNT,
    condition__task='text',
    condition__encoder='tokens',
    data__level=0,
  )
  (tmp_path / 'samples').mkdir()
  evaluate.run(config, tmp_path, {})
  table = json.loads((tmp_path / 'samples' / 'scores.json').read_text())
  scores = table['scores']
  assert scores[f'fd_dinov2_l14_{COUNT}']['value'] < 1e-6
  clip = scores[f'clip_score_l14_336_{COUNT}']
  np.testing.assert_allclose(clip['value'], clip['ceiling'], rtol=1e-6)
  assert clip['floor'] is not None
  assert 'the real images of test (13 images)' in table['about']


def test_missing_and_other_weights(files, tmp_path, caplog):
  caplog.set_level('INFO')
  assert feature_networks.find(make_config()) == []
  for line in (
    'CMMD is unavailable: put ViT-L-14-336px.pt of openai/CLIP or',
    'FD-DINOv2 is unavailable: put dinov2_vitl14_pretrain.pth at'
    ' config.evaluate.dinov2; it is not set.',
    'VGG precision and recall is unavailable: put vgg16-397923af.pth',
  ):
    assert line in caplog.text

  def found(**fields):
    config = make_config(**fields)
    return feature_networks.find(config), clip_score.find(config)

  def fails(**fields):
    with pytest.raises(errors.UserError) as error:
      found(**fields)
    return str(error.value), error.value.code

  text, code = fails(evaluate__dinov2=str(tmp_path / 'no.pth'))
  assert code == errors.MISSING
  assert text.endswith(
    'at config.evaluate.dinov2; ' + f'{tmp_path}/no.pth is no file.'
  )
  text, code = fails(evaluate__cmmd=files['evaluate__dinov2'])
  assert (text.startswith('no vision transformer of CLIP'), code) == (
    True,
    errors.DATA,
  )
  text, code = fails(evaluate__clip=files['evaluate__clip'])
  assert code == errors.MISSING
  assert 'at config.evaluate.clip_tokenizer; it is not set.' in text
  text, code = fails(
    evaluate__clip=files['evaluate__clip'], evaluate__clip_tokenizer='no.json'
  )
  assert code == errors.DATA
  assert text.startswith(
    'cannot read no.json of config.evaluate.clip_tokenizer'
  )


def test_other_sizes_of_clip_are_no_cmmd(files, monkeypatch):
  monkeypatch.setattr(vision_transformer, 'CLIPS', {'b32': SMALL})
  with pytest.raises(errors.UserError, match='is b32 of CLIP, CMMD is by'):
    feature_networks.find(make_config(evaluate__cmmd=files['evaluate__cmmd']))


def test_the_devices_divide_images(files):
  network = feature_networks.find(
    make_config(evaluate__dinov2=files['evaluate__dinov2'])
  )[0]
  images = draw(11, 3)
  one = network.extractor(images)
  again = np.concatenate(
    [network.extractor(images[i : i + 1]) for i in range(11)]
  )
  np.testing.assert_allclose(one, again, atol=1e-5)
  assert jax.device_count() > 1
