"""VGG16 of torchvision, `vgg16-397923af.pth`: its keys."""

from pyramid_jax.interop import mapping


# The layer of the 1000 classes.
UNREAD = ('classifier.6.weight', 'classifier.6.bias')
_LINEAR = {'fc1': 'classifier.0', 'fc2': 'classifier.3'}


def rename(path: mapping.Path) -> tuple[str, str]:
  """Returns the official key of a parameter of `vgg.VGG16`, and its kind."""
  *_, module, leaf = path
  if module in _LINEAR:
    return mapping.official(_LINEAR[module], leaf)
  index = module.rpartition('_')[2]
  return mapping.official(f'features.{index}', leaf, 'conv')
