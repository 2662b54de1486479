"""Damaged images, sketches, texts and lists: each reader's own error, quickly.

A reader takes a file, or a folder with one damaged file; what it returns goes
on to what makes arrays of it. `FORMATS` has all of them.
"""

import contextlib
import functools
import io
import json
import pathlib

import numpy as np
from PIL import Image
from PIL import ImageDraw
import pytest

import pyramid_jax
from pyramid_jax.conditioning import request
from pyramid_jax.conditioning import sketches
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.config import checks
from pyramid_jax.config import sums
from pyramid_jax.data import category_lists
from pyramid_jax.data.objects import object_index
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import coco
from pyramid_jax.data.readers import image_folder
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.data.readers import tfds
from pyramid_jax.files import fetching
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.runs import sample_files
from pyramid_jax.runs import workdir
from pyramid_jax.runs import writers
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import fuzzed


ERRORS = (images.BrokenImage, ValueError)  # UserError is a ValueError
NAMES = ('', 'red circle', 'blue square', 'green cross')
SHIPPED = pathlib.Path(pyramid_jax.__file__).parent / 'models/shapes'
SEVERAL, ROUNDS = 60, 2000


def scene() -> Image.Image:
  """Lines on paper, with a few colours."""
  image = Image.new('RGB', (40, 30), 'white')
  draw = ImageDraw.Draw(image)
  draw.ellipse((5, 5, 25, 25), outline='black', width=2)
  draw.line((0, 29, 39, 0), fill='red')
  return image


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
  data = io.BytesIO()
  (image or scene()).save(data, kind, **options)
  return data.getvalue()


def read_image(path: pathlib.Path) -> None:
  with contextlib.suppress(*ERRORS):
    images.size(path)
  images.read(path, upright=True)


def read_mask(path: pathlib.Path) -> None:
  given_images.mask(path, 'mask')


def read_map(path: pathlib.Path) -> None:
  given_images.class_map(path, 'map')


def read_sketch(path: pathlib.Path) -> None:
  pixels = given_images.sketch(path, 'sketch')
  sketches.from_image(pixels, 16)


def exif() -> Image.Exif:
  found = Image.Exif()
  found[0x0112] = 6
  return found


SVG = b"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="4cm" viewBox="0 0 100 90">
<style>.a, g > #b:first-child { fill: none; stroke: #123 !important }</style>
<defs><linearGradient id="l"><stop offset="5%" stop-color="red"/>
</linearGradient><clipPath id="c"><circle cx="50" cy="50" r="40"/></clipPath>
</defs><g transform="rotate(30 50 50) scale(.9, 1)" clip-path="url(#c)">
<path id="b" d="M1 2L30,40 h-4v9c1 2 3 4 5 6s7 8 9 1q1 2 3 4t5 6
A5 6 30 0 1 9 9z"
 stroke-width="2mm" style="stroke: rgb(1, 2, 3); opacity: 50%"/>
