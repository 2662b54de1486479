"""A small Open Images: boxes, categories, images and a config of its reader."""

from pyramid_jax.data import category_lists
from tests.helpers import coco_files
from tests.helpers import configs


HEADER = (
  'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,'
  'IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside'
)
# What the file of the training split of V6 has in addition.
CLICKS = ',XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y'
PERSON, MAN, DOG = '/m/01g317', '/m/04yx4', '/m/0bt9lr'
CAR, AMBULANCE = '/m/0k4j', '/m/012n7d'
FIRST, SECOND = '000002b66c9c498e', 'fffff0b9c5d2e6f1'


def row(image, label, box, flags='0,0,0,0,0', source='xclick'):
  """A row of `box` (x0, y0, x1, y1); flags in the order of the file."""
  x0, y0, x1, y1 = box
  return f'{image},{source},{label},1,{x0},{x1},{y0},{y1},{flags}'


ROWS = [
  row(SECOND, PERSON, (0.25, 0.25, 0.5, 0.75), '1,0,1,0,0'),
  row(FIRST, MAN, (0, 0, 0.5, 1), '-1,-1,-1,-1,-1', 'activemil'),
  row(SECOND, DOG, (0.625, 0, 1, 1), '0,1,0,1,1'),
  row(FIRST, AMBULANCE, (0, 0, 1, 1)),  # none of the 352
  row(FIRST, DOG, (0.5, 0.5, 0.5, 0.75)),  # no area
  row(FIRST, CAR, (0.5, 0.5, 1, 1)),
]


def classes():
  """The rows of class-descriptions-boxable.csv, in an order of their own."""
  rows = category_lists.read(category_lists.path_of('openimages'))
  return [f'{key},{name}' for key, name in reversed(rows.items())]


def write_all(folder, rows=ROWS, width=8, height=4):
  """Writes the layout of the official page, both splits the same."""
  for part, header in (('train', HEADER + CLICKS), ('validation', HEADER)):
    more = ',0.1' * 7 if part == 'train' else ''
    lines = [header, *(line + more for line in rows)]
    prefix = 'oidv6-' if part == 'train' else ''
    path = folder / f'{prefix}{part}-annotations-bbox.csv'
    path.write_text('\n'.join(lines) + '\n')
    for image in (FIRST, SECOND):
      coco_files.draw_jpeg(folder / part / f'{image}.jpg', width, height)
  path = folder / 'class-descriptions-boxable.csv'
  path.write_text('\n'.join(classes()) + '\n')


def make_config(root, task='layout', **fields):
  sizes = {
    **{'image_size': 4, 'crop': 'center', 'no_tokens': 8192},
    **{'encode_crop': True, 'min_area': 1e-5},
  }
  config = configs.of_reader('openimages', root, task, **sizes | fields)
  with config.unlocked():
    for section in (config.data, config.condition):
      section.max_objects = 3
  return config
