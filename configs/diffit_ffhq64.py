r"""DiffiT in image space on FFHQ, 64 px.

The network is that of arXiv:2312.02139, section 3.2 and appendices H.1 and I.1,
trained as EDM; see diffit_cifar10.py. The published FID is 2.22; nothing is
measured here. The network has 49.7 M parameters. EDM trained its own network
for four days on 8 V100.

  python -m pyramid_jax.main --config=configs/diffit_ffhq64.py \
      --config.data.root=FFHQ --workdir=DIR

Reads all 70,000 images of the official folders (docs/data.md), or of the zip
that EDM's data set tool wrote, and resizes those that have not 64 px as it
does, by Lanczos's filter.

Variants:
  vp (default), ve: the embedding of the noise level, see diffit_cifar10.py.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(arg, embedding=('vp', 've'), debug=False)
  cifar10 = config_lib.sibling(__file__, 'diffit_cifar10')
  config = cifar10.published('diffit_ffhq64', 256)
  config.name += f'_{variant["embedding"]}'
  config.data.name = 'ffhq'
  config.data.image_size = 64
  config.data.crop = config.data.eval_crop = 'square'
  config.data.resize = 'lanczos'
  config.train.learning_rate = 2e-4
  config.network.channel_mult = (1, 2, 2, 2)
  config.network.window = 8
  config.network.dropout = 0.05
  config.diffusion.augment = 0.15
  config.sample.steps = 40  # Heun takes 79 network calls.
  if variant['embedding'] == 've':
    config.network.embedding = 'fourier'
    config.network.embedding_dim = 256
  if variant['debug']:
    cifar10.shrink(config)
  return config
