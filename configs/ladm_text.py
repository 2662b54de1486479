r"""LaDM: text to image at 256 px, and from 256 to 1024 px.

arXiv:2411.07126 (NVIDIA "Edify Image") shows a two-stage cascade of pixel
models, Laplacian processes, wavelets around U-Nets, long prompts and control of
the camera. It shows no sizes, learning rates, data or scores: all numbers are
our own choices, and nothing is measured. As in the report, each stage has its
own U-Net.

  python -m pyramid_jax.main --config=configs/ladm_text.py:256 \
      --config.data.root=CAPTIONED --workdir=DIR

A run of the variant 1k enlarges what another run samples:

  python -m pyramid_jax.main --mode=sample --workdir=DIR --prompt='...' \
      --upsampler=DIR_1K

Reads a folder of images with captions.jsonl, which may name the camera.
--config.data.buckets=64 keeps the aspect ratios of the images, and then
--config.sample.shape=192,320 samples images of that shape. condition.weights
(T5, safetensors) and condition.vocab_file (tokenizer.json) must be set. Measure
the band powers of the data first: those of 256 px are of six photographs, those
of 1024 px a guess from them.

A batch of 256 keeps at most 32 devices busy, which must divide each number of
config.laplacian.stage_batch; docs/scaling.md says how to fill a pod.

A few images of a person, a thing or a style customise a trained model: the
report (section on finetuning) shows such sets and publishes no numbers. Their
captions name it by words that mean nothing else, such as 'a photo of sks'; each
network of a stage is trained on them, those of the model of 256 px and those of
1024 px.

  python -m pyramid_jax.main --config=configs/ladm_text.py:256,custom \
      --config.train.init_from=DIR --config.data.root=FEW --workdir=DIR_OWN

FEW is a folder of these images with captions.jsonl. To keep what the model
knows of a kind of things, images of it that the model has sampled may lie in
the same folder with their captions (arXiv:2208.12242); nothing of the report is
known to do so.

Variants:
  256 (default): stages of 64, 128 and 256 px, conditioned on the tokens of a
    pretrained T5 v1.1 XXL and on the camera.
  1k: stages of 256, 512 and 1024 px, all on a grid of 256 through wavelet
    packets, conditioned on the text and on the image of 256 px with added noise
    (arXiv:2106.15282).
  custom: 1,000 steps on a few images, from config.train.init_from.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')

# The sizes of `debug`; see `common.shrink`.
SMALL = {
  **common.SMALL_ENCODER,
  'dtype': 'float32',
  'remat': 'none',
  'network.model_channels': 32,
  'network.channel_mult': (1, 1),
  'network.num_res_blocks': 1,
  'network.attention_resolutions': (2,),
  'network.num_head_channels': 16,
  'condition.mlp_dim': 64,
  'data.image_size': 64,
  'laplacian.stage_batch': (0,),
  'train.batch_size': 3,
  'train.warmup_steps': 2,
  'sample.steps': 2,
}


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of one model of the cascade."""
  variant = config_lib.parse_variants(
    arg, size=('256', '1k'), custom=False, debug=False
  )
  is_large = variant['size'] == '1k'
  config = config_lib.base('ladm')
  config.name = f'ladm_text_{variant["size"]}'
  config.dtype, config.remat = 'bfloat16', 'full'
  config.network = ConfigDict(
    {
      'model_channels': 128 if is_large else 256,
      'channel_mult': (1, 2, 4, 4),
      'num_res_blocks': 2,
      'attention_resolutions': (8,) if is_large else (2, 4, 8),
      'num_head_channels': 64,
      'use_spatial_transformer': True,
      'use_scale_shift_norm': True,
      'resblock_updown': True,
      'pool_context': True,
    }
  )
  config.data.name = 'image_folder'
  config.data.image_size = 1024 if is_large else 256
  config.data.lr_factor = 4
  config.data.crop = 'center'
  c = config.condition
  c.task, c.encoder = 'text', 't5'
  c.also = 'superres' if is_large else 'camera'
  c.max_length, c.cond_dropout = 128, 0.1
  c.dim, c.depth, c.mlp_dim = 4096, 24, 10240
  c.heads, c.head_dim, c.vocab_size = 64, 64, 32128
  c.null_prefix, c.pad_id = (1,), 0  # 1 is the end token.

  pyramid = config.laplacian
  pyramid.levels = 3
  # The band powers of photographs; at the switches the noise is twelve times as
  # strong. For 1024 px, those of what an image of 256 px leaves open.
  pyramid.band_rms = (0.052, 0.056, 0.018) if is_large else (0.086, 0.098, 0.53)
  pyramid.switch_sigmas = (0.62, 1.34) if is_large else (1.0, 2.4)
  pyramid.sigma_max = 20.0 if is_large else 320.0
  if is_large:
    config.diffusion.P_mean, config.diffusion.P_std = -3.5, 1.6
  pyramid.wavelets = (0, 1, 2) if is_large else (0, 0, 1)
  pyramid.stage_batch = (96, 96, 64)
  config.optimizer.b2 = 0.99
  config.train.batch_size = 256
  config.train.learning_rate = 1e-4
  config.train.warmup_steps = 10_000
  config.train.steps = 1_000_000
  config.train.checkpoint_every = config.train.sample_every = 10_000
  config.train.log_every = 100
  config.ema.decay = 0.9999
  config.sample.steps = (16, 12, 12)
  config.sample.guidance = 5.0
  config.sample.count = config.sample.batch_size = 16
  config.evaluate.count, config.evaluate.batch_size = 30_000, 32
  config.evaluate.protocol = 'coco_30k'
  if variant['custom']:
    _customise(config)
  if variant['debug']:
    common.shrink(config, SMALL)
  return config


def _customise(config: ConfigDict) -> None:
  """Sets a short run on a few images, at a low learning rate."""
  config.name += '_custom'
  config.laplacian.stage_batch, config.train.batch_size = (6, 6, 4), 16
  config.train.learning_rate = 1e-5
  config.train.steps, config.train.warmup_steps = 1000, 0
  config.train.checkpoint_every = config.train.sample_every = 250
  config.train.log_every = 10
  config.ema.decay = 0.99  # 0.9999 would keep the weights of the base.
  config.evaluate.count, config.evaluate.protocol = 16, ''
