import json
import math

from ml_collections import ConfigDict
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.config import sections


def locked(system='frido'):
  return config_lib.from_json(config_lib.to_json(two_stages(system)))


def two_stages(system='frido'):
  config = config_lib.base(system)
  config.network.width = 3
  config.sample.steps = (5, 6)
  config_lib.add_first_stage(config, config_lib.base('autoencoder'))
  return config


@pytest.mark.parametrize(
  ('name', 'text', 'want'),
  [
    ('train.steps', '1000', 1000),
    ('train.learning_rate', '3', 3.0),
    ('train.learning_rate', '1e-3', 1e-3),
    ('data.flip', 'true', True),
    ('data.flip', 'False', False),
    ('data.root', '/a=b', '/a=b'),
    ('data.root', '', ''),
    ('diffusion.stage_loss_ratio', '1,2.5', (1.0, 2.5)),
    ('diffusion.stage_loss_ratio', '(1, 2)', (1.0, 2.0)),
    ('sample.steps', '7', 7),
    ('sample.steps', '50,20', (50, 20)),
    ('first_stage.train.steps', '5', 5),
    ('sample.steps', '(50,)', (50,)),
    ('data.maps', 'edges,mask', ('edges', 'mask')),
    ('condition.null_prefix', '[2, 3]', (2, 3)),
    ('first_stage.loss.kl_weight', '1', 1.0),
    ('first_stage.checkpoint', 'DIR', 'DIR'),
    ('network.width', '4', 4),
  ],
)
def test_override(name, text, want):
  config = locked()
  config_lib.override(config, {name: text})
  got = config_lib.flatten(config)[name]
  assert got == want
  assert type(got) is type(want)


@pytest.mark.parametrize('prefix', ['', 'first_stage.'])
def test_arguments_of_a_network_that_a_config_leaves_out(prefix):
  file = 'frido_shapes.py:layout' if prefix else 'msvqgan_shapes.py'
  config = config_lib.load(f'configs/{file}').lock()
  config_lib.override(config, {f'{prefix}network.codebook': 'grid'})
  flat = config_lib.flatten(config)
  assert flat[f'{prefix}network.codebook'] == 'grid'
  assert config.is_locked
  wrong = {
    'dtype': 'float32',  # set by a field outside the network
    'parent': 'x',  # of every module
    'codebok': 'grid',
    'ddconfig.width': '3',
  }
  for name, text in wrong.items():
    with pytest.raises(errors.UserError, match='no such field'):
      config_lib.override(config, {f'{prefix}network.{name}': text})
  with pytest.raises(errors.UserError, match='must be float'):
    config_lib.override(config, {f'{prefix}network.entropy_weight': 'x'})


@pytest.mark.parametrize(
  ('name', 'nearest'),
  [
    ('train.step', 'train.steps'),
    ('trian.steps', 'train.steps'),
    ('model.width', 'network.width'),
    ('lerning_rate', 'train.learning_rate'),
    ('first_stage.train.stps', 'first_stage.train.steps'),
  ],
)
def test_unknown_field(name, nearest):
  config = locked()
  with pytest.raises(errors.UserError, match=f"{name}: .*'{nearest}'") as info:
    config_lib.override(config, {name: '1'})
  assert info.value.code == errors.USAGE


@pytest.mark.parametrize(
  ('system', 'name', 'nearest'),
  [
    ('diffit', 'sample.guidance_channels', 'sample.guidance'),
    ('ladm', 'sample.windows', ''),
    ('latent_diffit', 'sample.windows', ''),
    ('ldm', 'sample.churn', 'sample.'),
    ('ldm', 'laplacian.levels', 'data.level'),
    ('frido', 'diffusion.scale_factor', ''),
    ('autoencoder', 'sketch.predictor', ''),
  ],
)
def test_a_field_of_another_system_is_unknown(system, name, nearest):
  config = config_lib.base(system)
  with pytest.raises(
    errors.UserError, match=f"{name}: .*system '{system}'.*{nearest}"
  ):
    config_lib.override(config, {name: '1'})
  section, field = name.split('.')
  if section not in config:
    config[section] = {}
  config[section][field] = 1
  with pytest.raises(errors.UserError, match=f'config.{name}: .*no such field'):
    config_lib.validate(config)
  with pytest.raises(ValueError, match=f'config.{name}: .*no such field'):
    config_lib.from_json(config_lib.to_json(config))


