"""Fields of the training loop, the optimizer and the averaged weights."""

import functools

from pyramid_jax.config import field as field_lib
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field


ON_SAVE_ERROR = ('stop', 'warn')
OPTIMIZERS = ('adam', 'adamw', 'muon')

_positive = functools.partial(Field, low=1)
_not_negative = functools.partial(Field, low=0)

FIELDS = {
  'train.steps': _positive(
    1000, 'The number of updates; no schedule depends on it.', resumable=True
  ),
  'train.init_from': Field(
    '',
    'The workdir of a run or of a converted checkpoint, or a model that comes'
    ' along, of the same system, whose weights a run begins from; one that has'
    ' a checkpoint does not read it any more.',
    resumable=True,
    path=True,
  ),
  'train.batch_size': _positive(
    16,
    'The number of examples of an update, over all devices.',
    high=ranges.BATCH,
  ),
  'train.learning_rate': _not_negative(
    1e-4, 'The highest learning rate of the schedule.', high=ranges.FLOAT32
  ),
  'train.seed': _not_negative(
    0, 'The seed of weights, noise and the order of the data.', high=ranges.SEED
  ),
  'train.log_every': _positive(
    10, 'Steps between two lines of metrics.', resumable=True
  ),
  'train.checkpoint_every': _positive(
    500,
    'Steps between two checkpoints; the last step is always saved.',
    resumable=True,
  ),
  'train.sample_every': _not_negative(
    500,
    'Steps between two grids of images; 0 makes one after the last step only.',
    resumable=True,
  ),
  'train.eval_every': _not_negative(
    0, 'Steps between two evaluations; 0 for none.', resumable=True
  ),
  'train.accumulate': _positive(
    1,
    'The number of microbatches that an update is computed in.',
    high=ranges.BATCH,
  ),
  'train.clip_norm': _not_negative(
    0.0, 'The largest global norm of the gradients of a loss; 0 does not clip.'
  ),
  'train.decay_steps': _not_negative(
    0,
    'The length in steps of the decay of the learning rate; 0 keeps it'
    ' constant.',
  ),
  'train.decay': Field(
    'cosine',
    'How the learning rate decays: as a half period of a cosine, or linearly,'
    ' to 0.',
    choices=('cosine', 'linear'),
  ),
  'train.warmup_steps': _not_negative(
    0, 'Steps of a linear rise of the learning rate from zero.'
  ),
  'train.skip_nonfinite': _not_negative(
    0,
    'The number of steps in a row that are skipped because of NaN or Inf; one'
    ' more ends the run.',
    resumable=True,
  ),
  'train.start_limit_secs': _not_negative(
    3600.0,
    'The seconds after which a start that has made no step is ended as hanging;'
    ' 0 for none.',
    resumable=True,
  ),
  'train.step_limit_secs': _not_negative(
    300.0,
    'The seconds after which a step is ended as hanging, or ten times its usual'
    ' time where that is longer; 0 for none.',
    resumable=True,
  ),
  'train.hook_limit_secs': _not_negative(
    1800.0,
    'The seconds after which a save, a grid of images or a batch of an'
    ' evaluation is ended as hanging; 0 for none.',
    resumable=True,
  ),
  'train.grace_secs': _positive(
    25.0,
    'The seconds that a signal leaves to a step or a save before the run ends'
    ' without it; launchers often kill after 30.',
    resumable=True,
  ),
  'train.export': Field(
    True,
    'Whether a run that ends writes the weights that it samples from into'
    ' WORKDIR/weights.safetensors, too.',
    resumable=True,
  ),
  'train.keep': _positive(
    3, 'The number of newest checkpoints that stay.', resumable=True
  ),
  'train.keep_every_hours': _not_negative(
    0.0,
    'Hours after which one more checkpoint stays for good; 0 for none.',
    resumable=True,
  ),
  'train.keep_best': Field(
    '',
    'A score of the evaluations in training, such as layout_recall, by which'
    ' the best checkpoints stay; empty for none.',
    resumable=True,
  ),
  'train.keep_best_count': _positive(
    1, 'The number of checkpoints that train.keep_best keeps.', resumable=True
  ),
  'train.on_save_error': Field(
    'stop',
    'Whether a checkpoint that cannot be written ends the run, or is a warning;'
    ' the last one ends it.',
    choices=ON_SAVE_ERROR,
    resumable=True,
  ),
  'optimizer.name': Field(
    'adam',
    'The optimizer; muon updates the kernels and leaves the rest to adamw.',
    choices=OPTIMIZERS,
  ),
  'optimizer.b1': _not_negative(
    0.9, 'The decay of the mean of the gradients.', below=1
  ),
  'optimizer.b2': _not_negative(
    0.999, 'The decay of the mean of the squared gradients.', below=1
  ),
  'optimizer.eps': _not_negative(
    1e-8, 'The number added to the root of the squared gradients.'
  ),
  'optimizer.weight_decay': _not_negative(
    0.0,
    'The share of a weight that is taken off in a step, times the learning'
    ' rate; adam takes none off.',
    high=ranges.WEIGHT,
  ),
  'optimizer.nan_to_zero': Field(
    False, 'Whether NaN in a gradient becomes 0 and infinity 1e5, as in EDM.'
  ),
  'ema.decay': _not_negative(
    0.9999,
    'The decay of the averaged weights.',
    below=1,
  ),
  'ema.warmup': Field(
    True,
    'Whether update n uses a decay of at most (1 + n) / (10 + n), as LDM and'
    ' Frido do.',
  ),
  'ema.halflife_images': _not_negative(
    0.0,
    'The half-life of the averaged weights in images, as in EDM; 0 uses'
    ' ema.decay.',
  ),
  'ema.halflife_rampup': _not_negative(
    0.05, 'The largest half-life as a share of the images seen so far.'
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


def _scored(values: field_lib.Values) -> field_lib.Broken | None:
  """Checkpoints that are kept by a score have one."""
  if not values['train.keep_best'] or values['train.eval_every']:
    return None
  return field_lib.Broken('train.eval_every', 'above 0 for train.keep_best')


CHECKS = (
  _whole_microbatches,
  _scored,
)
