"""Fields of a classifier of noisy states."""

from collections.abc import Mapping

from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.systems import fields as fields_lib


FIELDS: Mapping[str, Field] = {
  'classifier.space': Field(
    'images',
    'What is classified: noisy images, or the latents of classifier.base.',
    choices=('images', 'latents'),
  ),
  'classifier.base': Field(
    '',
    'The workdir of the trained system whose latents are classified.',
    path=True,
  ),
  **fields_lib.SCHEDULE,
  **sample_fields.IMAGES,
}