def test_every_system_has_a_valid_base():
  for name in systems.SYSTEMS:
    config = config_lib.base(name)
    assert config.system.name == name
    assert not config.is_locked
    config_lib.validate(config)
  with pytest.raises(errors.UserError, match="'firdo'.*did you mean 'frido'"):
    config_lib.base('firdo')


def test_every_field_is_a_whole_sentence_and_has_a_valid_default():
  for name in systems.SYSTEMS:
    for field, declared in sections.of(name).fields.items():
      doc = declared.doc
      assert doc[0].isupper(), field
      assert doc.endswith('.'), field
      assert '\n' not in doc, field
      if field != 'system.name':
        assert declared.problem(declared.default) == '', field


def test_nothing_is_near():
  with pytest.raises(
    errors.UserError, match="no such field of the system 'frido'[.]$"
  ):
    config_lib.override(locked(), {'qqqqqqqq': '1'})


@pytest.mark.parametrize(
  ('name', 'text', 'kind'),
  [
    ('train.steps', '3.5', 'int'),
    ('train.steps', 'many', 'int'),
    ('train.learning_rate', 'fast', 'float'),
    ('data.flip', 'maybe', 'bool'),
    ('diffusion.stage_loss_ratio', '1,x', 'tuple'),
  ],
)
def test_wrong_type(name, text, kind):
  with pytest.raises(errors.UserError, match=f'{name}={text}: must be {kind}'):
    config_lib.override(locked(), {name: text})


@pytest.mark.parametrize(
  ('name', 'text', 'now', 'want'),
  [
    ('condition.drop', '0.2', 'condition.cond_dropout', 0.2),
    ('condition.camera_drop', '0.2', 'condition.camera_dropout', 0.2),
    ('sketch.foreign', 'true', 'sketch.shuffled_condition', True),
    (
      'first_stage.condition.drop',
      '1',
      'first_stage.condition.cond_dropout',
      1,
    ),
    ('condition.class_by', 'adm', 'condition.class_by', 'timestep'),
    ('sample.spacing', 'adm', 'sample.spacing', 'iddpm'),
    ('data.resize', 'plain', 'data.resize', 'bilinear'),
    ('data.resize', 'smooth', 'data.resize', 'bicubic'),
    ('first_stage.data.resize', 'smooth', 'first_stage.data.resize', 'bicubic'),
    (
      'diffusion.beta_schedule',
      'sqrt_linear',
      'diffusion.beta_schedule',
      'linear',
    ),
  ],
)
def test_old_names_are_taken_with_a_warning(caplog, name, text, now, want):
  config = locked()
  with caplog.at_level('WARNING', logger='absl'):
    config_lib.override(config, {name: text})
  assert config_lib.flatten(config)[now] == want
  assert len(caplog.records) == 1
  assert (
    caplog.records[0]
    .getMessage()
    .endswith(
      f'is now called {want}.'
      if name == now
      else f'is now called --config.{now}.'
    )
  )


def test_a_name_of_both_formats_has_the_meaning_of_today(caplog):
  config = locked()
  config_lib.override(config, {'diffusion.beta_schedule': 'linear'})
  assert config.diffusion.beta_schedule == 'linear'
  assert not caplog.records


def with_network(system, network, **values):
  config = config_lib.base(system)
  config.network = network
  config_lib.override(
    config, {k.replace('__', '.'): v for k, v in values.items()}
  )
  return config_lib.from_json(config_lib.to_json(config))


@pytest.mark.parametrize(
  ('config', 'name', 'text', 'want'),
  [
    (
      with_network('ldm', {'attention_resolutions': ()}),
      'attention_resolutions',
      '16',
      (16,),
    ),
    (with_network('diffit', {'num_blocks': 4}), 'num_blocks', '1,3', (1, 3)),
    (with_network('diffit', {'num_blocks': (1, 3)}), 'num_blocks', '4', 4),
    (with_network('diffit', {'mlp_ratio': 4.0}), 'mlp_ratio', '2', 2.0),
    (
      with_network('autoencoder', {'ddconfig': {'attn_resolutions': ()}}),
      'ddconfig.attn_resolutions',
      '[16]',
      (16,),
    ),
    (
      with_network('autoencoder', {'embed_dim': (8, 8)}),
      'embed_dim',
      '(4, 4)',
      (4, 4),
    ),
    (
      with_network('autoencoder', {'embed_dim': 4}, system__network='kl'),
      'embed_dim',
      '8',
      8,
    ),
    (
      with_network('ladm', {'hidden_size': 32}, laplacian__network='diffit'),
      'hidden_size',
      '64',
      64,
    ),
  ],
)
def test_constructor_fields_have_the_types_of_the_network(
  config, name, text, want
):
  config_lib.override(config, {f'network.{name}': text})
  got = config_lib.flatten(config)[f'network.{name}']
  assert got == want
  assert type(got) is type(want)
  if isinstance(want, tuple):
    assert [type(item) for item in got] == [type(item) for item in want]


