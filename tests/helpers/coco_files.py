"""A small COCO: annotations, images and a config of its reader."""

import json

import numpy as np
from PIL import Image

from tests.helpers import configs


THINGS = [
  {'supercategory': 'person', 'id': 1, 'name': 'person'},
  {'supercategory': 'animal', 'id': 2, 'name': 'dog'},
  {'supercategory': 'sports', 'id': 10, 'name': 'kite'},
]
STUFF = [
  {'supercategory': 'textile', 'id': 92, 'name': 'banner'},
  {'supercategory': 'other', 'id': 183, 'name': 'other'},
]
# Sorted as strings: 1 person, 10 kite, 2 dog, 92 banner.
PERSON, KITE, DOG, BANNER = 1, 2, 3, 4


def image(image_id, width=8, height=4, name='{:012d}.jpg'):
  return {
    'license': 4,
    'file_name': name.format(image_id),
    'coco_url': f'http://images.cocodataset.org/{image_id}.jpg',
    'height': height,
    'width': width,
    'date_captured': '2013-11-14 17:02:52',
    'flickr_url': 'http://farm7.staticflickr.com/x.jpg',
    'id': image_id,
  }


def thing(image_id, category, bbox, crowd=None):
  x, y, w, h = bbox
  polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  return {
    'segmentation': crowd or polygon,
    'area': float(w * h),
    'iscrowd': int(crowd is not None),
    'image_id': image_id,
    'bbox': list(bbox),
    'category_id': category,
    'id': 1000 * image_id + category,
  }


# A crowd that fills columns 5 to 7 of 8x4: 20 cells of background, 12 set.
CROWD = {'counts': [20, 12], 'size': [4, 8]}
# The same, compressed as in the stuff files: 20 -> 'd0', 12 -> '<'.
STUFF_MASK = {'counts': 'd0<', 'size': [4, 8]}


def write(path, annotations, pictures, categories):
  document = {
    'info': {'description': 'COCO', 'year': 2017},
    'licenses': [{'id': 4, 'name': 'x', 'url': 'y'}],
    'images': pictures,
    'annotations': annotations,
    'categories': categories,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(document))


def draw_jpeg(path, width=8, height=4, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3))
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels.astype(np.uint8)).save(path, 'JPEG', quality=90)


def write_all(folder):
  """Writes four images of each split of 2017, and a vocabulary."""
  base = folder / 'coco' / '2017'
  pictures = [image(9), image(10, 4, 8), image(25), image(30)]
  instances = [
    thing(9, 1, [2, 1, 2, 2]),
    thing(10, 10, [0, 0, 4, 8]),
    thing(9, 2, [5, 0, 3, 4], CROWD),
    thing(25, 1, [2, 0, 4, 4]),
  ]
  stuff = [
    thing(9, 92, [0, 2, 1.5, 2]),
    thing(9, 183, [0, 0, 8, 4]),
    thing(30, 183, [0, 0, 8, 4]),
    thing(25, 92, [5, 0, 3, 4], STUFF_MASK),
  ]
  captions = [
    {'image_id': 9, 'id': 1, 'caption': 'A man walks a dog.'},
    {'image_id': 25, 'id': 2, 'caption': 'a man'},
    {'image_id': 9, 'id': 3, 'caption': 'Another one.'},
  ]
  for part in ('train2017', 'val2017'):
    files = base / 'annotations'
    write(files / f'instances_{part}.json', instances, pictures, THINGS)
    write(files / f'stuff_{part}.json', stuff, pictures, STUFF)
    write(files / f'captions_{part}.json', captions, pictures, [])
    for seed, entry in enumerate(pictures):
      draw_jpeg(
        base / part / entry['file_name'], entry['width'], entry['height'], seed
      )
  ids = base / 'annotations' / 'deprecated-challenge2017'
  ids.mkdir()
  (ids / 'train-ids.txt').write_text('000000000025\n000000000009\n')
  (folder / 'vocab.txt').write_text(
    '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nman\nwalks\ndog\nperson\nbanner\nleft\n'
    'right\nof\nabove\nbelow\ninside\nsurrounding\n,\nb\n'
  )


def make_config(root, task='none', **fields):
  sizes = {'year': 2017, 'image_size': 4, 'crop': 'center', 'no_tokens': 16}
  config = configs.of_reader('coco', root, task, **sizes | fields)
  with config.unlocked():
    for section in (config.data, config.condition):
      section.max_objects = fields.get('max_objects', 3)
    if 'vocab_file' not in fields:
      config.condition.vocab_file = str(root / 'vocab.txt')
  return config


def one(reader, image_id, draw=0):
  """The example of an image id, as a batch of one."""
  for index in range(len(reader)):
    batch = reader.batch(np.array([index]), np.array([draw], np.uint64))
    if batch['id'][0] == image_id:
      return batch
  raise AssertionError(image_id)
