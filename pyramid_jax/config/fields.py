"""The fields of a config: their defaults and what each may be."""

from collections.abc import Mapping
from typing import Any

from pyramid_jax import errors
from pyramid_jax.conditioning import edges
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_loss
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import sketch as sketch_guidance
from pyramid_jax.diffusion.solvers import ddpm
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks import pidinet


DTYPES = ('float32', 'bfloat16')
ATTENTION = ('auto', 'xla', 'cudnn', 'flash')
OPTIMIZERS = ('adam', 'adamw', 'muon')
PIXEL_LOSSES = ('l1', 'l2')
TASKS = (
  'none',
  'text',
  'layout',
  'label',
  'scene_graph',
  'class',
  'map',
  'superres',
  'inpaint',
)
DEGRADATIONS = ('bicubic', 'bsr_light')
RESIZES = ('', 'plain', 'smooth', 'area')
ENCODERS = ('tokens', 'boxes', 'clip', 't5')
SOLVERS = solvers.SOLVERS
LAWS = ('', *edm_loss.LAWS)
TARGET_SPACES = ('latent', 'pixels')
STAGE_NETWORKS = ('unet', 'diffit')
EDGES = ('true', 'sobel', 'xdog', *pidinet.SIZES, 'map')
SPACINGS = ('auto', *timesteps.SPACINGS)

# Of the fields that are one of several names.
CHOICES: Mapping[str, tuple[str, ...]] = {
  'dtype': DTYPES,
  'attention': ATTENTION,
  'diffusion.parameterization': schedules.PARAMETERIZATIONS,
  'diffusion.loss': iddpm_loss.LOSSES,
  'diffusion.variance': ddpm.VARIANCES,
  'optimizer.name': OPTIMIZERS,
  'loss.pixel_loss': PIXEL_LOSSES,
  'condition.task': TASKS,
  'condition.encoder': ENCODERS,
  'data.resize': RESIZES,
  'data.degradation': DEGRADATIONS,
  'data.edges': tuple(edges.DETECTORS),
  'sample.solver': SOLVERS,
  'sample.spacing': SPACINGS,
  'sample.discretization': edm_timesteps.DISCRETIZATIONS,
  'diffusion.preconditioning': edm.PRECONDITIONINGS,
  'diffusion.law': LAWS,
  'laplacian.network': STAGE_NETWORKS,
  'sketch.noise_input': edge_predictor.NOISE_INPUTS,
  'sketch.tap_norm': edge_predictor.TAP_NORMS,
  'sketch.head': edge_predictor.HEADS,
  'sketch.target_space': TARGET_SPACES,
  'sketch.edges': EDGES,
  'sketch.norm_ref': sketch_guidance.NORM_REFS,
}


