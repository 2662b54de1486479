r"""Latent DiffiT on ImageNet, 256 or 512 px: a class as the condition.

arXiv:2312.02139, tables 1 and 9; NVlabs/DiffiT: diffit/diffit.py, sample.py.
Published, 50k images of 250 DDPM steps: 256 px FID 1.73, inception score 276.5;
512 px 2.67 and 252.1. Nothing of it is measured here. The network has
561,035,232 parameters (562,382,816 for 512 px) and takes 118.5 GMACs (524.4) a
forward pass.

The training code was not released: AdamW without decay, a constant rate, no
warm-up, uniform levels, the crop and the mirror images are those of MDT, whose
rates and batches the paper repeats; so is the number of steps that papers
compare at. The published models were trained longer (DiT: 7 M steps).

Encode the images once with sd-vae, then train from the latents:

  python -m pyramid_jax.commands.cache_latents \
      --config=configs/diffit_imagenet.py \
      --config.data.root=IMAGENET/train --first_stage=VAE --output=CACHE --flips
  python -m pyramid_jax.main --config=configs/diffit_imagenet.py \
      --config.data.name=latents --config.data.root=CACHE \
      --config.first_stage.checkpoint=VAE --workdir=DIR

VAE is sd-vae-ft-ema or -mse, converted: docs/weights.md. Reads a folder with
one sub-folder a class, or with --config.data.name=tfds/imagenet2012 that data
set. Variants: 256 (default), 512; debug: the smallest size. Without a
checkpoint the first stage is trained in DIR/first_stage.

Other sampling: --config.sample.solver=ddim --config.sample.spacing=strided
--config.sample.steps=50; unipc, dpmpp_2m and heun with spacing auto.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration of the second stage."""
  variant = config_lib.parse_variants(arg, size=('256', '512'), debug=False)
  is_large = variant['size'] == '512'
  config = config_lib.base('latent_diffit')
  config.name = f'diffit_imagenet_{variant["size"]}'
  config.dtype = 'bfloat16'  # norms, softmax and the loss are float32
  # Of every block the results of its linear layers are kept. All that the
  # backward pass reads is 0.8 GB an image at 256 px, 5.4 GB at 512 px, by
  # count, with the attention of XLA.
  config.remat = True
  config.network = ConfigDict(
    {
      'patch_size': 2,
      'hidden_size': 1152,
      'depth': 28,
      'num_heads': 16,
      'mlp_ratio': 4.0,
      'learn_sigma': True,
      'remat_keeps': 'products',
    }
  )
  config.data.name = 'image_folder'
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
  config.train.batch_size = 512 if is_large else 256
  config.train.learning_rate = 1e-4 if is_large else 3e-4
  config.train.steps = 400_000
  config.train.log_every = 50
  config.train.checkpoint_every = 10_000
  config.train.sample_every = 20_000

  config.sample.solver, config.sample.spacing = 'ddpm', 'iddpm'
  config.sample.steps = 250
  config.sample.guidance = 1.49 if is_large else 4.4
  config.sample.guidance_power = 0.0 if is_large else 4.0
  config.sample.guidance_channels = 3
  config.evaluate.count, config.evaluate.batch_size = 50_000, 64

  first = config_lib.sibling(__file__, 'ldm_autoencoder')
  names = 'kl_f8,debug' if variant['debug'] else 'kl_f8'
  config_lib.add_first_stage(config, first.get_config(names))
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
