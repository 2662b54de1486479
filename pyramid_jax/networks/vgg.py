"""VGG16 up to its second fully connected layer, for precision and recall."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import lpips
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import options


SIDE = 224  # pixels of the input
FEATURES = 4096
_POOLS = 5  # by 2 x 2 pixels, from SIDE to the fully connected layers


class VGG16(nn.Module):
  """The network of torchvision (arXiv:1409.1556) in evaluation mode."""

  features: int = FEATURES

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps scaled (B, 224, 224, 3) to (B, 4096), fc2 after its ReLU."""
    options.check_image('VGG16', x, 2**_POOLS)
    x = nn.max_pool(lpips.VGG16(name='net')(x)[-1], (2, 2), (2, 2))
    # The layers read channel by channel.
    x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
    for name in ('fc1', 'fc2'):
      x = nn.relu(affine.Linear(self.features, name=name)(x))
    return x