def defaults() -> dict[str, Any]:
  """Returns {section: {field: default}}, a dictionary of its own."""
  return {
    'name': '',  # of the experiment, for logs
    'dtype': 'float32',  # of activations; weights are always float32
    'remat': False,  # recompute activations in the backward pass
    'attention': 'auto',  # auto | xla | cudnn (GPU) | flash (TPU)
    'system': {
      'name': '',  # a key of pyramid_jax.systems.SYSTEMS
      'network': 'msvqgan',  # of a first stage: msvqgan | kl | vq
    },
    'train': _train(),
    'optimizer': {
      'name': 'adam',  # adam | adamw | muon (kernels; the rest by adamw)
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.0,  # not of adam, times the learning rate
      'nan_to_zero': False,  # gradients: NaN is 0, infinite +-1e5 (EDM)
    },
    'ema': {
      'decay': 0.9999,  # of update n: min(decay, (1 + n) / (10 + n))
      'halflife_images': 0.0,  # above 0: this rule instead (EDM)
      'halflife_rampup': 0.05,  # at most this part of the images so far
    },
    'mesh': {
      'data': -1,  # devices that split the batch; -1 = the rest
      'fsdp': 1,  # devices that split the batch and the parameters
      'tensor': 1,  # devices that split what the sharding rules name
      'fsdp_min_size': 2**16,  # values; smaller leaves are replicated
    },
    'data': _data(),
    'condition': _condition(),
    'network': {},  # constructor fields of the network
    'diffusion': {
      'timesteps': 1000,  # noise levels of the training chain
      'beta_schedule': 'linear',  # linear in sqrt(beta)
      'linear_start': 0.0015,  # first beta
      'linear_end': 0.0155,  # last beta
      'loss_type': 'l1',  # l1 | l2
      'parameterization': 'eps',  # what is predicted: eps | x0 | v
      # Of latent_diffit: mse | rescaled_mse | rescaled_kl.
      'loss': 'mse',
      # Of the steps of ddpm: fixed_small | fixed_large | learned_range (of a
      # network that predicts it too).
      'variance': 'fixed_small',
      'simple_weight': 1.0,  # of the mean error in the loss of ldm
      'elbo_weight': 0.0,  # of the variational bound in the loss of ldm
      'logvar_init': 0.0,  # log variance of the errors of a level
      'learn_logvar': False,  # train it, one number a level
      'scale_factor': 1.0,  # of the latents of ldm
      'scale_by_std': False,  # measure it on the first batch instead
      'noise_mix_ratio': 0.1,  # noise in the coarser scales in training
      'stage_loss_ratio': (0.5, 0.5),  # weight of each scale, coarse first
      'native_scales': False,  # diffuse each scale at its own resolution
      'preconditioning': 'edm',  # of diffit: vp | ve | iddpm | edm
      # Of the noise levels of diffit: vp | ve | edm; empty = that of the
      # preconditioning (iddpm has none).
      'law': '',
      'sigma_data': 0.5,  # deviation of clean images, for edm
      'P_mean': -1.2,  # mean of log sigma, law edm
      'P_std': 1.2,  # its deviation
      'augment': 0.0,  # chance of each non-leaking move of diffit; 0 = off
    },
    'laplacian': _laplacian(),
    'control': {  # of ladm_control
      'base': '',  # workdir of the frozen ladm
      'map': 'edges',  # edges | depth | mask | inpaint
      'weight': 1.0,  # in sampling: 0 = not obeyed, 1 as trained
    },
    'loss': _loss(),
    'sketch': _sketch(),
    'sample': _sample(),
    'evaluate': {
      'count': 1000,  # images of a table
      'batch_size': 100,  # images at a time
      'inception': '',  # file of the network behind FID; empty = no FID
      # Statistics (.npz) or a folder of images that samples are compared
      # with; empty = the real images of the split.
      'reference': '',
    },
  }


def _train() -> Mapping[str, Any]:
  return {
    'steps': 1000,  # updates; no schedule depends on it
    'batch_size': 16,  # examples of an update, over all devices
    'learning_rate': 1e-4,  # peak
    'seed': 0,  # of weights, noise and order of the data
    'log_every': 10,  # steps between lines of metrics
    'checkpoint_every': 500,  # steps; the last step is always saved
    'sample_every': 500,  # steps between grids; 0 = the last step only
    'eval_every': 0,  # steps between evaluations; 0 = never
    'accumulate': 1,  # microbatches of an update
    'clip_norm': 0.0,  # global norm of a player's gradients; 0 = off
    'decay_steps': 0,  # length of the cosine decay; 0 = constant
    'warmup_steps': 0,  # of linear warm-up from zero
    'keep': 3,  # newest checkpoints that stay
  }


def _data() -> Mapping[str, Any]:
  return {
    'name': 'shapes',  # a key of pyramid_jax.data.READERS
    'root': '',  # directory of the files; unused by shapes
    'image_size': 32,  # px, both sides
    'lr_factor': 4,  # side of an image over its low-resolution version's
    'degradation': 'bicubic',  # of photographs: bicubic | bsr_light
    'level': 1,  # difficulty of shapes, 0..3
    'seed': 0,  # of the scenes of shapes
    # Beside the images of shapes and image_folder, whatever the task: edges |
    # mask | inpaint_mask, any of them.
    'maps': (),
    'edges': 'canny',  # who finds edges in files: canny | sobel | xdog
    'year': 2014,  # edition of coco: 2014 | 2017
    'max_objects': 8,  # boxes of an example, the rest is padding
    # In training: center | random-1d | random-2d | none | square |
    # random-half | adm, see data/transforms.py.
    'crop': 'random-1d',
    'eval_crop': 'center',  # in validation and test
    # Above 0, training images of image_folder keep about their aspect ratio:
    # each batch has one of the shapes of about image_size^2 px whose sides
    # are multiples of this number.
    'buckets': 0,
    'bucket_ratio': 2.0,  # of the longer side to the shorter, at most
    'resize': '',  # plain | smooth | area; empty = what the reader prefers
    'flip': False,  # mirror every second training image
    'min_area': 0.0,  # smallest box, as a part of the image
    'min_objects': 0,  # images with fewer boxes are left out
    'max_objects_image': 30,  # and so are images with more
    'eval_min_objects': 0,  # the same in validation and test
    'eval_max_objects': 30,
    'use_stuff': True,  # add the stuff annotations of coco
    'category_file': '',  # MID,Name rows that renumber the categories
    'ids_file': '',  # image ids to train on; empty = all
    'eval_ids_file': '',  # image ids to evaluate on; empty = all
    'workers': 2,  # decoding threads
    # Of tfds/NAME: what train, val and test read, e.g. ('train[:90%]',
    # 'train[90%:]', 'train[90%:]'); empty = the splits of those names.
    'splits': (),
  }


