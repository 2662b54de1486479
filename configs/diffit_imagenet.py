r"""Latent DiffiT on ImageNet, 256 or 512 px, conditioned on the class.

The network is that of arXiv:2312.02139, tables 1 and 9; NVlabs/DiffiT:
diffit/diffit.py, sample.py. Published scores, for 50k images of 250 DDPM steps:
FID 1.73 and inception score 276.5 at 256 px, 2.67 and 252.1 at 512 px. Nothing
is measured here. The network has 561,035,232 parameters (562,382,816 at 512 px)
and takes 118.5 GMACs (524.4) for a forward pass of one image.

The training code was not released. AdamW without weight decay, the constant
learning rate without warm-up, the averages with a constant decay, uniform noise
levels, the crop and the mirrored images are those of MDT, whose learning rates
and batch sizes the paper repeats. The number of steps is the one at which
papers compare. The published models were trained for longer (DiT: 7 M steps).

Encode the images once with sd-vae, then train on the latents:

  python -m pyramid_jax.commands.cache_latents \
      --config=configs/diffit_imagenet.py \
      --config.data.root=IMAGENET --first_stage=VAE --output=CACHE --flips
  python -m pyramid_jax.main --config=configs/diffit_imagenet.py \
      --config.data.name=latents --config.data.root=CACHE \
      --config.first_stage.checkpoint=VAE --workdir=DIR

VAE is sd-vae-ft-ema or sd-vae-ft-mse, converted: docs/weights.md. IMAGENET has
the official files (docs/data.md); --config.data.name=tfds/imagenet2012 reads
that data set instead. Without a checkpoint the first stage is trained in
DIR/first_stage.

Fewer steps: --config.sample.solver=ddim --config.sample.spacing=strided
--config.sample.steps=50, or unipc, dpmpp_2m and heun with the spacing auto.

Variants:
  256 (default), 512: pixels.
  released (default), paper: the scale of guidance at 256 px, that of sample.py
    (4.4) or of section 5.8 (4.6); at 512 px both are 1.49.
  bfloat16 (default), float32: the type of activations, for accelerators or as
    in MDT and the release.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(
    arg,
    size=('256', '512'),
    scale=('released', 'paper'),
    dtype=('bfloat16', 'float32'),
    debug=False,
  )
  is_large = variant['size'] == '512'
  config = config_lib.base('latent_diffit')
  config.name = f'diffit_imagenet_{variant["size"]}'
  config.dtype = variant['dtype']  # Norms, softmax and the loss are float32.
  # The results of the linear layers of every block are kept. By count, with
  # the attention of XLA, everything that the backward pass reads would be 0.8
  # GB an image at 256 px and 5.4 GB at 512 px.
  config.remat = 'products'
  config.network = ConfigDict(
    {
      'patch_size': 2,
      'hidden_size': 1152,
      'depth': 28,
      'num_heads': 16,
      'mlp_ratio': 4.0,
      'learn_sigma': True,
    }
  )
  config.data.name = 'imagenet'
  config.data.image_size = 512 if is_large else 256
  config.data.crop = config.data.eval_crop = 'adm'
  config.data.flip = True
  config.condition.task = 'class'
  config.condition.class_by = 'timestep'
  config.condition.num_classes = 1000
  config.condition.cond_dropout = 0.1

  config.diffusion.beta_schedule = 'linear'
  config.diffusion.linear_start, config.diffusion.linear_end = 1e-4, 0.02
  config.diffusion.variance = 'learned_range'
  config.diffusion.scale_factor = 0.18215
  config.optimizer.name = 'adamw'
  config.ema.warmup = False
  config.train.batch_size = 512 if is_large else 256
  config.train.learning_rate = 1e-4 if is_large else 3e-4
  config.train.steps = 400_000
  config.train.log_every = 50
  config.train.checkpoint_every = 10_000
  config.train.sample_every = 20_000

  _set_sampling(config, is_large, variant['scale'] == 'paper')
  first = config_lib.sibling(__file__, 'ldm_autoencoder')
  names = 'kl_f8,debug' if variant['debug'] else 'kl_f8'
  config_lib.add_first_stage(config, first.get_config(names))
  config.first_stage.data.name = config.data.name
  if variant['debug']:
    common.shrink(
      config,
      {
        'dtype': 'float32',
        'network.hidden_size': 32,
        'network.depth': 2,
        'network.num_heads': 4,
      },
    )
  return config


def _set_sampling(config: ConfigDict, is_large: bool, as_paper: bool) -> None:
  """Sets the published protocol; `as_paper` has its guidance at 256 px."""
  config.sample.solver, config.sample.spacing = 'ddpm', 'iddpm'
  config.sample.steps = 250
  config.sample.guidance = 4.6 if as_paper else 4.4
  config.sample.guidance_power = 4.0
  if is_large:
    config.sample.guidance, config.sample.guidance_power = 1.49, 0.0
  config.sample.guidance_channels = 3
  config.sample.to_uint8 = 'truncate'
  config.evaluate.update(protocol='adm', count=50_000, batch_size=64)
