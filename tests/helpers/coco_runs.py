"""Small data sets in the official format of COCO, for whole runs."""

import json

import numpy as np
from PIL import Image


IMAGES = 4  # of a split
NAMES = {2014: 'COCO_{split}2014_{id:012d}.jpg', 2017: '{id:012d}.jpg'}


def write_coco(root, year):
  """Writes `IMAGES` images a split with things, stuff and captions."""
  (root / 'annotations').mkdir(parents=True)
  rng = np.random.default_rng(0)
  for offset, split in enumerate(('train', 'val')):
    (root / f'{split}{year}').mkdir()
    images, things, stuff, captions = [], [], [], []
    for i in range(IMAGES):
      number = 1 + i + IMAGES * offset
      name = NAMES[year].format(split=split, id=number)
      pixels = rng.integers(0, 255, (40, 48, 3), np.uint8)
      Image.fromarray(pixels).save(root / f'{split}{year}' / name)
      images.append(
        {'id': number, 'file_name': name, 'width': 48, 'height': 40}
      )
      for k, box in enumerate(
        [[2, 2, 20, 18], [24, 8, 20, 24], [8, 22, 16, 14]]
      ):
        things.append(annotation(10 * number + k, number, 1 + k % 2, box))
      stuff.append(annotation(10 * number, number, 92, [0, 20, 48, 20]))
      captions.append(
        {'id': number, 'image_id': number, 'caption': 'A dog near a kite.'}
      )
    contents = {
      'instances': {'annotations': things, 'categories': categories(1, 2)},
      'stuff': {'annotations': stuff, 'categories': categories(92)},
      'captions': {'annotations': captions},
    }
    for kind, content in contents.items():
      file = root / 'annotations' / f'{kind}_{split}{year}.json'
      file.write_text(json.dumps({'images': images, **content}))


def annotation(number, image, category, box):
  x, y, w, h = box
  return {
    'id': number,
    'image_id': image,
    'category_id': category,
    'bbox': box,
    'area': w * h,
    'iscrowd': 0,
    'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
  }


def categories(*ids):
  return [{'id': i, 'name': f'thing {i}', 'supercategory': 'a'} for i in ids]


def write_vocabulary(path):
  words = ['[PAD]', *(f'[unused{i}]' for i in range(99)), '[UNK]', '[CLS]']
  words += ['[SEP]', '[MASK]', 'a', 'dog', 'near', 'kite', 'thing', '1', '2']
  path.write_text('\n'.join(words))


def write_ids(root):
  """Writes the lists of the images of the deprecated challenge of 2017."""
  folder = root / 'annotations' / 'deprecated-challenge2017'
  folder.mkdir()
  for split, first in (('train', 1), ('val', 1 + IMAGES)):
    ids = '\n'.join(f'{first + i:012d}' for i in range(IMAGES))
    (folder / f'{split}-ids.txt').write_text(ids)
