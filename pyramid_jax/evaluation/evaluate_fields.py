"""Fields of evaluation."""

from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.evaluation import protocols
from pyramid_jax.metrics import inception_input
from pyramid_jax.metrics import inception_reference


FIELDS = {
  'evaluate.protocol': Field(
    '',
    'The protocol of a published table; empty for as many images as'
    ' evaluate.count, beside the real images of their conditions.',
    choices=protocols.NAMES,
    resumable=True,
  ),
  'evaluate.count': Field(
    1000,
    'The number of images of a table of scores; the conditions of a smaller'
    ' split repeat in turn.',
    low=1,
    resumable=True,
  ),
  'evaluate.batch_size': Field(
    100,
    'The number of images that are made and measured at a time.',
    low=1,
    resumable=True,
    high=ranges.BATCH,
  ),
  'evaluate.per_scale': Field(
    False,
    'Whether the coarse scales of a pyramid are scored as well, without the'
    ' finer ones.',
    resumable=True,
  ),
  'evaluate.inception': Field(
    '',
    'The weight file of the Inception network; empty for no FID.',
    resumable=True,
    path=True,
  ),
  'evaluate.lpips': Field(
    '',
    'The weight file of LPIPS, for first stages, super-resolution and'
    ' inpainting; empty for none.',
    resumable=True,
    path=True,
  ),
  'evaluate.clip': Field(
    '',
    'The weight file of CLIP for the CLIP score of captions; empty for none.',
    resumable=True,
    path=True,
  ),
  'evaluate.clip_tokenizer': Field(
    '',
    "CLIP's tokenizer.json, or its vocab.json and merges.txt, separated by a"
    ' comma, for the CLIP score.',
    resumable=True,
    path=True,
  ),
  'evaluate.cmmd': Field(
    '',
    'The weight file of CLIP ViT-L/14 at 336 px for CMMD; empty for none.',
    resumable=True,
    path=True,
  ),
  'evaluate.dinov2': Field(
    '',
    'The weight file of DINOv2 for FD-DINOv2; empty for none.',
    resumable=True,
    path=True,
  ),
  'evaluate.vgg16': Field(
    '',
    'The weight file of VGG16 for its precision and recall; empty for none.',
    resumable=True,
    path=True,
  ),
  'evaluate.detector': Field(
    '',
    'A function in Python, MODULE:FUNCTION, that finds the objects of images of'
    ' layouts, for their average precision; empty for none.',
    resumable=True,
  ),
  'evaluate.classifier': Field(
    '',
    'A function in Python, MODULE:FUNCTION, that classifies images, or the'
    ' objects of layouts, for its accuracy; empty for none.',
    resumable=True,
  ),
  'evaluate.resize': Field(
    'tf1',
    "How images become Inception's 299 x 299: tf1, as TensorFlow does it in the"
    " network, or clean, Pillow's bicubic filter, as clean-fid has it.",
    choices=inception_input.RESIZES,
    resumable=True,
  ),
  'evaluate.reference_layout': Field(
    'own',
    'The layout of the file of --write_reference: own, or that of ADM or EDM.',
    choices=inception_reference.LAYOUTS,
    resumable=True,
  ),
  'evaluate.reference': Field(
    '',
    'Statistics (.npz, or .pkl of EDM2) or a folder of images that samples are'
    ' compared with; empty for the real images of the split.',
    resumable=True,
    path=True,
  ),
}