def _condition() -> Mapping[str, Any]:
  return {
    # none | text | layout | label | scene_graph | class | map | superres |
    # inpaint
    'task': 'none',
    'encoder': 'tokens',  # tokens | boxes | clip | t5
    'vocab_file': '',  # of the tokenizer; the tokenizer.json of t5
    'merges_file': '',  # of the CLIP tokenizer
    'max_length': 77,  # tokens of a sequence
    'no_tokens': 1024,  # coordinate tokens, a square number of places
    'max_objects': 8,  # objects of a layout or label sequence
    'encode_crop': False,  # append the crop to a layout
    'shift': 0,  # first coordinate token
    'dim': 640,  # width of the encoder and of its tokens
    'depth': 32,  # blocks of the encoder
    'heads': 8,
    'head_dim': 64,
    'mlp_dim': 0,  # hidden width of the blocks of t5; 0 = 4 dim
    'vocab_size': 30522,  # rows of the token embedding
    'embed_std': 0.02,  # of the initial embeddings
    'num_labels': 25,  # categories of the box encoder, padding included
    'num_classes': 1000,  # classes, the one for none not counted
    'null_class': True,  # whether there is a class for none
    'class_by': 'crossattn',  # crossattn | adm (with the noise level)
    'also': '',  # a second condition: '' | class | camera | superres
    'camera_drop': 0.15,  # share of attributes of the camera forgotten
    # Deviation of the noise on small pictures beside images (not beside
    # latents): in training its logarithm is uniform from low to high.
    'lr_noise_low': 0.01,
    'lr_noise_high': 0.5,
    'lr_noise_sampling': 0.1,
    'map_classes': 182,  # values of a semantic map
    'map_channels': 3,  # of a semantic map beside the latent
    'null_prefix': (),  # first tokens of the null text, the rest is padding
    'pad_id': 0,  # padding token of a text
    'weights': '',  # file of a frozen encoder
    'drop': 0.0,  # share of training conditions replaced by the null one
  }


def _loss() -> Mapping[str, Any]:
  return {  # of a first stage
    'perceptual': 'pyramid',  # lpips | pyramid (L1 + L2 of pyramids) | none
    'pixel_loss': 'l1',  # l1 | l2; the papers' is l1
    'perceptual_weight': 1.0,
    'perceptual_weights': '',  # file of LPIPS with its VGG16
    'codebook_weight': 1.0,
    'kl_weight': 1e-6,  # of the divergence of a kl network
    'logvar_init': 0.0,  # log variance of the reconstruction of a kl network
    'train_logvar': False,  # whether it is trained; the reference does not
    'disc_weight': 0.8,  # of the adversarial term; 0 = no discriminator
    'disc_start': 30001,  # first step with the adversarial term
    'disc_loss': 'hinge',  # hinge | vanilla
    'disc_width': 64,  # channels after the first convolution
    'disc_layers': 2,  # strided convolutions of the discriminator
  }


def _sketch() -> Mapping[str, Any]:
  return {  # of the system sketch, and of sampling with what it trained
    'base': '',  # workdir of the frozen system whose activations are read
    # Activations, by the names of the network; the paper's.
    'taps': (
      'in2',
      'in4',
      'in8',
      'mid0',
      'mid1',
      'mid2',
      'out2',
      'out4',
      'out8',
    ),
    'hidden': (512, 256, 128, 64),  # widths of the predictor
    'octaves': 10,  # of the encoding of the noise level
    'noise_input': 'scalar',  # what tells the level: scalar | map | map_pred
    'tap_norm': 'layer',  # of each activation: layer | none
    'head': 'token',  # of a base with tokens: token | pixel
    'shared': True,  # one predictor for all stages of the base, or one each
    # What is learned: the edges of the data (true), of a detector (sobel |
    # xdog | pidinet | pidinet-small | pidinet-tiny), or the semantic map, its
    # classes as brightness (map).
    'edges': 'true',
    'edge_weights': '',  # file of a detector that is a network
    # What is predicted of the edge map: what the first stage makes of it
    # (latent), or its pixels.
    'target_space': 'latent',
    # Of sampling any system: a workdir of the system sketch.
    'predictor': '',
    # Length of a correction over that of its step, and the share of the steps
    # that are corrected: of each stage, coarse first; the last serves the
    # rest.
    'beta': (1.6, 0.8, 0.4),
    'stop_fraction': (0.5, 0.3),
    'norm_ref': 'mean',  # the step without its noise (mean), or with (sample)
    'foreign': False,  # evaluate with the edges of another example
  }


