"""Whatever a command line says, it ends with a code and one line."""

import gc

from hypothesis import strategies as st
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.commands import options
from pyramid_jax.commands import train
from pyramid_jax.runs import loading
from tests.helpers import command_line
from tests.helpers import configs
from tests.helpers import hostile


FLAGS = sorted(
  name for group in options.GROUPS.values() for name in group.flags
)
CODES = (errors.OK, errors.USAGE, errors.DATA, errors.MISSING, errors.OUTPUT)
CONFIG = f'{configs.FOLDER}/diffit_shapes.py:debug'
HOSTILE = (
  *('nan', 'inf', '-inf', '1e308', str(2**63), str(2**64), '-1', '', 'word'),
  *('[1,2]', '(', '9' * 5000, '1,2,3', '0', '1' + 30 * '0', 'a' * 300),
)


def no_checkpoint(*_, **__):
  """What `loading.load` says of the run, which it traces before."""
  raise errors.UserError('no checkpoint in run.', errors.MISSING)


@pytest.fixture(scope='module')
def call(tmp_path_factory):
  """Runs command lines in a folder with a run that was never trained."""
  gc.collect()  # What other tests left must not speak into these lines.
  folder = tmp_path_factory.mktemp('deep') / 'er' / 'still'
  (folder / 'run').mkdir(parents=True)
  text = config_lib.to_json(config_lib.load(CONFIG))
  (folder / 'run' / 'config.json').write_text(text)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(train, 'run', lambda *_: None)
    patch.setattr(loading, 'load', no_checkpoint)
    yield command_line.call


def check(call, arguments):
  """The code is one of those that are known, and the error one line."""
  code, text = call(*arguments)
  assert code in CODES, (arguments, text)
  lines = text.splitlines()
  if code == errors.OK:
    assert lines == []
  else:
    assert len(lines) == 1, (arguments, text)
    assert lines[0].startswith('error: ')
    assert lines[0].isprintable()
    assert len(lines[0]) < 2100
  return code


@pytest.mark.parametrize('flag', FLAGS)
def test_no_value_of_a_flag_is_a_bug(call, flag):
  """Each flag with each value, in the mode that takes it."""
  (group,) = (g for g in options.GROUPS.values() if flag in g.flags)
  given = [] if flag == 'workdir' else ['--workdir=run']
  given += [f'--mode={group.modes[-1]}'] if flag != 'mode' else []
  codes = {x: check(call, [*given, f'--{flag}={x}']) for x in HOSTILE}
  codes['bare'] = check(call, [*given, f'--{flag}'])
  if flag in ('count', 'seed', 'strength', 'checkpoint_step', 'shape'):
    for x in ('nan', 'inf', '-inf', '1e308', '-1', 'word', '9' * 5000):
      assert codes[x] == errors.USAGE, x


def commands():
  """Flags with values of any kind, overrides of any field, and other words."""
  fields = sorted(config_lib.flatten(config_lib.load(CONFIG)))
  text = hostile.texts() | hostile.numbers().map(errors.shown)
  some = st.sampled_from(HOSTILE) | text.map(lambda x: x.replace('\0', ''))
  flag = st.builds('--{}={}'.format, st.sampled_from(FLAGS), some)
  field = st.builds('--config.{}={}'.format, st.sampled_from(fields), some)
  bare = st.sampled_from(FLAGS).map('--{}'.format) | some
  mode = st.sampled_from(options.MODES).map('--mode={}'.format)
  start = st.sampled_from(
    [['--workdir=run'], [f'--config={CONFIG}', '--workdir=new'], []]
  )
  rest = st.lists(flag | flag | field | bare, min_size=1, max_size=4)
  return st.builds(lambda a, b, c: [*a, b, *c], start, mode, rest)


@hostile.examples(60, arguments=commands())
def test_a_command_line_ends_with_a_code_and_a_line(call, arguments):
  check(call, arguments)


@pytest.mark.rounds
@hostile.examples(hostile.ROUNDS, arguments=commands())
def test_a_command_line_ends_with_a_code_and_a_line_in_many_rounds(
  call, arguments
):
  check(call, arguments)
