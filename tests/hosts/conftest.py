import pytest

from tests.helpers import fork_server


@pytest.fixture(scope='session')
def server():
  """Starts command lines of the fakes in processes of their own, quickly."""
  with fork_server.Server() as started:
    yield started