def test_sections_are_no_fields():
  with pytest.raises(errors.UserError, match='no such field'):
    config_lib.override(locked(), {'train': '1'})


def test_json_round_trip():
  config = locked()
  again = config_lib.from_json(config_lib.to_json(config))
  assert again.to_dict() == config.to_dict()
  assert again.sample.steps == (5, 6)
  assert again.is_locked
  again.sample.steps = 3  # an int or a tuple
  with pytest.raises(ValueError, match='JSON object'):
    config_lib.from_json('[]')


def test_locked_configs_take_no_new_fields():
  with pytest.raises(AttributeError):
    locked().train.step = 3


def test_first_stage_reads_the_same_data():
  config = locked()
  config_lib.override(config, {'data.root': '/data'})
  assert config_lib.first_stage(config).data.root == '/data'
  config_lib.override(config, {'first_stage.data.root': '/other'})
  first = config_lib.first_stage(config)
  assert first.data.root == '/other'
  assert 'checkpoint' not in first
  assert first.is_locked
  assert config.first_stage.checkpoint == ''  # the config itself is unchanged


def test_variants():
  known = {'debug': False, 'task': ('text', 'layout')}
  parse = lambda arg: config_lib.parse_variants(arg, **known)
  assert parse('') == parse(None) == {'debug': False, 'task': 'text'}
  assert parse('layout,debug') == {'debug': True, 'task': 'layout'}
  with pytest.raises(ValueError, match="'layuot'.*'layout'"):
    parse('layuot')
  with pytest.raises(ValueError, match="'text' and 'layout' exclude"):
    parse('text,layout')


def write(tmp_path, text):
  file = tmp_path / 'some_config.py'
  file.write_text(text)
  return file


BODY = """
from pyramid_jax import config as config_lib
def get_config(arg=''):
  variant = config_lib.parse_variants(arg, debug=False)
  config = config_lib.base('ldm')
  config.name = 'debug' if variant['debug'] else 'full'
  config.network = {'mult': [1, 2]}
  return config
"""


def test_load(tmp_path):
  file = write(tmp_path, BODY)
  config = config_lib.load(str(file))
  assert config.name == 'full'
  assert config.network.mult == (1, 2)  # as it comes back from JSON
  assert config.is_locked
  assert config_lib.load(f'{file}:debug').name == 'debug'


@pytest.mark.parametrize(
  ('text', 'suffix', 'message'),
  [
    (BODY, ':debgu', "'debgu'.*'debug'"),
    ('x = 1', '', 'no get_config'),
    ('def get_config(arg): return 3', '', 'returned int'),
    ('def get_config(', '', 'never closed'),
    (None, '', 'there is no file'),
  ],
)
def test_load_refuses(tmp_path, text, suffix, message):
  file = write(tmp_path, text) if text else tmp_path / 'none.py'
  with pytest.raises(errors.UserError, match=message) as info:
    config_lib.load(f'{file}{suffix}')
  assert info.value.code == errors.USAGE
  assert '\n' not in str(info.value)


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('https://example.org/config.py', 'not fetched'),
    ('configs/frido_shapes', "FILE.py.* did you mean 'frido_shapes'"),
    ('frido_shape:debug', "did you mean 'frido_shapes'"),
  ],
)
def test_load_refuses_what_is_no_file(path, message):
  with pytest.raises(errors.UserError, match=message):
    config_lib.load(path)


def test_a_config_that_comes_along_is_loaded_by_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = config_lib.load('flow_shapes:class,debug')
  assert config == config_lib.load('configs/flow_shapes.py:class,debug')
  assert config_lib.load('flow_shapes') == config_lib.load(
    'configs/flow_shapes.py'
  )


