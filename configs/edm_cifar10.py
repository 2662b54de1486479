r"""EDM on CIFAR-10, 32 px: the U-Nets DDPM++ and NCSN++ (arXiv:2206.00364).

The networks, their training and the sampler are those of NVlabs/edm (train.py,
README.md: "Training new models"). EDM trained each for two days on 8 V100. Its
abstract gives FID 1.97 without classes and 1.79 with them; nothing is measured
here. DDPM++ has 55.7 M parameters.

  python -m pyramid_jax.main --config=configs/edm_cifar10.py \
      --config.data.root=CIFAR10 --workdir=DIR

CIFAR10 holds cifar-10-binary.tar.gz or what is in it (docs/data.md). A released
network becomes such a folder by

  python -m pyramid_jax.commands.convert --family=edm \
      --config=configs/edm_cifar10.py:class,vp \
      --checkpoint=edm-cifar10-32x32-cond-vp.pkl --workdir=DIR

config.train.accumulate and config.remat save memory. EDM multiplies matrices in
full float32, which needs JAX_DEFAULT_MATMUL_PRECISION=highest on a GPU. The
learning rate rises over the first 10 M images; a whole training has 200 M.

Variants:
  none (default), class: the condition.
  vp (default), ve: the network, DDPM++ or NCSN++.
  edm (default), song: the training, of EDM or of the networks' own paper
    (arXiv:2011.13456), whose preconditioning is that of the network. These are
    the baselines of EDM, which sampled them with its own sampler: FID 3.01 (vp)
    and 3.77 (ve). The values are those of yang-song/score_sde_pytorch:
    configs/; the batch size of 128 and the 1.3 M steps are from memory.
  tmsa: attention becomes TMSA (arXiv:2312.02139, table 5).
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg,
    task=('none', 'class'),
    network=('vp', 've'),
    training=('edm', 'song'),
    tmsa=False,
    debug=False,
  )
  config = common.edm('edm_cifar10', 512)
  config.name += f'_{variant["task"]}_{variant["network"]}'
  config.data.name = 'cifar10'
  config.data.image_size = 32
  config.train.learning_rate = 1e-3
  config.diffusion.augment = 0.12
  config.sample.steps = 18  # Heun takes 35 network calls.
  set_network(config, variant['network'], (2, 2, 2), 0.13)
  if variant['training'] == 'song':
    _train_as_song(config, variant['network'])
  if variant['tmsa']:
    config.name += '_tmsa'
    config.network.tmsa = True
  if variant['task'] == 'class':
    config.condition.task, config.condition.class_by = 'class', 'timestep'
    config.condition.num_classes = 10
  if variant['debug']:
    shrink(config)
  return config


def set_network(
  config: ConfigDict, kind: str, mult: tuple[int, ...], dropout: float
) -> None:
  """Sets the U-Net of EDM.

  Args:
    config: changed in place.
    kind: 'vp' for DDPM++, 've' for NCSN++.
    mult: the factor of the channels of each level, finest first.
    dropout: its rate.
  """
  config.system.denoiser = 'song_unet'
  config.network = ConfigDict(
    {
      'model_channels': 128,
      'channel_mult': mult,
      'channel_mult_emb': 4,
      'num_blocks': 4,
      'attn_resolutions': (16,),
      'dropout': dropout,
      'embedding_type': 'positional',
      'channel_mult_noise': 1,
      'encoder_type': 'standard',
      'decoder_type': 'standard',
      'resample_filter': (1, 1),
      'tmsa': False,
    }
  )
  if kind == 've':
    config.network.embedding_type = 'fourier'
    config.network.channel_mult_noise = 2
    config.network.encoder_type = 'residual'
    config.network.resample_filter = (1, 3, 3, 1)


def _train_as_song(config: ConfigDict, kind: str) -> None:
  """Sets the training of arXiv:2011.13456."""
  config.name += '_song'
  config.network.channel_mult = (1, 2, 2, 2)
  config.network.dropout = 0.1
  config.diffusion.preconditioning = kind
  config.diffusion.augment = 0.0
  config.data.flip = True
  config.optimizer.nan_to_zero = False
  config.ema.halflife_images = config.ema.halflife_rampup = 0.0
  config.ema.decay = {'vp': 0.9999, 've': 0.999}[kind]
  config.train.batch_size = 128
  config.train.learning_rate = 2e-4
  config.train.steps = 1_300_000
  config.train.warmup_steps = 5000
  config.train.clip_norm = 1.0


def shrink(config: ConfigDict) -> None:
  """Sets the smallest sizes that run the same code."""
  common.shrink(
    config,
    {
      'network.model_channels': 16,
      'network.channel_mult': (1, 1),
      'network.num_blocks': 1,
      'data.image_size': config.data.image_size,
      'train.warmup_steps': 2,
      'sample.steps': 3,
    },
  )
