import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.runs import predictors
from tests.helpers import configs


def write(folder, name, **fields):
  """Writes the config of a run of a system and returns it."""
  config = config_lib.base(name)
  if name == 'sketch':
    config.sketch.features = ('in1',)
  config_lib.override(
    config, {k.replace('__', '.'): v for k, v in fields.items()}
  )
  folder.mkdir()
  (folder / 'config.json').write_text(config_lib.to_json(config))
  return config


def test_predictor_and_base_are_one_run(tmp_path):
  base = write(tmp_path / 'base', 'ldm', sample__steps='7', remat='full')
  write(tmp_path / 'own', 'sketch', sample__steps='9', sketch__octaves='4')
  assert predictors.resolve(base, tmp_path / 'base') == (
    base,
    tmp_path / 'base',
  )
  base.sketch.predictor = str(tmp_path / 'own')
  base.sketch.beta = (0.3,)
  config, folder = predictors.resolve(base, tmp_path / 'base')
  assert folder == tmp_path / 'own'
  assert config.system.name == 'sketch'
  # What a person asks for is the base's, what was trained the predictor's.
  assert (config.sample.steps, config.remat) == (7, 'full')
  assert config.sketch.beta == (0.3,)
  assert config.sketch.octaves == 4
  assert config.sketch.base == str(tmp_path / 'base')


def test_wrong_predictors_are_named(tmp_path):
  base = write(tmp_path / 'base', 'ldm')
  base.sketch.predictor = str(tmp_path / 'none')
  with pytest.raises(errors.UserError, match='none/config.json') as info:
    predictors.resolve(base, tmp_path / 'base')
  assert info.value.code == errors.MISSING
  base.sketch.predictor = str(tmp_path / 'base')
  with pytest.raises(errors.UserError, match="system 'ldm', must be one of"):
    predictors.resolve(base, tmp_path / 'base')


def test_a_classifier_and_the_run_are_one(tmp_path):
  base = write(tmp_path / 'base', 'adm', remat='full')
  write(tmp_path / 'own', 'classifier', condition__num_classes='7')
  base.sample.classifier = str(tmp_path / 'own')
  config, folder = predictors.resolve(base, tmp_path / 'base')
  assert folder == tmp_path / 'own'
  assert (config.system.name, config.remat) == ('classifier', 'full')
  assert config.classifier.base == str(tmp_path / 'base')
  assert base.condition.task == 'none'  # the classes are then asked for
  asked = predictors.with_conditions(base).condition
  assert (asked.task, asked.num_classes) == ('class', 7)


def test_classifiers_of_other_states_are_refused(tmp_path):
  base = write(tmp_path / 'base', 'adm')
  write(tmp_path / 'own', 'classifier', classifier__space='latents')
  base.sample.classifier = str(tmp_path / 'own')
  with pytest.raises(errors.UserError, match='noisy latents, and the run diff'):
    predictors.resolve(base, tmp_path / 'base')
  base.sketch.predictor = str(tmp_path / 'other')
  with pytest.raises(errors.UserError, match='only one may guide'):
    predictors.predictor(base)


def test_data_tell_what_the_predictor_is_asked_for(tmp_path):
  config = config_lib.base('ldm')
  assert predictors.with_conditions(config).data.maps == ()
  own = write(tmp_path / 'own', 'sketch')
  own.data.maps = ('edges',)
  (tmp_path / 'own' / 'config.json').write_text(config_lib.to_json(own))
  config.sketch.predictor = str(tmp_path / 'own')
  config.data.maps = ('mask', 'edges')
  assert predictors.with_conditions(config).data.maps == ('mask', 'edges')
  config.data.maps = ('mask',)
  assert predictors.with_conditions(config).data.maps == ('mask', 'edges')


@pytest.mark.parametrize(
  ('base', 'guide', 'field'),
  [
    ('adm_shapes.py:none', 'classifier_shapes.py:images', 'sample.classifier'),
    ('diffit_shapes.py', 'classifier_shapes.py:images', 'sample.classifier'),
    ('ldm_shapes.py:text', 'sketch_shapes.py:ldm', 'sketch.predictor'),
  ],
)
def test_a_guided_run_is_built_by_the_config_that_is_given(
  tmp_path, base, guide, field
):
  run, own = tmp_path / 'run', tmp_path / 'own'
  colon = ',' if ':' in base else ':'
  run.mkdir()
  own.mkdir()
  config = configs.load(f'{base}{colon}debug')
  (run / 'config.json').write_text(config_lib.to_json(config))
  guide_config = configs.load(f'{guide},debug')
  (own / 'config.json').write_text(config_lib.to_json(guide_config))
  config_lib.override(config, {field: str(own), 'dtype': 'bfloat16'})
  config = predictors.with_conditions(config)
  system = predictors.create_system(config, run)
  assert _dtype(system.base) == 'bfloat16'


def _dtype(base):
  """Returns the type of the activations of a base."""
  return (base.unet if hasattr(base, 'unet') else base.network).dtype
