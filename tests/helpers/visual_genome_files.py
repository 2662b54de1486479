"""A small Visual Genome: its official files and a config of its reader."""

import json

from tests.helpers import coco_files
from tests.helpers import configs


def image(image_id, folder='VG_100K', width=320, height=240):
  return {
    'image_id': image_id,
    'width': width,
    'height': height,
    'url': f'https://cs.stanford.edu/people/rak248/{folder}/{image_id}.jpg',
    'coco_id': None,
    'flickr_id': 1,
  }


def thing(object_id, names, box=(0, 0, 64, 48)):
  x, y, w, h = box
  names = names.split('|') if names else []
  synsets = [f'{name}.n.01' for name in names]
  sides = {'x': x, 'y': y, 'w': w, 'h': h}
  return {
    **{'object_id': object_id, 'names': names, 'synsets': synsets},
    **{'merged_object_ids': []},
    **sides,
  }


def relation(subject, predicate, target):
  def end(object_id):
    box = {'x': 0, 'y': 0, 'w': 1, 'h': 1}
    return {'object_id': object_id, 'name': 'x', 'synsets': [], **box}

  return {
    **{'relationship_id': 7 * subject + target, 'predicate': predicate},
    **{'synsets': [], 'subject': end(subject), 'object': end(target)},
  }


# By image: objects and relations.
SCENES = {
  1: (
    [
      thing(11, 'man', (32, 24, 64, 48)),
      thing(12, 'guy', (160, 120, 160, 120)),  # an alias of man
      thing(13, 'tree', (0, 0, 320, 240)),
      thing(14, 'tree', (0, 0, 31, 48)),  # too narrow
      thing(15, 'unicorn'),  # too rare
    ],
    [
      relation(11, 'ON TOP OF ', 13),  # an alias of on
      relation(12, 'near', 11),
      relation(11, 'on', 14),  # an object that is left out
      relation(13, 'sings to', 11),  # too rare
    ],
  ),
  2: (
    [thing(21, 'man'), thing(22, 'tree'), thing(23, 'dog|man')],
    [relation(21, 'near', 22), relation(23, 'on', 22)],
  ),
  # Two objects are too few.
  3: ([thing(31, 'tree'), thing(32, 'man')], [relation(31, 'on', 32)]),
  4: (  # no relation is left
    [thing(41, 'tree'), thing(42, 'man'), thing(43, 'man')],
    [relation(41, 'hums to', 42)],
  ),
  5: (  # of validation: predicates are compared as they are
    [thing(51, 'tree'), thing(52, 'man'), thing(53, 'tree')],
    [relation(51, 'on top of', 52), relation(53, 'near', 51)],
  ),
  6: ([thing(61, 'man'), thing(62, 'man'), thing(63, 'man')], []),  # small
}
SPLITS = {'train': [1, 2, 3, 4, 6], 'val': [5], 'test': []}


def write_all(folder, scenes=SCENES, splits=SPLITS):
  """Writes the files in the layout of the official archives."""
  rows = [image(i, 'VG_100K_2' if i == 2 else 'VG_100K') for i in scenes]
  rows = [{**r, 'height': 199} if r['image_id'] == 6 else r for r in rows]
  documents = {
    'image_data': rows,
    'objects': [
      {'image_id': i, 'objects': found, 'image_url': ''}
      for i, (found, _) in scenes.items()
    ],
    'relationships': [
      {'image_id': i, 'relationships': found}
      for i, (_, found) in scenes.items()
    ],
    'vg_splits': splits,
  }
  for name, document in documents.items():
    (folder / f'{name}.json').write_text(json.dumps(document))
  (folder / 'object_alias.txt').write_text('man,guy, men\ntree,trees\n')
  (folder / 'relationship_alias.txt').write_text('on,on top of\n')
  for row in rows:
    place = row['url'].split('/')[-2:]
    path, seed = folder / '/'.join(place), row['image_id']
    coco_files.draw_jpeg(path, row['width'], row['height'], seed)


def make_config(root, task='layout', **fields):
  sizes = {
    **{'image_size': 240, 'crop': 'center', 'no_tokens': 1024},
    **{'encode_crop': True, 'min_area': 1e-5, 'shift': 179},
  }
  config = configs.of_reader('visual_genome', root, task, **sizes | fields)
  with config.unlocked():
    for section in (config.data, config.condition):
      section.max_objects = 4
  return config
