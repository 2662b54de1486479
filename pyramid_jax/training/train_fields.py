"""Fields of the training loop, the optimizer and the averaged weights."""

from pyramid_jax.config import field as field_lib
from pyramid_jax.config.field import Field


OPTIMIZERS = ('adam', 'adamw', 'muon')

FIELDS = {
  'train.steps': Field(
    1000,
    'The number of updates; no schedule depends on it.',
    low=1,
    resumable=True,
  ),
  'train.batch_size': Field(
    16, 'The number of examples of an update, over all devices.', low=1
  ),
  'train.learning_rate': Field(
    1e-4, 'The highest learning rate of the schedule.', low=0
  ),
  'train.seed': Field(
    0, 'The seed of weights, noise and the order of the data.', low=0
  ),
  'train.log_every': Field(
    10, 'Steps between two lines of metrics.', low=1, resumable=True
  ),
  'train.checkpoint_every': Field(
    500,
    'Steps between two checkpoints; the last step is always saved.',
    low=1,
    resumable=True,
  ),
  'train.sample_every': Field(
    500,
    'Steps between two grids of images; 0 makes one after the last step only.',
    low=0,
    resumable=True,
  ),
  'train.eval_every': Field(
    0, 'Steps between two evaluations; 0 for none.', low=0, resumable=True
  ),
  'train.accumulate': Field(
    1, 'The number of microbatches that an update is computed in.', low=1
  ),
  'train.clip_norm': Field(
    0.0,
    'The largest global norm of the gradients of a loss; 0 does not clip.',
    low=0,
  ),
  'train.decay_steps': Field(
    0,
    'The length in steps of the cosine decay of the learning rate; 0 keeps it'
    ' constant.',
    low=0,
  ),
  'train.warmup_steps': Field(
    0, 'Steps of a linear rise of the learning rate from zero.', low=0
  ),
  'train.keep': Field(
    3, 'The number of newest checkpoints that stay.', low=1, resumable=True
  ),
  'optimizer.name': Field(
    'adam',
    'The optimizer; muon updates the kernels and leaves the rest to adamw.',
    choices=OPTIMIZERS,
  ),
  'optimizer.b1': Field(
    0.9, 'The decay of the mean of the gradients.', low=0, below=1
  ),
  'optimizer.b2': Field(
    0.999, 'The decay of the mean of the squared gradients.', low=0, below=1
  ),
  'optimizer.eps': Field(
    1e-8, 'The number added to the root of the squared gradients.', low=0
  ),
  'optimizer.weight_decay': Field(
    0.0,
    'The share of a weight that is taken off in a step, times the learning'
    ' rate; adam takes none off.',
    low=0,
  ),
  'optimizer.nan_to_zero': Field(
    False,
    'Whether NaN in a gradient becomes 0 and infinity 1e5, as in EDM.',
  ),
  'ema.decay': Field(
    0.9999,
    'The decay of the averaged weights; update n uses at most'
    ' (1 + n) / (10 + n).',
    low=0,
    below=1,
  ),
  'ema.halflife_images': Field(
    0.0,
    'The half-life of the averaged weights in images, as in EDM; 0 uses'
    ' ema.decay.',
    low=0,
  ),
  'ema.halflife_rampup': Field(
    0.05,
    'The largest half-life as a share of the images seen so far.',
    low=0,
  ),
}


def _whole_microbatches(values: field_lib.Values) -> field_lib.Broken | None:
  """The microbatches of a batch have one size."""
  count = values['train.accumulate']
  if values['train.batch_size'] % count == 0:
    return None
  return field_lib.Broken(
    'train.batch_size', f'divisible by train.accumulate = {count}'
  )


CHECKS = (_whole_microbatches,)
