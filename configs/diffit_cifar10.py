r"""DiffiT in image space on CIFAR-10, 32 px.

arXiv:2312.02139, section 3.2 and appendices H.1 and I.1, trained as EDM
(NVlabs/edm: train.py), which the paper says it follows. Published FID: 1.95
without classes; nothing of it was released, nothing here is measured. Of the
sizes that the paper gives twice this takes those that agree with EDM's: 43.7 M
parameters. EDM trained its own network, which is no smaller, for two days on
8 V100.

  python -m pyramid_jax.main --config=configs/diffit_cifar10.py \
      --config.data.root=TFDS --workdir=DIR

Reads what `tfds build cifar10 --file_format=array_record` made; a folder with
train/CLASS/ and val/CLASS/ serves as well:

      --config.data.name=image_folder --config.data.root=CIFAR10

config.train.accumulate and config.remat save memory. EDM multiplies float32 in
full; on a GPU that takes JAX_DEFAULT_MATMUL_PRECISION=highest. The learning
rate rises over ten million images, 200 million are a whole training.

Variants: none (default), class (conditional); vp (default), ve: the embedding
of the noise level, of DDPM++ or of NCSN++ (both are trained in EDM's
preconditioning; the processes themselves: config.diffusion.preconditioning=vp
or ve); debug: the smallest size.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


IMAGES = 200_000_000  # of a whole training
WARMUP_IMAGES = 10_000_000


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg, task=('none', 'class'), embedding=('vp', 've'), debug=False
  )
  config = published('diffit_cifar10', 512)
  config.name += f'_{variant["task"]}_{variant["embedding"]}'
  config.data.name = 'tfds/cifar10'
  config.data.image_size = 32
  config.train.learning_rate = 1e-3
  config.network.channel_mult = (2, 2, 2)
  config.network.window = 4
  config.network.dropout = 0.13
  config.diffusion.augment = 0.12
  config.sample.steps = 18  # 35 calls of the network
  if variant['embedding'] == 've':
    config.network.embedding = 'fourier'
    config.network.embedding_dim = 256
  if variant['task'] == 'class':
    config.condition.task, config.condition.class_by = 'class', 'timestep'
    config.condition.num_classes = 10
  if variant['debug']:
    shrink(config)
  return config


def published(name: str, batch_size: int) -> ConfigDict:
  """Returns what the published configs have in common.

  Args:
    name: of the experiment.
    batch_size: of training.
  """
  config = config_lib.base('diffit')
  config.name = name
  config.network = ConfigDict(
    {
      'width': 128,  # channels of the tokenizer
      'channel_mult': (2, 2, 2),  # of the levels, finest first
      'num_blocks': 4,  # L, at every level
      'window': 4,  # side of the windows of attention
      'head_dim': 64,  # of attention; the paper does not say
      'mlp_ratio': 4.0,
      'time_dim': 512,  # of the time token
      'time_token': 'tmsa',  # or 'add': plain blocks
      'embedding': 'positional',  # of the noise level; or 'fourier'
      'embedding_dim': 128,
      'skips': 'block',  # what is handed across; or 'level'
      'skip_scale': 0.5**0.5,  # of residual blocks; 1 is equation 10
      'stem_stride': 1,  # px of a side of a position of the finest level
      'resample': 'conv',  # between levels; or 'pool'
      'dropout': 0.13,
      'conv_gain': 1e-5,  # of initial weights in residual branches
      'branch_gain': 1e-5,
      'head_gain': 1e-5,
    }
  )
  config.diffusion.preconditioning = 'edm'
  config.diffusion.sigma_data = 0.5
  config.optimizer.nan_to_zero = True
  config.ema.halflife_images = 500_000.0
  config.ema.halflife_rampup = 0.05
  config.train.batch_size = batch_size
  config.train.steps = IMAGES // batch_size
  config.train.warmup_steps = WARMUP_IMAGES // batch_size
  config.train.log_every = 50
  config.train.checkpoint_every = 2500
  config.train.sample_every = 10_000
  config.data.crop = 'center'  # the augmentation moves and mirrors images
  config.sample.solver = 'heun'
  config.sample.batch_size = 64
  return config


def shrink(config: ConfigDict) -> None:
  """Makes the config the smallest that runs the same code."""
  common.shrink(
    config,
    {
      'network.width': 16,
      'network.channel_mult': (1, 2),
      'network.num_blocks': 1,
      'network.head_dim': 16,
      'network.time_dim': 32,
      'data.image_size': config.data.image_size,
      'train.warmup_steps': 2,
      'sample.steps': 3,
    },
  )
