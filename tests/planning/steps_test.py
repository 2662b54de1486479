"""Whole training steps against what the mathematics and the sharding need."""

import jax
import pytest

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import abstract
from pyramid_jax.planning import minimum
from pyramid_jax.planning import program as program_lib
from tests.helpers import configs


def compiled(name, data, fsdp, **fields):
  """Returns a training step for some devices, and its program.

  The optimizer is AdamW: Muon multiplies matrices, which no count of a model
  has.
  """
  fields |= {'optimizer.name': 'adamw', 'mesh.fsdp_min_size': 256}
  fields |= {'mesh.data': data, 'mesh.fsdp': fsdp, 'train.batch_size': 16}
  config = configs.load(name, **fields)
  devices = jax.devices()[: data * fsdp]
  draft = abstract.training(config, mesh_lib.create(config.mesh, devices))
  text = draft.traced.lower().compile().as_text()
  return config, draft, program_lib.Program.of(text)


@pytest.mark.parametrize(
  'name',
  [
    'diffit_latent_shapes.py:debug',
    pytest.param('diffit_latent_shapes.py', marks=pytest.mark.pods),
    pytest.param('ldm_shapes.py', marks=pytest.mark.pods),
  ],
)
def test_a_step_computes_what_the_model_needs(name):
  # Without recomputation nothing is computed twice; what XLA shares or leaves
  # out (the gradient of a first layer's input) is below a few per cent.
  _, draft, found = compiled(name, 1, 1)
  assert found.unknown_loops == found.uncounted == found.collectives == ()
  assert found.flops == pytest.approx(draft.model_flops(), rel=0.05)


@pytest.mark.pods
def test_a_step_with_fsdp_exchanges_weights_and_gradients_alone():
  config, draft, found = compiled('ldm_shapes.py:debug', 2, 4)
  weights = {'params': draft.params, 'frozen': draft.frozen}
  assert minimum.excess(found, weights, least_bytes=2**14) == ()
  own = draft.model_flops() / 8
  assert found.flops == pytest.approx(own, rel=0.05)
  frozen = minimum.read(draft.traced, draft.state, draft.frozen)
  # The decoder of the first stage is not read.
  assert 0 < len(frozen) < len(jax.tree.leaves(draft.frozen))
  least = minimum.of_training(
    draft.params, draft.updated, frozen, draft.mesh, config.dtype
  )
  moved = {kind: size for kind, (_, size) in found.by_kind().items()}
  assert moved == pytest.approx(least, rel=0.1)
