"""Texts and neighbours as tokens, and texts whose neighbours are sought."""

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax.conditioning import encoder as encoder_lib
from pyramid_jax.conditioning import encoding
from pyramid_jax.conditioning import retrieval
from pyramid_jax.conditioning import tokens
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.networks import text_encoders
from pyramid_jax.pipeline import neighbours
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs


WIDTH = 8


@pytest.fixture(scope='module')
def encoder():
  network = text_encoders.CLIPTextEncoder(
    vocab_size=9,
    max_length=4,
    dim=WIDTH,
    depth=1,
    heads=2,
    mlp_dim=8,
    projection_dim=WIDTH,
  )
  text = tokens.ClipEncoder(
    network=network,
    pooled=True,
    task='retrieval',
    max_length=4,
    null_prefix=(7, 8),
    pad_id=8,
    path='clip.safetensors',
  )
  return retrieval.RetrievalEncoder(width=WIDTH, count=3, text=text)


@pytest.fixture(scope='module')
def params(encoder):
  return initial.evaluate(encoder.init, jax.random.key(0))


IDS = np.array([[7, 1, 8, 8], [7, 2, 3, 8]], np.int32)


def test_tokens_are_the_text_and_then_the_neighbours(encoder, params):
  near = np.random.RandomState(0).randn(2, 5, WIDTH).astype(np.float32)
  both = {'condition_ids': IDS, 'neighbours': near}
  got = encoder.encode(params, both).context
  assert got.shape == (2, 6, WIDTH)
  text = encoder.encode(params, {'condition_ids': IDS}).context
  np.testing.assert_array_equal(got[:, :1], text)
  np.testing.assert_array_equal(got[:, 1:], near)
  np.testing.assert_allclose(np.linalg.norm(text, axis=-1), 1, rtol=1e-5)
  assert np.abs(text[0] - text[1]).max() > 0.01
  # As many zeros as there are tokens.
  np.testing.assert_array_equal(
    encoder.null(params, both).context, np.zeros((2, 6, WIDTH))
  )


def test_either_is_enough(encoder):
  assert encoder.widths == encoder_lib.Widths(context=WIDTH)
  assert encoder.example['neighbours'].shape == (1, 3, WIDTH)
  assert encoder.lacking(['condition_ids', 'image']) == []
  assert encoder.lacking(['neighbours']) == []
  assert encoder.lacking(['image']) == ['neighbours']
  alone = retrieval.RetrievalEncoder(width=WIDTH, count=3)
  assert alone.lacking(['condition_ids']) == ['neighbours']
  assert alone.pretrained is None
  assert encoder.pretrained.path == 'clip.safetensors'
  with pytest.raises(ValueError, match='weights is .., must name the weights'):
    alone.encode({}, {'condition_ids': IDS})


class System:
  """A system of which the condition alone is read."""

  def __init__(self, encoder):
    self.encoder = encoder

  def generator(self, weights):
    return weights.params


def test_texts_get_the_neighbours_of_their_embeddings(
  encoder, params, tmp_path
):
  text = encoder.encode(params, {'condition_ids': IDS}).context[:, 0]
  vectors = np.concatenate([-text, 3 * text[::-1], np.eye(WIDTH)[:1]])
  np.savez(tmp_path / 'index.npz', embedding=vectors)
  config = ConfigDict(
    {
      'condition': {
        'task': 'retrieval',
        'dim': WIDTH,
        'prompt_neighbours': 1,
        'neighbour_index': str(tmp_path / 'index.npz'),
      }
    }
  )
  mesh = mesh_lib.create(configs.of_task('none').mesh, jax.devices()[:1])
  weights = system_lib.Weights({}, {encoder_lib.PART: params}, {})
  arguments = config, System(encoder), weights, mesh
  rows = neighbours.added({'condition_ids': IDS}, *arguments)
  np.testing.assert_allclose(rows['neighbours'][:, 0], text, atol=1e-5)
  assert neighbours.added({}, *arguments) == {}
  config.condition.prompt_neighbours = 0
  assert neighbours.added({'condition_ids': IDS}, *arguments).keys() == {
    'condition_ids'
  }


def test_the_encoder_of_texts_gives_one_unit_vector():
  config = configs.load('ldm_retrieval.py:debug')
  assert encoding.create(config).text is None
  with config.unlocked():
    config.condition.weights = 'clip.safetensors'
  assert encoding.create(config).text.pooled
  with config.unlocked():
    config.condition.pooled = False
  with pytest.raises(ValueError, match='pooled = False, must be .*clip'):
    encoding.create(config)