<rect class="a" x="1" y="2" width="30%" height="9" rx="2"/>
<polyline points="1,2 3,4 5 6" fill="url(#l)" stroke-dasharray="1 2"/>
<use href="#b" x="5"/></g></svg>"""
LAYOUT = json.dumps(
  [
    [
      {'label': 'red circle', 'box': [0.1, 0.2, 0.5, 1]},
      {'label': 'blue square', 'box': [0, 0, 1, 0.25]},
    ],
    [['green cross', [0.5, 0.5, 0.75, 1.0]]],
  ]
).encode()
GRAPH = b'red circle A, left of, blue square; red circle B, above, green cross'


def task_of(name: str):
  """Returns a reader of a condition, through the request."""

  def read(path: pathlib.Path) -> None:
    config = configs.of_task(name)
    value = str(path)
    if name != 'layout':
      value = path.read_bytes().decode(errors='replace')
    key = conditions.INPUTS[name][0]
    if not value.strip():
      value = 'x'
    given = request_lib.Request(**{key: value})
    conditions.of_task(name, given, config, NAMES)

  return read


def coco_whole() -> bytes:
  document = {
    'images': [coco_files.image(9), coco_files.image(10, 4, 8)],
    'annotations': [
      coco_files.thing(9, 1, [2, 1, 2, 2]),
      coco_files.thing(10, 10, [0, 0, 4, 8]),
      coco_files.thing(9, 2, [5, 0, 3, 4], coco_files.CROWD),
      coco_files.thing(10, 2, [1, 0, 3, 4], coco_files.STUFF_MASK),
    ],
    'categories': coco_files.THINGS,
  }
  return json.dumps(document).encode()


def read_coco(path: pathlib.Path) -> None:
  root = path.parent
  target = root / 'coco/2017/annotations/instances_val2017.json'
  target.write_bytes(path.read_bytes())
  config = coco_files.make_config(root, 'scene_graph')
  reader = coco.CocoReader(config, 'val')
  draws = np.array([3], np.uint64)
  reader.batch(np.array([0]), draws)


def read_captions(path: pathlib.Path) -> None:
  with contextlib.suppress(*ERRORS):
    image_folder.load_cameras(path)
  for _, entry in list(image_folder.load_entries(path).values())[:9]:
    request.from_text([entry['caption']], tokenizers.words(('a', 'cat'), 8))


CAPTIONS = b'\n'.join(
  json.dumps(entry, ensure_ascii=False).encode()
  for entry in (
    {'file': 'a/1.jpg', 'caption': 'a cat\u2028', 'pitch': 'level'},
    {'file': 'b.png', 'caption': 'zwei Hunde \U0001f600', 'depth_of_field': ''},
    {'file': 'c.png', 'caption': ''},
  )
)
PIECES = '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nman\nrid\n##ing\n##e\nride\n.\n!\n'
LETTERS = ['c', 'a', 't</w>', 'a</w>', 'ca', 'cat</w>', 'aa', 'aaa</w>']
VOCABULARY = {
  token: i
  for i, token in enumerate([*LETTERS, '<|startoftext|>', '<|endoftext|>'])
}
MERGES = '#version: 0.2\nc a\nca t</w>\na a\naa a</w>\n'
TEXTS = ('', 'a cat, riding 2 ca', 'x' * 40, '\u2028\x00\U0001f600')


def use(tokenizer: tokenizers.Tokenizer) -> None:
  for text in TEXTS:
    ids = tokenizer.encode(text)
    assert ids.shape == (8,)
    tokenizer.rest(text)


def read_pieces(path: pathlib.Path) -> None:
  use(tokenizers.load_word_piece(str(path), 8))


def read_vocabulary(path: pathlib.Path) -> None:
  use(tokenizers.load_clip(str(path), str(path.with_name('merges')), 8))


def read_merges(path: pathlib.Path) -> None:
  use(tokenizers.load_clip(str(path.with_name('vocab')), str(path), 8))


def read_clip_tokenizer(path: pathlib.Path) -> None:
  use(tokenizers.load_clip(str(path), str(path), 8))


def read_t5(path: pathlib.Path) -> None:
  use(tokenizers.load_t5(str(path), 8))


def write_clip(folder: pathlib.Path) -> None:
  (folder / 'vocab').write_text(json.dumps(VOCABULARY))
  (folder / 'merges').write_text(MERGES)


@functools.cache
def t5() -> bytes:
  import tokenizers as library

  pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', -1.0)]
  pieces += [('\u2581', -2.0), ('a', -3.0), ('c', -4.0), ('cat', -5.0)]
  made = library.Tokenizer(library.models.Unigram(pieces, unk_id=2))
  made.normalizer = library.normalizers.Replace(library.Regex(' {2,}'), ' ')
  made.pre_tokenizer = library.pre_tokenizers.Metaspace()
  made.post_processor = library.processors.TemplateProcessing(
    single='$A </s>', special_tokens=[('</s>', 1)]
  )
  made.add_special_tokens(['<pad>', '</s>'])
  return made.to_str().encode()


def read_config(path: pathlib.Path) -> None:
  checks.validate(workdir.read_config(path.parent))


def read_labels(path: pathlib.Path) -> None:
  workdir.read_labels(path.parent)


def read_manifest(path: pathlib.Path) -> None:
  config = latents_config(path.parent)
  latent_cache.source(config)
  latent_cache.LatentReader(config, 'train')


def latents_config(folder: pathlib.Path):
  config = configs.of_task('text').copy_and_resolve_references()
  config.data.name, config.data.root = 'latents', str(folder)
  return config


def manifest() -> bytes:
  config = latents_config(pathlib.Path('/'))
  values = {
    'format': latent_cache.FORMAT,
    'autoencoder': 'abc',
    'data': {**config.data.to_dict(), 'name': 'shapes'},
    'fixed': latent_cache.fixed_fields(config),
    'label_names': ['', 'a', 'b'],
    'layout': {'latent_mean_0': ['float16', [8, 8, 4]]},
    'count': 0,
    'shard_size': 3,
    'flips': False,
  }
  return json.dumps(values).encode()


def read_dataset_info(path: pathlib.Path) -> None:
  with contextlib.suppress(ImportError):
    tfds.check_info(path.parent)


def read_record(path: pathlib.Path) -> None:
  sample_files._read(path)
  writers.truncate(path, 3)
  for copy in path.parent.glob('*.bad*'):
    copy.unlink()


RECORD = b''.join(
  json.dumps({'step': i, 'loss': 0.5, 'x': None}).encode() + b'\n'
  for i in range(5)
)
# By the name of the damaged file.
FORMATS = {
  'image.png': fuzzed.Format(encoded('PNG', optimize=True), read_image),
  'image.jpg': fuzzed.Format(
    encoded('JPEG', quality=70, exif=exif()), read_image
  ),
  'progressive.jpg': fuzzed.Format(
    encoded('JPEG', progressive=True), read_image
  ),
  'image.webp': fuzzed.Format(encoded('WEBP', exif=exif()), read_image),
  'image.gif': fuzzed.Format(
    encoded('GIF', save_all=True, append_images=[scene().rotate(9)]), read_image
  ),
  'image.tif': fuzzed.Format(
    encoded('TIFF', compression='tiff_lzw'), read_image
  ),
  'image.bmp': fuzzed.Format(encoded('BMP'), read_image),
  'image.ppm': fuzzed.Format(encoded('PPM'), read_image),
  'image.avif': fuzzed.Format(encoded('AVIF'), read_image),
  'image.jp2': fuzzed.Format(encoded('JPEG2000'), read_image),
  'mask.png': fuzzed.Format(encoded('PNG', scene().convert('LA')), read_mask),
  'mask.webp': fuzzed.Format(encoded('WEBP', scene().convert('L')), read_mask),
  'map.png': fuzzed.Format(encoded('PNG', scene().quantize(9)), read_map),
  'sketch.png': fuzzed.Format(encoded('PNG'), read_sketch),
  'sketch.jpg': fuzzed.Format(encoded('JPEG'), read_sketch),
  'sketch.webp': fuzzed.Format(encoded('WEBP', lossless=True), read_sketch),
  'sketch.svg': fuzzed.Format(SVG, read_sketch),
  'layout.json': fuzzed.Format(LAYOUT, task_of('layout')),
  'graph.txt': fuzzed.Format(GRAPH, task_of('scene_graph')),
  'labels.txt': fuzzed.Format(b'red circle, blue square', task_of('label')),
  'class.txt': fuzzed.Format(b'1, 3, red circle', task_of('class')),
  'prompt.txt': fuzzed.Format(
    b'a red circle left of a blue square', task_of('text')
  ),
  'coco.json': fuzzed.Format(coco_whole(), read_coco, coco_files.write_all),
  'captions.jsonl': fuzzed.Format(CAPTIONS, read_captions),
  'ids.txt': fuzzed.Format(
    b'000000000025\n000000000009\n', object_index.load_ids
  ),
  'list.csv': fuzzed.Format(
    b'1,person\n2,"dog, big"\n/m/01,kite\n', category_lists.read
  ),
  'vocab.txt': fuzzed.Format(PIECES.encode(), read_pieces),
  'vocab.json': fuzzed.Format(
    json.dumps(VOCABULARY).encode(), read_vocabulary, write_clip
  ),
  'merges.txt': fuzzed.Format(MERGES.encode(), read_merges, write_clip),
  'clip/tokenizer.json': fuzzed.Format(
    json.dumps(
      {
        'version': '1.0',
        'model': {'vocab': VOCABULARY, 'merges': ['c a', ['ca', 't</w>']]},
      }
    ).encode(),
    read_clip_tokenizer,
  ),
  't5/tokenizer.json': fuzzed.Format(t5(), read_t5),
  'config.json': fuzzed.Format(
    (SHIPPED / 'config.json').read_bytes(), read_config
  ),
  'old/config.json': fuzzed.Format(  # of a time without sums
    json.dumps(sums.without((SHIPPED / 'config.json').read_text())).encode(),
    read_config,
  ),
  'labels.json': fuzzed.Format(
    (SHIPPED / 'labels.json').read_bytes(), read_labels
  ),
  'manifest.json': fuzzed.Format(manifest(), read_manifest),
  'dataset_info.json': fuzzed.Format(
    b'{"name": "tiny", "fileFormat": "array_record", "splits": [{"a": 1}]}',
    read_dataset_info,
  ),
  'metrics.jsonl': fuzzed.Format(RECORD, read_record),
  'x.safetensors.index.json': fuzzed.Format(
    b'{"metadata": {"n": 1}, "weight_map": {"a": "x.safetensors"}}',
    lambda path: fetching._shards(path, 'what'),
  ),
}


@pytest.mark.parametrize('name', FORMATS)
def test_damaged_files(tmp_path, name):
  count = fuzzed.tried(FORMATS[name], tmp_path / name, SEVERAL, ERRORS)
  assert count.read + count.refused > 0


@pytest.mark.rounds
@pytest.mark.parametrize('name', FORMATS)
def test_very_many_damaged_files(tmp_path, name):
  path = tmp_path / name
  found = fuzzed.tried_in_child(FORMATS[name], path, ROUNDS, ERRORS)
  print(f'{name}: {found}')  # noqa: T201
