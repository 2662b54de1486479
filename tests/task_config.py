"""Small configs of every task on `shapes`, for commands and evaluation."""

from pyramid_jax import config as config_lib


def make(task, level=2, size=32, system='ldm'):
  config = config_lib.base(system)
  config.data.level = level
  config.data.image_size = size
  config.data.max_objects = 6
  config.condition.task = task
  config.condition.map_classes = 29
  config.condition.max_length = 40
  config.condition.max_objects = 6
  config.sample.count, config.sample.batch_size = 6, 4
  config.evaluate.count, config.evaluate.batch_size = 10, 5
  return config.lock()