# Of fields that not every system has.
SYSTEMS = {
  'sample.discretization': 'diffit',
  'sample.churn_noise': 'diffit',
  'sample.rho': 'ladm',
  'sample.windows': 'ldm',
  'sample.shape': 'ladm',
  'diffusion.preconditioning': 'diffit',
  'diffusion.noise_distribution': 'diffit',
  'diffusion.P_std': 'ladm',
  'diffusion.augment': 'diffit',
  'diffusion.loss': 'latent_diffit',
  'sketch.features': 'sketch',
}


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('train.steps', '0', r'train.steps is 0, must be in \[1, 2147483647\]'),
    ('train.learning_rate', 'nan', 'learning_rate is nan'),
    ('train.accumulate', '3', 'batch_size is 16, .*accumulate = 3'),
    ('dtype', 'float16', "'float16', must be one of float32, bfloat16"),
    ('condition.task', 'texts', "'texts', must be one of none, text"),
    ('optimizer.name', 'sgd', 'adam, adamw'),
    ('sample.solver', 'leapfrog', 'ddim, plms, ddpm'),
    ('sample.discretization', 'cosine', "'cosine', must be one of vp, ve"),
    ('sample.churn_noise', '-1', r'churn_noise is -1.0, must be in \[0, '),
    ('sample.rho', '0', r'rho is 0.0, must be in \(0, 1000\]'),
    ('diffusion.preconditioning', 'ddpm', "'ddpm', must be one of vp, ve"),
    (
      'diffusion.noise_distribution',
      'iddpm',
      "'iddpm', must be one of '', vp, ve, edm",
    ),
    ('diffusion.P_std', '0', r'P_std is 0.0, must be in \(0, 30\]'),
    ('diffusion.augment', '1.2', r'augment is 1.2, must be in \[0, 1\]'),
    ('sample.steps', '5,0', r'sample.steps is \(5, 0\)'),
    (
      'sample.spacing',
      'even',
      "'even', must be one of auto, official, exact, log_snr",
    ),
    ('sample.guidance_interval', '0.8,0.2', r'\(0.8, 0.2\), must be two'),
    (
      'sample.guidance_interval',
      '0.8,1.2',
      r'\(0.8, 1.2\), must be 0 or 2 values, each in',
    ),
    ('sample.guidance_interval', '0.8', r'\(0.8,\), must be 0 or 2 values'),
    (
      'sample.guidance_channels',
      '-1',
      r'channels is -1, must be in \[0, 65536\]',
    ),
    ('sample.guidance_power', '-1', r'power is -1.0, must be in \[0, 1000\]'),
    ('diffusion.loss', 'kl', "'kl', must be one of mse, rescaled_mse"),
    ('diffusion.variance', 'large', "'large', must be one of fixed_small"),
    ('sample.windows', '4,8', r'\(4, 8\), must be two numbers'),
    ('sample.windows', '4,0', r'\(4, 0\), must be with a stride above 0'),
    (
      'sample.temperature',
      '-1',
      r'temperature is -1.0, must be in \[0, 1e\+06\]',
    ),
    ('sample.guidance', '-1', r'guidance is -1.0, must be in \[0, 1000\]'),
    ('sample.guidance', '1e38', r'is 1e\+38, must be in \[0, 1000\]'),
    ('ema.decay', '1', r'in \[0, 1\)'),
    ('ema.halflife_images', '-1', r'images is -1.0, must be in \[0, 1e\+09\]'),
    ('condition.cond_dropout', '1.5', r'in \[0, 1\]'),
    ('mesh.fsdp', '0', r'is 0, must be in \[1, 2147483647\] or -1'),
    ('train.learning_rate', 'inf', 'is inf, must be a finite number'),
    ('sample.guidance', 'nan', 'is nan, must be a finite number'),
    ('sample.guidance', '1e39', r'is 1e\+39, must be in \[0, 1000\]'),
    ('condition.lr_noise_high', '0.001', 'at least condition.lr_noise_low'),
    ('sample.shape', '0,8', r'\(0, 8\), must be height and width above 0'),
    ('sketch.features', '()', r'\(\), must be not empty'),
    ('sketch.stop_fraction', '0.5,1.5', r'must be in \[0, 1\]'),
    ('data.maps', 'egdes', r"\('egdes',\), must be one of edges, mask"),
    ('first_stage.train.steps', '0', 'config.first_stage.train.steps is 0'),
  ],
)
def test_validate(name, text, message):
  config = locked(SYSTEMS.get(name, 'frido'))
  config_lib.validate(config)
  config_lib.override(config, {name: text})
  with pytest.raises(errors.UserError, match=message):
    config_lib.validate(config)


