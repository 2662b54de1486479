"""How well images fit their captions by CLIP, as a `states.Measure`.

`clip_score` is 100 max(cos, 0) of the embeddings of an image and its caption,
the mean over images, as tables of text to image print it (Lightning-AI/
torchmetrics: functional/multimodal/clip_score.py). `clip_score_hessel` is the
score of arXiv:2104.08718, 2.5 max(cos, 0) with 'A photo depicts ' before the
caption (jmhessel/clipscore: clipscore.py).
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.evaluation import feature_networks
from pyramid_jax.evaluation import network_files
from pyramid_jax.interop import parts
from pyramid_jax.interop import weight_file
from pyramid_jax.interop.families import text_encoders as text_family
from pyramid_jax.metrics import batched
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import squares
from pyramid_jax.metrics import states


TASK = 'text'  # whose examples have captions
CAPTION = 'caption'
TOKENIZER = 'config.evaluate.clip_tokenizer'
# Score -> its factor, and what stands before a caption.
SCORES = {
  'clip_score': (100.0, ''),
  'clip_score_hessel': (2.5, 'A photo depicts '),
}
_KIND = feature_networks.Kind(
  title='The CLIP score',
  field='clip',
  file='ViT-B-32.pt of openai/CLIP (or another of its vision transformers), or'
  ' model.safetensors of openai/clip-vit-base-patch32,',
  load=lambda *_: ('', lambda images: images),
  scores=lambda *_: {},
)

# Texts -> (N, D) unit vectors
EmbedTexts = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipScore:
  """The scores of images and captions."""

  embed_images: feature_networks.Extract  # unit vectors
  embed_texts: EmbedTexts
  variant: str  # of the network
  weights: str  # their file and its hash, for messages

  def of_images(self, batch: states.Batch) -> states.Columns:
    return self._columns(
      self.embed_images(batch.images), batch.examples[CAPTION]
    )

  def of_real(self, batch: states.Batch) -> states.Columns:
    """Returns those of real images, with their captions and with others'."""
    assert batch.real is not None
    found = self.embed_images(batch.real)
    captions = batch.conditions[CAPTION]
    columns = states.named(states.CEILING, self._columns(found, captions))
    if batch.others is None:
      return columns
    others = self._columns(found, batch.others[CAPTION])
    return columns | states.named(states.FLOOR, others)

  def needs_others(self, examples: states.Columns) -> bool:
    return CAPTION in examples

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    count = len(next(iter(images.values()), ()))
    more = f'_{self.variant}_{states.number(count)}'
    scores, ceilings, floors = (
      {f'{n}{more}': x for n, x in bootstrap.ratios(columns).items()}
      for columns in (
        images,
        states.part(states.CEILING, real),
        states.part(states.FLOOR, real),
      )
    )
    return states.rows(scores, ceilings, floors)

  def _columns(
    self, images: np.ndarray, captions: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the pairs of embedded images (N, D) and captions (N,)."""
    texts = [x.decode() if isinstance(x, bytes) else str(x) for x in captions]
    columns = {}
    for name, (factor, prefix) in SCORES.items():
      found = self.embed_texts([prefix + text for text in texts])
      cosines = (images.astype(np.float64) * found).sum(1)
      columns[name] = bootstrap.mean_pairs(factor * np.maximum(cosines, 0))
    return columns


def find(config: ConfigDict) -> ClipScore | None:
  """Returns the measure, None with a line that says what to put where.

  Raises:
    UserError: files that are missing, damaged or of another kind.
  """
  path = feature_networks.weights_of(config, _KIND)
  if path is None:
    return None
  if not config.evaluate.clip_tokenizer:
    needed = "CLIP's tokenizer.json, or vocab.json and merges.txt with a comma,"
    line = network_files.unavailable(
      _KIND.title, needed, TOKENIZER, 'it is not set'
    )
    raise errors.UserError(line, errors.MISSING)
  mesh, size = network_files.local_devices(config)
  with errors.user_errors(value=errors.DATA):
    state = weight_file.read(path)
    variant, network, embed = feature_networks.of_clip(state, path, mesh, size)
    text = text_family.infer_clip(state)
    ids = np.zeros((1, 2), np.int32)
    shapes = jax.eval_shape(text.init, jax.random.key(0), ids)['params']
    params = parts.load_part('clip_text', path, shapes)
    tokenizer = _tokenizer(config.evaluate.clip_tokenizer, text.max_length)
    if tokenizer.size > text.vocab_size:
      raise ValueError(
        f'{TOKENIZER} has {tokenizer.size} tokens, more than the'
        f' {text.vocab_size} of {path}'
      )
  prepare = squares.of_clip(network.patch * network.grid)
  run = batched.on_host(
    lambda params, ids: text.apply({'params': params}, ids, method='pooled'),
    params,
    size,
    mesh,
  )

  def embed_texts(texts: Sequence[str]) -> np.ndarray:
    return run(np.stack([tokenizer.encode(x) for x in texts]))[:, 0]

  return ClipScore(
    embed_images=lambda images: embed(prepare(images)),
    embed_texts=embed_texts,
    variant=variant,
    weights=network_files.label(path),
  )


def _tokenizer(given: str, length: int) -> tokenizers.Tokenizer:
  paths = [str(path) for path in files.local_all(given, TOKENIZER)]
  if len(paths) > 2:
    raise ValueError(
      f'{TOKENIZER} is {len(paths)} files, needed are one or two'
    )
  return tokenizers.load_clip(
    paths[0], paths[-1], length, fields=(TOKENIZER, TOKENIZER)
  )


def for_task(config: ConfigDict) -> ClipScore | None:
  """Returns the measure of `find` where the config has captions."""
  if config.condition.task == TASK:
    return find(config)
  if config.evaluate.clip:
    logging.info(
      'no CLIP score: config.condition.task is %s, and has no captions',
      config.condition.task,
    )
  return None
