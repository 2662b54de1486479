"""Images that a person gives as a condition: checked, as arrays."""

from ml_collections import ConfigDict
import numpy as np


def from_map(classes: np.ndarray, config: ConfigDict) -> dict[str, np.ndarray]:
  """Returns the row of a semantic map.

  Args:
    classes: (H, W) uint8, 0 = unlabelled; both sides as the model takes them.
    config: of the run.

  Returns:
    `mask` (1, H, W) uint8.

  Raises:
    ValueError: a class that the model does not have.
  """
  count = config.condition.map_classes
  if classes.max() >= count:
    raise ValueError(
      f'the map has the class {classes.max()}, the model takes 0..{count - 1}'
    )
  return {'mask': classes[None]}


def from_low_resolution(
  image: np.ndarray, config: ConfigDict
) -> dict[str, np.ndarray]:
  """Returns the row of an image that is to be enlarged.

  Args:
    image: (h, w, 3) uint8.
    config: of the run.

  Returns:
    `lr_image` (1, h, w, 3) uint8.

  Raises:
    ValueError: another size than the model was trained with.
  """
  large = config.data.image_size
  small = large // config.data.lr_factor
  height, width, _ = image.shape
  if (height, width) != (small, small):
    raise ValueError(
      f'the image is {width} x {height} px; the model enlarges {small} x '
      f'{small} px to {large} x {large} px'
    )
  return {'lr_image': image[None]}


def from_holes(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the row of an image with holes.

  Args:
    image: (H, W, 3) uint8.
    mask: (H, W) bool, True = hole.

  Returns:
    `image` (1, H, W, 3) uint8 and `inpaint_mask` (1, H, W) uint8.

  Raises:
    ValueError: no hole.
  """
  if not mask.any():
    raise ValueError('the mask has no hole; what is white is painted')
  return {'image': image[None], 'inpaint_mask': mask[None].astype(np.uint8)}
