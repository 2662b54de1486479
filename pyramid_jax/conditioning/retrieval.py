"""Images near to a wanted one, or its text, as tokens in the space of CLIP.

Retrieval-augmented diffusion (arXiv:2204.11824, arXiv:2207.13038): a model is
trained on the embeddings of the nearest neighbours of each image, and sampled
with the embedding of a text, alone or followed by its neighbours
(CompVis/latent-diffusion: scripts/knn2img.py). All are unit vectors, the tokens
of the denoiser's attention; how many there are may differ from call to call.
The null condition is zeros, as many as there are tokens.
"""

from collections.abc import Collection
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.conditioning import tokens
from pyramid_jax.networks import pretrained as pretrained_lib


TASK = 'retrieval'
KEY = 'neighbours'  # of the embeddings in a batch
IDS = 'condition_ids'  # of the text


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalEncoder(encoder.Encoder):
  """The tokens of a text and of neighbours; a batch has either, or both.

  Attributes:
    width: of the embeddings.
    count: the neighbours of a training image.
    text: CLIP's text tower with its projection, None where texts are not
      encoded.
  """

  width: int
  count: int
  text: tokens.ClipEncoder | None = None

  is_released = False  # The condition of a release is an identity.

  @property
  def widths(self) -> encoder.Widths:
    return encoder.Widths(context=self.width)

  @property
  def example(self) -> encoder.Batch:
    return {KEY: jnp.zeros((1, self.count, self.width))}

  def lacking(self, names: Collection[str]) -> list[str]:
    has_text = self.text is not None and IDS in names
    return [] if has_text or KEY in names else [KEY]

  def init(self, key: jax.Array) -> Any:
    return {} if self.text is None else self.text.init(key)

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    found = []
    if IDS in batch:
      found.append(self.query(params, batch[IDS]))
    if KEY in batch:
      found.append(batch[KEY])
    return encoder.Inputs(context=jnp.concatenate(found, axis=1))

  def query(self, params: Any, ids: jax.Array) -> jax.Array:
    """Returns the embeddings (B, 1, D) of texts, given their ids (B, L).

    Raises:
      ValueError: there is no encoder of texts.
    """
    if self.text is None:
      raise ValueError(
        "config.condition.weights is '', must name the weights of CLIP's text"
        ' tower: the condition is a text'
      )
    return self.text.embedded(params, ids)

  @property
  def pretrained(self) -> pretrained_lib.PretrainedPart | None:
    return None if self.text is None else self.text.pretrained


def create(config: ConfigDict, first_stage: encoder.FirstStage) -> Any:
  """Builds the encoder of 'retrieval'; texts need `config.condition.weights`.

  Raises:
    ValueError: an encoder of texts that does not give one unit vector.
  """
  c = config.condition
  if c.encoder != 'clip' or not c.pooled:
    raise ValueError(
      f'config.condition.encoder is {c.encoder!r} with pooled = {c.pooled},'
      f" must be 'clip' with pooled = True for config.condition.task = {TASK!r}"
    )
  text = tokens.create_clip(config, first_stage) if c.weights else None
  return RetrievalEncoder(width=c.dim, count=c.neighbours, text=text)
