"""What ends a process whose peer is gone."""

import jax
import pytest

from pyramid_jax.distributed import peers


GLOO = 'UNKNOWN: Gloo all-reduce failed: [external/gloo/transport/tcp/pair.cc] '


@pytest.mark.parametrize(
  'text',
  [
    f'{GLOO}Connection closed by peer [127.0.0.1]:2999',
    f'{GLOO}Read error [127.0.0.1]:21172: Connection reset by peer',
    f'{GLOO}writev [127.0.0.1]:60: Broken pipe',
  ],
)
def test_a_closed_connection_is_that_of_a_lost_process(text):
  assert peers.is_lost_connection(jax.errors.JaxRuntimeError(text))


@pytest.mark.parametrize(
  'error',
  [
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
    jax.errors.JaxRuntimeError(f'{GLOO}Unsupported data type'),
    jax.errors.JaxRuntimeError('INTERNAL: Connection closed by peer'),
    ConnectionResetError(f'{GLOO}Connection reset by peer'),
  ],
)
def test_other_errors_stay_errors(error):
  assert not peers.is_lost_connection(error)