def _laplacian() -> Mapping[str, Any]:
  return {  # of ladm; the stages are counted from 1, the finest
    'levels': 3,  # resolutions
    # Sigmas of the full resolution, from which on the bands 1, 2, ... are
    # gone and the next stage is enough; rising.
    'switch_sigmas': (1.0, 2.4),
    # How they fade: quad | linear | seglinear | coslog | vp | hard.
    'schedule': 'quad',
    # Root mean square of the bands of the data, finest first, the last of
    # what is left at the coarsest resolution (python -m
    # pyramid_jax.commands.measure_bands).
    'band_rms': (0.086, 0.098, 0.53),
    'sigma_min': 0.002,
    'sigma_max': 320.0,  # 80 at the coarsest of three resolutions
    'preconditioning': 'band',  # of each band | scalar, of their sum
    'shared': False,  # one network for all stages, or one each
    'network': 'unet',  # unet | diffit
    # Of diffit: tell finer stages the clean image of the one before, in
    # training with diffusion.noise_mix_ratio.
    'self_context': False,
    'latent': False,  # of the latents of a first stage, or of images
    # One number a stage, coarse to fine, or one for all.
    'stage_batch': (0,),  # examples of a batch; 0 = equal parts
    'wavelets': (0,),  # levels of the Haar packet around the network
    'guidance_parts': (1.0,),  # of sample.guidance - 1
  }


def _sample() -> Mapping[str, Any]:
  return {
    'steps': 50,  # solver steps of every scale, or (coarse, ..., fine)
    'guidance': 1.0,  # classifier-free guidance; 1 = none
    'guidance_interval': (0.0, 1.0),  # parts of the chain's time it acts in
    'guidance_channels': 0,  # the first so many are guided; 0 = all
    'guidance_power': 0.0,  # above 0: it grows from 1 as the noise falls
    'eta': 0.0,  # noise of ddim: 0 = deterministic, 1 = ancestral
    'temperature': 1.0,  # factor of the noise of ddim and ddpm
    # ddim | plms | ddpm | dpmpp_2m | unipc | heun; of diffit, in continuous
    # time: heun | euler.
    'solver': 'ddim',
    # Of levels: official | exact | log_snr | quad | adm | strided | auto =
    # official for ddim and plms, log_snr for dpmpp_2m, unipc and heun.
    'spacing': 'auto',
    # Let enlarged pictures have exactly the given one when they are shrunk.
    'project': False,
    'windows': (0, 0),  # (side, stride) in a latent larger than they are
    'discretization': 'edm',  # levels of diffit: vp | ve | iddpm | edm
    'rho': 7.0,  # how much those of edm crowd at low noise
    'sigma_min': 0.0,  # the lowest; 0 = the discretization's own
    'sigma_max': 0.0,  # the highest; 0 = the discretization's own
    'churn': 0.0,  # noise that diffit adds anew, over all steps
    'churn_min': 0.0,  # sigma from which on it does
    'churn_max': 0.0,  # up to which; 0 = no bound
    'churn_noise': 1.0,  # deviation of that noise
    'batch_size': 16,  # images at a time
    'count': 16,  # images of --mode=sample
    'shape': (0, 0),  # their height and width, px; of ladm; 0 = the square
    'seed': 0,
  }