def test_fields_of_networks_are_finite():
  config = two_stages('diffit')
  config.network.mlp_ratio = (2.0, math.inf)
  with pytest.raises(errors.UserError, match='must be a finite number'):
    config_lib.validate(config)


@pytest.mark.parametrize('system', list(systems.SYSTEMS))
def test_what_a_resume_may_change(system):
  free = {
    'train.steps',
    'train.init_from',
    'condition.cache',
    'condition.prompt_neighbours',
    'condition.neighbour_index',
    'condition.neighbour_rows',
    'condition.eval_neighbour_rows',
    'train.log_every',
    'train.checkpoint_every',
    'train.sample_every',
    'train.eval_every',
    'train.keep',
    'train.keep_every_hours',
    'train.keep_best',
    'train.keep_best_count',
    'train.on_save_error',
    'train.export',
    'train.grace_secs',
    'train.hook_limit_secs',
    'train.skip_nonfinite',
    'train.start_limit_secs',
    'train.step_limit_secs',
    'profile.steps',
    'profile.processes',
    'data.allow_change',
    'remat',
    'scan_blocks',
    'attention',
    'data.root',
    'data.workers',
    'data.broken_share',
    'data.max_broken',
    'data.cache_dir',
    'data.checksums',
    'control.weight',
    'control.also_weights',
    'sketch.predictor',
    'sketch.beta',
    'sketch.stop_fraction',
    'sketch.norm_ref',
    'sketch.shuffled_condition',
  }
  of_any_run = (
    'distributed.',
    'mesh.',
    'compiler.',
    'sample.',
    'evaluate.',
  )
  old = config_lib.base(system)
  config_lib.add_first_stage(old, config_lib.base('autoencoder'))
  new = config_lib.from_json(config_lib.to_json(old))
  for name, value in config_lib.flatten(old).items():
    if name.endswith('system.name'):
      continue  # nothing is known of the fields of another system
    section = new
    *parents, last = name.split('.')
    for parent in parents:
      section = section[parent]
    changed = f'{value}!' if isinstance(value, str) else (value, 1)
    with section.ignore_type():
      section[last] = changed
    differences = config_lib.resume_differences(old, new)
    with section.ignore_type():
      section[last] = value
    plain = name.removeprefix('first_stage.')
    may = plain in free or plain.startswith(of_any_run)
    want = [] if may else [f'{name}: {value!r} -> {changed!r}']
    assert differences == want
  assert config_lib.resume_differences(old, new) == []


def test_another_system_is_no_resume():
  differences = config_lib.resume_differences(
    config_lib.base('ldm'), config_lib.base('frido')
  )
  assert "system.name: 'ldm' -> 'frido'" in differences


def test_fields_that_came_or_went():
  old, new = ConfigDict({'a': 1, 'b': {'c': 2}}), ConfigDict({'a': 1, 'd': 3})
  assert config_lib.resume_differences(old, new) == [
    "b.c: 2 -> 'absent'",
    "d: 'absent' -> 3",
  ]


def test_a_config_of_an_older_run_gets_the_defaults_of_new_fields():
  config = config_lib.base('frido')
  values = json.loads(config_lib.to_json(config))
  del values['attention'], values['diffusion']['native_scales']
  values['train']['steps'] = 7
  values['first_stage'] = {'system': {'name': 'autoencoder'}, 'checkpoint': ''}

  read = config_lib.from_json(json.dumps(values))

  assert read.attention == config.attention
  assert read.diffusion.native_scales is False
  assert read.train.steps == 7
  assert read.first_stage.system.to_dict() == {
    'name': 'autoencoder',
    'network': 'msvqgan',
  }
  first = config_lib.base('autoencoder')
  assert read.first_stage.loss.kl_weight == first.loss.kl_weight
  del read, values['first_stage']
  again = config_lib.from_json(json.dumps(values))
  with again.unlocked():
    again.train.steps = config.train.steps
  assert config_lib.resume_differences(again, config) == []
