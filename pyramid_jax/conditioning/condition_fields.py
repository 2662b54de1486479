"""Fields of the condition of images and of its encoder."""

import numpy as np

from pyramid_jax.conditioning import classes
from pyramid_jax.conditioning import encoding
from pyramid_jax.config import field as field_lib
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.networks.layers import prenorm


SEQUENCES = ('text', 'layout', 'label', 'scene_graph')
TASKS = tuple(dict.fromkeys(('none', *SEQUENCES, *encoding.TASKS)))

FIELDS = {
  'condition.task': Field(
    'none', 'The condition of the images.', choices=TASKS
  ),
  'condition.encoder': Field(
    'tokens',
    'The encoder of a condition that is a sequence: a transformer on tokens,'
    ' one on boxes, or a pretrained CLIP or T5 text encoder.',
    choices=tuple(encoding.ENCODERS),
  ),
  'condition.also': Field(
    '', 'A second condition.', choices=('', *encoding.ALSO)
  ),
  'condition.cond_dropout': Field(
    0.0, 'The rate of the null condition in training.', low=0, high=1
  ),
  # Of every encoder of sequences.
  'condition.max_length': Field(
    77,
    'The number of tokens of a sequence, padding included.',
    low=1,
    high=ranges.SEQUENCE,
  ),
  'condition.dim': Field(
    640,
    'The width of the encoder and of the tokens it returns.',
    low=1,
    high=ranges.WIDTH,
  ),
  'condition.depth': Field(
    32, 'The number of blocks of the encoder.', low=0, high=ranges.DEPTH
  ),
  'condition.heads': Field(
    8, 'The number of attention heads.', low=1, high=ranges.WIDTH
  ),
  'condition.head_dim': Field(
    64, 'The width of an attention head.', low=1, high=ranges.WIDTH
  ),
  'condition.vocab_size': Field(
    30522, 'The number of rows of the token embedding.', low=1, high=ranges.ROWS
  ),
  'condition.embed_std': Field(
    0.02,
    'The standard deviation of the initial embeddings.',
    low=0,
    high=ranges.SIGMA,
  ),
  # Of texts.
  'condition.vocab_file': Field(
    '',
    'The vocabulary of the tokenizer; of T5 its tokenizer.json.',
    path=True,
  ),
  'condition.merges_file': Field(
    '', 'The merges of the CLIP tokenizer.', path=True
  ),
  'condition.drop_full_stops': Field(
    False, 'Whether full stops are taken out of texts, those of data, too.'
  ),
  'condition.null_prefix': Field(
    (),
    'The first tokens of the null text; the rest is padding.',
    items=int,
    low=0,
    high=ranges.ROWS,
  ),
  'condition.pad_id': Field(
    0, 'The padding token of a text.', low=0, high=ranges.ROWS
  ),
  'condition.pad_in_text': Field(
    False,
    'Whether the padding token, written in a text, is read as that token, as'
    ' the library transformers does for Stable Diffusion 2; CLIP only.',
  ),
  'condition.weights': Field(
    '', 'The weight file of a pretrained encoder.', path=True
  ),
  'condition.cache': Field(
    '',
    'A folder of encoded captions by pyramid_jax.commands.cache_texts, which'
    ' training reads in place of a pretrained encoder.',
    resumable=True,
    path=True,
  ),
  'condition.pooled': Field(
    False,
    'Whether CLIP gives one token, the projected state at the end of the text'
    ' as a unit vector, in place of the states of all tokens.',
  ),
  'condition.mlp_dim': Field(
    0,
    'The hidden width of the blocks of CLIP and T5; 0 for four times dim.',
    low=0,
    high=ranges.WIDTH,
  ),
  'condition.hidden_act': Field(
    'quick_gelu',
    "The activation of CLIP's blocks: OpenAI's (quick_gelu) or OpenCLIP's"
    ' (gelu).',
    choices=tuple(prenorm.ACTIVATIONS),
  ),
  # Of retrieval, whose embeddings have the width `dim`.
  'condition.neighbours': Field(
    4,
    'The number of neighbours on which a training image is conditioned.',
    low=1,
    high=ranges.SEQUENCE,
  ),
  'condition.prompt_neighbours': Field(
    0,
    'The number of neighbours of a text that sampling adds to the text.',
    low=0,
    high=ranges.SEQUENCE,
    resumable=True,
  ),
  'condition.neighbour_index': Field(
    '',
    'An .npz with the CLIP embeddings of images among which neighbours are'
    ' sought, or a folder of such files.',
    resumable=True,
    path=True,
  ),
  'condition.neighbour_rows': Field(
    '',
    'The file of the neighbours of training images, written by'
    ' pyramid_jax.commands.find_neighbours.',
    resumable=True,
    path=True,
  ),
  'condition.eval_neighbour_rows': Field(
    '',
    'The file of the neighbours of the images of val and test.',
    resumable=True,
    path=True,
  ),
  # Of layouts and label sets.
  'condition.no_tokens': Field(
    1024,
    'The number of layout tokens; positions form a square grid.',
    low=1,
    high=ranges.ROWS,
  ),
  'condition.max_objects': Field(
    8,
    'The number of objects of a layout or label sequence.',
    low=1,
    high=ranges.SEQUENCE,
  ),
  'condition.encode_crop': Field(
    False, 'Whether the crop is appended to a layout.'
  ),
  'condition.shift': Field(
    0, 'The first coordinate token.', low=0, high=ranges.ROWS
  ),
  'condition.any_predicate': Field(
    False,
    'Whether requests for scene graphs may have other predicates than the six'
    ' of COCO: those of Visual Genome depend on its files.',
  ),
  'condition.num_labels': Field(
    25,
    'The number of categories of the box encoder, padding included.',
    low=1,
    high=ranges.ROWS,
  ),
  'condition.num_classes': Field(
    1000,
    'The number of classes, without the null class.',
    low=1,
    high=ranges.ROWS,
  ),
  'condition.null_class': Field(
    True, 'Whether there is a null class, which guidance needs.'
  ),
  'condition.class_by': Field(
    'crossattn',
    'Whether the class is a token for cross-attention or is added to the'
    ' embedding of the timestep.',
    choices=classes.CLASS_BY,
  ),
  'condition.camera_dropout': Field(
    0.15, 'The dropout rate of each camera attribute.', low=0, high=1
  ),
  # Of low-resolution images for models of images; latent models add no noise.
  'condition.lr_noise_low': Field(
    0.01,
    'The smallest standard deviation of the noise on low-resolution images in'
    ' training, which is log-uniform.',
    above=0,
    high=ranges.SIGMA,
  ),
  'condition.lr_noise_high': Field(
    0.5,
    'The largest standard deviation of the noise on low-resolution images in'
    ' training.',
    above=0,
    high=ranges.SIGMA,
  ),
  'condition.lr_noise_sampling': Field(
    0.1,
    'The standard deviation of the noise on low-resolution images in sampling.',
    above=0,
    high=ranges.SIGMA,
  ),
  'condition.map_classes': Field(
    182, 'The number of values of a semantic map.', low=1, high=ranges.ROWS
  ),
  'condition.map_channels': Field(
    3,
    'The number of channels that a semantic map becomes.',
    low=1,
    high=ranges.WIDTH,
  ),
}


def _rising_noise(values: field_lib.Values) -> field_lib.Broken | None:
  """The range of the noise on low-resolution images is not empty."""
  low = values['condition.lr_noise_low']
  if values['condition.lr_noise_high'] >= low:
    return None
  return field_lib.Broken(
    'condition.lr_noise_high', f'at least condition.lr_noise_low = {low}'
  )


def _null_text(values: field_lib.Values) -> field_lib.Broken | None:
  """The tokens of the null text are in the table of embeddings."""
  task, rows = values['condition.task'], values['condition.vocab_size']
  if task not in SEQUENCES or task == 'layout':
    return None
  for name in ('condition.pad_id', 'condition.null_prefix'):
    if np.max(values[name], initial=0) >= rows:
      return field_lib.Broken(name, f'below condition.vocab_size = {rows}')
  return None


CHECKS = (_rising_noise, _null_text)
