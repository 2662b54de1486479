"""Faults of memory, put in place in a process before its command."""

import resource

import jax
import numpy as np

from pyramid_jax.distributed import memory
from pyramid_jax.training import step as step_lib
from tests.helpers import fake_run


LIMIT = 12 * 2**30  # bytes of the address space


def limited():
  """The fakes, in a process whose address space has a limit."""
  fake_run.install()
  resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))


def without_check():
  """As `limited`; the step runs although it needs more than there is."""
  limited()
  memory.check_program = lambda program, mesh: None


def large_images():
  """A reader of images of the size of the config."""
  limited()
  read = fake_run.Reader.batch

  def batch(self, indices, draws):
    assert len(indices) == 1, 'a whole batch is read'
    size = self.config.data.image_size
    image = np.zeros((1, size, size, 3), np.uint8)
    return {**read(self, indices, draws), 'image': image}

  fake_run.Reader.batch = batch


def greedy_reader():
  """A reader that asks for too much in the third step."""
  fake_run.install()
  read = fake_run.Reader.batch

  def batch(self, indices, draws):
    if draws[0] == fake_run._draw(self.config, 2):
      np.zeros(10**13)
    return read(self, indices, draws)

  fake_run.Reader.batch = batch


def bug():
  """A step that fails for another reason than memory."""
  fake_run.install()

  def compile_step(*args):
    raise jax.errors.JaxRuntimeError('INTERNAL: a bug')

  step_lib.compile_step = compile_step
