r"""DiffiT in image space on CIFAR-10, 32 px.

The network is that of arXiv:2312.02139, section 3.2 and appendices H.1 and I.1,
trained as EDM (NVlabs/edm: train.py), which the paper says it follows. The
published FID without classes is 1.95. The authors released neither code nor
weights of it, and nothing is measured here. Where the paper gives two sizes,
this config has the one that agrees with EDM's: 43.7 M parameters. EDM trained
its own network, which is no smaller, for two days on 8 V100.

  python -m pyramid_jax.main --config=configs/diffit_cifar10.py \
      --config.data.root=CIFAR10 --workdir=DIR

CIFAR10 holds cifar-10-binary.tar.gz or what is in it (docs/data.md). What `tfds
build cifar10 --file_format=array_record` wrote is read with the flag
--config.data.name=tfds/cifar10, a folder with train/CLASS/ and val/CLASS/ with
--config.data.name=image_folder.

config.train.accumulate and config.remat save memory. EDM multiplies matrices in
full float32, which needs JAX_DEFAULT_MATMUL_PRECISION=highest on a GPU. The
learning rate rises over the first 10 M images; a whole training has 200 M.

Variants:
  none (default), class: the condition.
  vp (default), ve: the embedding of the noise level, of DDPM++ or of NCSN++.
    Both are trained with EDM's preconditioning; for the VP and VE processes set
    config.diffusion.preconditioning to vp or ve.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(
    arg, task=('none', 'class'), embedding=('vp', 've'), debug=False
  )
  config = published('diffit_cifar10', 512)
  config.name += f'_{variant["task"]}_{variant["embedding"]}'
  config.data.name = 'cifar10'
  config.data.image_size = 32
  config.train.learning_rate = 1e-3
  config.network.channel_mult = (2, 2, 2)
  config.network.window = 4
  config.network.dropout = 0.13
  config.diffusion.augment = 0.12
  config.sample.steps = 18  # Heun takes 35 network calls.
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
  """Returns the values that both published configs share.

  Args:
    name: the name of the experiment.
    batch_size: the number of images of a training step.
  """
  config = common.edm(name, batch_size)
  config.network = ConfigDict(
    {
      'width': 128,  # The channels of the tokenizer.
      'channel_mult': (2, 2, 2),  # One factor a level, finest first.
      'num_blocks': 4,  # The paper's L, at every level.
      'window': 4,  # The side of an attention window.
      'head_dim': 64,  # The paper does not give it.
      'mlp_ratio': 4.0,
      'time_dim': 512,  # The width of the time token.
      'time_token': 'tmsa',  # Others: diffit_ablations.py.
      'embedding': 'positional',  # How the noise level is embedded.
      'embedding_dim': 128,
      'skips': 'block',  # The other value is 'level'.
      'skip_scale': 0.5**0.5,  # Equation 10 has 1.
      'stem_stride': 1,  # Pixels a side of a finest position.
      'resample': 'conv',  # The other value is 'pool'.
      'dropout': 0.13,
      # Gains of the initial weights of last layers.
      'conv_gain': 1e-5,
      'branch_gain': 1e-5,
      'head_gain': 1e-5,
    }
  )
  return config


def shrink(config: ConfigDict) -> None:
  """Sets the smallest sizes that run the same code."""
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