def check(fields: Mapping[str, Any], prefix: str = '') -> None:
  """Checks what can be known of the fields before anything is built.

  Args:
    fields: {'train.steps': 1000, ...}.
    prefix: of their names in messages.

  Raises:
    UserError: the first field that is out of its range, and that range.
  """

  def need(name: str, ok: bool, allowed: str) -> None:
    if not ok:
      raise errors.UserError(
        f'config.{prefix}{name} is {fields[name]!r}, must be {allowed}.'
      )

  def at_least(low: float, *names: str) -> None:
    for name in names:
      values = fields[name]
      values = values if isinstance(values, tuple) else (values,)
      need(name, all(v >= low for v in values), f'at least {low}')

  for name, allowed in CHOICES.items():
    need(name, fields[name] in allowed, f'one of {", ".join(allowed)}')
  for name in ('steps', 'batch_size', 'log_every', 'checkpoint_every'):
    at_least(1, f'train.{name}')
  at_least(1, 'train.accumulate', 'train.keep', 'data.image_size')
  at_least(1, 'condition.num_classes', 'condition.map_classes')
  at_least(1, 'condition.map_channels')
  at_least(1, 'data.workers', 'data.lr_factor', 'diffusion.timesteps')
  at_least(1, 'sample.steps', 'sample.batch_size', 'sample.count')
  at_least(1, 'evaluate.count', 'evaluate.batch_size', 'mesh.fsdp_min_size')
  at_least(0, 'train.sample_every', 'train.eval_every', 'train.seed')
  at_least(0, 'condition.mlp_dim', 'data.buckets')
  at_least(0, 'train.clip_norm', 'train.decay_steps', 'train.warmup_steps')
  at_least(0, 'train.learning_rate', 'optimizer.weight_decay')
  at_least(0, 'sample.guidance', 'sample.eta', 'sample.seed', 'data.seed')
  at_least(0, 'sample.temperature', 'condition.embed_std')
  at_least(0, 'sample.churn', 'sample.churn_min', 'sample.churn_max')
  at_least(0, 'sample.churn_noise', 'sample.sigma_min', 'sample.sigma_max')
  for name in ('sample.rho', 'diffusion.sigma_data', 'diffusion.P_std'):
    need(name, fields[name] > 0, 'above 0')
  need('diffusion.augment', 0 <= fields['diffusion.augment'] <= 1, 'in [0, 1]')
  at_least(0, 'sample.guidance_channels', 'sample.guidance_power')
  interval = fields['sample.guidance_interval']
  need(
    'sample.guidance_interval',
    len(interval) in (0, 2) and sorted((0, *interval, 1)) == [0, *interval, 1],
    'two numbers 0 <= from <= to <= 1, or ()',
  )
  windows = fields['sample.windows']
  need(
    'sample.windows',
    len(windows) == 2 and min(0, *windows) == 0 and windows[1] <= windows[0],
    'two numbers, the side of a window and at most as long a stride',
  )
  need(
    'sample.windows', windows[1] > 0 or windows[0] == 0, 'with a stride above 0'
  )
  shape = fields['sample.shape']
  need(
    'sample.shape',
    len(shape) == 2 and (shape == (0, 0) or min(shape) > 0),
    'height and width above 0, or (0, 0)',
  )
  accumulate = fields['train.accumulate']
  need(
    'train.batch_size',
    fields['train.batch_size'] % accumulate == 0,
    f'divisible by config.{prefix}train.accumulate = {accumulate}',
  )
  at_least(0, 'sketch.beta')
  at_least(1, 'sketch.hidden', 'sketch.octaves')
  for name in ('beta', 'stop_fraction', 'hidden', 'taps'):
    need(f'sketch.{name}', len(fields[f'sketch.{name}']) > 0, 'not empty')
  stops = fields['sketch.stop_fraction']
  need('sketch.stop_fraction', 0 <= min(stops) <= max(stops) <= 1, 'in [0, 1]')
  at_least(0, 'ema.halflife_images', 'ema.halflife_rampup')
  need('ema.decay', 0 <= fields['ema.decay'] < 1, 'in [0, 1)')
  for name in ('condition.drop', 'condition.camera_drop'):
    need(name, 0 <= fields[name] <= 1, 'in [0, 1]')
  low = fields['condition.lr_noise_low']
  need('condition.lr_noise_low', low > 0, 'above 0')
  need(
    'condition.lr_noise_sampling',
    fields['condition.lr_noise_sampling'] > 0,
    'above 0',
  )
  need(
    'condition.lr_noise_high',
    fields['condition.lr_noise_high'] >= low,
    f'at least config.{prefix}condition.lr_noise_low = {low}',
  )
  for axis in ('data', 'fsdp', 'tensor'):
    size = fields[f'mesh.{axis}']
    need(f'mesh.{axis}', size == -1 or size >= 1, '-1 (the rest) or at least 1')
