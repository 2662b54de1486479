"""Fields of the data: where they are, and what is made of them."""

from pyramid_jax.conditioning import edges
from pyramid_jax.config import field as field_lib
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.data import category_lists
from pyramid_jax.data import degradation
from pyramid_jax.data import reader
from pyramid_jax.data import skipping
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.storage import image_lists


FIELDS = {
  'data.name': Field(
    'shapes', 'The data set: a key of pyramid_jax.data.READERS, or tfds/NAME.'
  ),
  'data.root': Field(
    '',
    'The folder of the files; shapes needs none.',
    resumable=True,
    path=True,
  ),
  'data.allow_change': Field(
    False,
    'Whether a resume may go on with other training data than before. Names and'
    ' sizes of images and the content of annotations are compared, so that an'
    ' image replaced by another of the same size is not noticed.',
    resumable=True,
  ),
  'data.broken_share': Field(
    skipping.SHARE,
    'The share of images that may be broken or gone before a run stops; of'
    ' small sets up to 10, at most a quarter; 0 for none.',
    low=0,
    high=1,
    resumable=True,
  ),
  'data.max_broken': Field(
    skipping.BY_SHARE,
    'The number of images that may be broken or gone before a run stops, in'
    ' place of broken_share; -1 leaves it to that.',
    low=skipping.BY_SHARE,
    resumable=True,
  ),
  'data.cache_dir': Field(
    '',
    'Where indices of large folders and annotation files are kept between runs;'
    " empty for pyramid_jax in the user's cache folder.",
    resumable=True,
    path=True,
  ),
  'data.checksums': Field(
    '',
    'A list of sha256sum with all images of a set whose images are files of'
    ' their own, by names relative to data.root: each is verified whenever it'
    ' is read, and one that differs is a broken image.',
    resumable=True,
    path=True,
  ),
  'data.image_size': Field(
    32, 'The height and width of an image in pixels.', low=1, high=ranges.SIDE
  ),
  'data.lr_factor': Field(
    4,
    'The side of an image over that of its low-resolution version.',
    low=1,
    high=ranges.SIDE,
  ),
  'data.degradation': Field(
    'bicubic',
    'How the low-resolution versions of photographs are made.',
    choices=degradation.KINDS,
  ),
  'data.level': Field(1, 'The difficulty of shapes.', low=0, high=3),
  'data.seed': Field(
    0, 'The seed of the scenes of shapes.', low=0, high=ranges.SPLIT_SEED
  ),
  'data.maps': Field(
    (),
    'Maps beside the images, whatever the task: edges and holes (inpaint_mask)'
    ' of all data, semantic maps (mask) of shapes, image_folder, coco, ade20k'
    ' and landscapes.',
    items=str,
    choices=reader.MAPS,
  ),
  'data.edges': Field(
    'canny', 'The edge detector for files.', choices=tuple(edges.DETECTORS)
  ),
  'data.year': Field(2014, 'The edition of COCO.', choices=(2014, 2017)),
  'data.max_objects': Field(
    8,
    'The number of boxes of an example, padding included.',
    low=1,
    high=ranges.SEQUENCE,
  ),
  'data.crop': Field(
    'random-1d', 'How training images are cut.', choices=transforms.CROPS
  ),
  'data.eval_crop': Field(
    'center', 'How images of val and test are cut.', choices=transforms.CROPS
  ),
  'data.short_side': Field(
    0,
    'The shorter side in pixels to which images are resized before the crops'
    ' center and random-1d cut squares of image_size; 0 for image_size itself.',
    low=0,
    high=ranges.SIDE,
  ),
  'data.buckets': Field(
    0,
    'With a number above 0 the training images of image_folder keep about'
    ' their aspect ratio: each batch has one of the shapes of about'
    ' image_size^2 pixels whose sides are multiples of this number.',
    low=0,
    high=ranges.SIDE,
  ),
  'data.bucket_ratio': Field(
    2.0, 'The largest ratio of the sides of a bucket.', low=1, high=ranges.SIDE
  ),
  'data.resize': Field(
    '',
    'The filter that resizes images: bilinear without antialiasing as Frido, or'
    ' linear as OpenCV; bicubic or lanczos with it; area, means over areas;'
    " empty for the reader's own.",
    choices=('', *transforms.RESIZES),
  ),
  'data.flip': Field(False, 'Whether every second training image is mirrored.'),
  'data.min_area': Field(
    0.0, 'The smallest area of a box as a share of the image.', low=0, high=1
  ),
  'data.min_objects': Field(
    0, 'Training images with fewer boxes are left out.', low=0
  ),
  'data.max_objects_image': Field(
    30, 'Training images with more boxes are left out.', low=0
  ),
  'data.eval_min_objects': Field(
    0, 'Images with fewer boxes are left out in validation and test.', low=0
  ),
  'data.eval_max_objects': Field(
    30, 'Images with more boxes are left out in validation and test.', low=0
  ),
  'data.use_stuff': Field(
    True, 'Whether the stuff annotations of COCO are read.'
  ),
  'data.graphs': Field(
    'auto',
    'Where the scene graphs of COCO are from: the texts of'
    ' annotations/scenegraph_*.json, the rule of sg2im, or the file if there is'
    ' one and else the rule.',
    choices=('auto', 'file', 'rule'),
  ),
  'data.category_file': Field(
    '',
    'The list by which categories are numbered: a file of ID,Name rows, or one'
    f' of the package ({", ".join(category_lists.LISTS)}); empty for the order'
    ' of the data.',
    path=True,
  ),
  'data.unlisted_categories': Field(
    'append',
    'Whether categories that category_file lacks follow after its rows, or are'
    ' left out.',
    choices=category_lists.UNLISTED,
  ),
  'data.category_subset': Field(
    'layout',
    'The categories of Open Images: layout has the 352 of the published layout'
    ' models, of which twelve count as others, all has 601.',
    choices=category_lists.SUBSETS,
  ),
  'data.split_file': Field(
    '',
    'The file vg_splits.json of Visual Genome; empty for that in data.root,'
    ' hash for splits of our own, which are not the published ones.',
    path=True,
  ),
  'data.ids_file': Field(
    '',
    'A file of the image ids of COCO, or of the names of images, to train on,'
    f' or a published list ({", ".join(image_lists.LISTS)}); empty for all'
    ' images.',
    path=True,
  ),
  'data.eval_ids_file': Field(
    '',
    'A file with those of the images to evaluate on.',
    path=True,
  ),
  'data.fast_decode': Field(
    False,
    'Whether JPEG files are decoded at a half, a quarter or an eighth of their'
    ' size where the shorter side stays twice image_size: faster for large'
    ' photographs, and not the same pixels. Not for annotated boxes.',
  ),
  'data.workers': Field(
    2,
    'The number of threads that decode images.',
    low=1,
    resumable=True,
    high=ranges.THREADS,
  ),
  'data.splits': Field(
    (),
    'The splits of a TFDS data set that train, val and test read, such as'
    " ('train[:90%]', 'train[90%:]', 'train[90%:]'), or the shards in root,"
    " such as '{00000..00099}.tar'; empty for those of these names.",
    items=str,
  ),
  'data.image_field': Field(
    'image', 'The column of parquet tables with the images.'
  ),
  'data.text_field': Field(
    '',
    'The column of parquet tables, or the field of the .json in tar shards,'
    ' with the captions; empty for text or caption, or for the .txt.',
  ),
  'data.label_field': Field(
    '',
    'The column of parquet tables, or the field of the .json in tar shards,'
    ' with the classes; empty for label, or for the .cls.',
  ),
  'data.min_side': Field(
    0,
    'Images with a smaller side in pixels are left out, of tar shards and of'
    ' official sets without boxes.',
    low=0,
    high=ranges.SIDE,
  ),
  'data.min_similarity': Field(
    -1.0,
    'Images of tar shards or parquet tables whose similarity is smaller or'
    ' missing are left out; -1 for none.',
    low=-1,
    high=1,
  ),
  'data.max_unsafe': Field(
    1.0,
    'Rows of parquet tables whose probability of being unsafe, punsafe, is'
    ' larger or missing are left out; 1 for none.',
    low=0,
    high=1,
  ),
  'data.nsfw': Field(
    (),
    "Values of NSFW in tar shards or parquet tables, such as ('UNLIKELY',);"
    ' images with others are left out; empty for none.',
    items=str,
  ),
  'sample.to_uint8': Field(
    'round',
    'How samples in [-1, 1] become uint8: round takes the nearest value,'
    ' truncate the next lower one (of LDM, Frido, ADM and latent DiffiT),'
    ' half_up truncates 127.5 x + 128 (of DiT and EDM).',
    choices=tuple(images.TO_UINT8),
    resumable=True,
  ),
}

# Fields that some readers alone have -> these; the others would ignore them.
_SERVED = {
  'data.image_field': ('parquet',),
  'data.text_field': ('parquet', 'tar_shards'),
  'data.label_field': ('parquet', 'tar_shards'),
  'data.min_side': (
    *('parquet', 'tar_shards', 'imagenet', 'celebahq', 'ffhq', 'lsun'),
    *('places', 'ade20k', 'landscapes'),
  ),
  'data.min_similarity': ('parquet', 'tar_shards'),
  'data.max_unsafe': ('parquet',),
  'data.nsfw': ('parquet', 'tar_shards'),
}
# What was made of the data of another reader keeps the fields of that.
_MADE = ('latents', 'records')


def _served(values: field_lib.Values) -> field_lib.Broken | None:
  """The reader has the fields that are set."""
  name = values['data.name']
  for field, readers in _SERVED.items():
    is_set = values[field] != FIELDS[field].default
    if is_set and name not in (*readers, *_MADE):
      allowed = f'{FIELDS[field].default!r} with data.name = {name}'
      return field_lib.Broken(field, allowed)
  return None


CHECKS = (_served,)
