"""How many devices a test sees."""

import jax
import pytest


def show_one(patch: pytest.MonkeyPatch) -> None:
  """Lets runs see one device: a program for eight of them takes longer."""
  first = jax.devices()[:1]
  patch.setattr(jax, 'devices', lambda *args: first)
  patch.setattr(jax, 'local_devices', lambda *args: first)
