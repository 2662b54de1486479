"""T5 encoders from the files of Hugging Face, and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import convert
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import t5 as family
from pyramid_jax.networks import t5


ENCODER = t5.T5Encoder(
  vocab_size=9, dim=6, depth=2, heads=2, head_dim=4, mlp_dim=10, buckets=8
)
TEMPLATE = jax.eval_shape(
  ENCODER.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
)['params']


def _block(i):
  attention = f'encoder.block.{i}.layer.0'
  ff = f'encoder.block.{i}.layer.1'
  return {
    **{f'{attention}.SelfAttention.{n}.weight': (8, 6) for n in 'qkv'},
    f'{attention}.SelfAttention.o.weight': (6, 8),
    f'{attention}.layer_norm.weight': (6,),
    f'{ff}.DenseReluDense.wi_0.weight': (10, 6),
    f'{ff}.DenseReluDense.wi_1.weight': (10, 6),
    f'{ff}.DenseReluDense.wo.weight': (6, 10),
    f'{ff}.layer_norm.weight': (6,),
  }


def released(**more):
  """Returns a state dict under the released names."""
  table = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
  shapes = {
    'shared.weight': (9, 6),
    **_block(0),
    table: (8, 2),
    **_block(1),
    'encoder.final_layer_norm.weight': (6,),
  }
  rng = np.random.default_rng(0)
  state = {
    key: rng.normal(size=shape).astype(np.float32)
    for key, shape in shapes.items()
  }
  return state | more


DECODER = {
  'decoder.embed_tokens.weight': np.ones((9, 6), np.float32),
  'decoder.block.0.layer.0.SelfAttention.q.weight': np.ones((8, 6), np.float32),
  'lm_head.weight': np.ones((9, 6), np.float32),
}


def run(*arguments):
  return convert.main(['--family=t5', *arguments])


def test_there_and_back_is_exact(tmp_path, capsys):
  state = released()
  file, workdir = tmp_path / 'model.safetensors', tmp_path / 'out'
  tied = {'encoder.embed_tokens.weight': state['shared.weight']}
  safetensors_file.write(file, state | DECODER | tied)
  assert run(f'--checkpoint={file}', f'--workdir={workdir}') == errors.OK
  assert 'missing: 0\nmismatched: 0\nunused: 0' in capsys.readouterr().out
  params = parts.load_part('t5', workdir / 'params.safetensors', TEMPLATE)
  np.testing.assert_array_equal(
    params['block_1']['wi_0']['kernel'],
    state['encoder.block.1.layer.1.DenseReluDense.wi_0.weight'].T,
  )
  target = tmp_path / 'back.safetensors'
  assert run(f'--export={target}', f'--workdir={workdir}') == errors.OK
  back = safetensors_file.Tensors(target)
  assert back.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_every_leaf_is_read_from_its_own_key():
  state = released()
  params, report = parts.to_flax('t5', state, TEMPLATE)
  assert report.complete
  assert not report.unused
  assert len(mapping.flatten(params)) == len(state) == 3 + 2 * 9
  shapes = jax.tree.map(jnp.shape, params)
  assert shapes == jax.tree.map(jnp.shape, TEMPLATE)


def test_sharded_files_are_read_by_their_index(tmp_path):
  state = released()
  keys = sorted(state)
  places = {
    key: f'model-0000{1 + (i >= 9)}-of-00002.safetensors'
    for i, key in enumerate(keys)
  }
  for name in set(places.values()):
    part = {key: state[key] for key in keys if places[key] == name}
    safetensors_file.write(tmp_path / name, part)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': places}))
  got = parts.load_part('t5', index, TEMPLATE)
  want, _ = parts.to_flax('t5', state, TEMPLATE)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_what_does_not_fit_is_refused(tmp_path, capsys):
  file, workdir = tmp_path / 'x.safetensors', tmp_path / 'out'
  state = released()
  arguments = (f'--checkpoint={file}', f'--workdir={workdir}')

  safetensors_file.write(file, state | {'encoder.extra': np.zeros(2)})
  assert run(*arguments) == errors.DATA
  assert '1 unknown keys' in capsys.readouterr().err
  with pytest.raises(ValueError, match='1 unknown keys: encoder.extra'):
    parts.load_part('t5', file, TEMPLATE)

  lacking = dict(state)
  del lacking['encoder.block.1.layer.1.layer_norm.weight']
  safetensors_file.write(file, lacking)
  assert run(*arguments) == errors.DATA
  assert '1 missing keys' in capsys.readouterr().err

  # T5 1.0 has one feed-forward kernel, without a gate.
  old = {k.replace('wi_0', 'wi'): v for k, v in state.items()}
  safetensors_file.write(file, old)
  assert run(*arguments) == errors.DATA
  assert 'no encoder of T5 v1.1: encoder.block.0' in capsys.readouterr().err
  assert not workdir.exists()


def test_two_embeddings_that_differ_are_refused():
  other = np.ones((9, 6), np.float32)
  state = released(**{'encoder.embed_tokens.weight': other})
  with pytest.raises(ValueError, match='embed_tokens.weight differ'):
    parts.to_flax('t5', state, TEMPLATE)
  del state['shared.weight']
  params, report = parts.to_flax('t5', state, TEMPLATE)
  assert report.complete
  np.testing.assert_array_equal(params['shared']['embedding'], other)


def test_sizes_are_read_off_the_weights():
  assert family.infer(released(**DECODER)) == ENCODER
