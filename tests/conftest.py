"""Settings that must stand before jax creates its backend."""

import collections
import ctypes
import gc
import importlib.metadata
import os
import pathlib
import re
import signal
import tempfile


# Eight CPU devices for the sharding tests; NPROC keeps the collectives of so
# many devices from starving each other on a machine with few cores.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('NPROC', '16')
# Threads of BLAS that wait for a busy core cost more than they bring.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Most programs run once: what optimizing them costs is not earned back. Without
# emitters of fusions and with fewer modules, they compile in two thirds of the
# time.
FLAGS = (
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
  '--xla_cpu_parallel_codegen_split_count=4',
)
if importlib.metadata.version('jax') < '0.11':  # 0.12 has no such flag
  FLAGS += ('--xla_cpu_use_fusion_emitters=false',)
flags = os.environ.get('XLA_FLAGS', '').split()
given = {flag.partition('=')[0] for flag in flags}
flags += [flag for flag in FLAGS if flag.partition('=')[0] not in given]
os.environ['XLA_FLAGS'] = ' '.join(flags)

# A shell starts jobs in the background with SIGINT ignored, and so would be all
# that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.helpers import devices  # noqa: E402
from tests.helpers import fork_server  # noqa: E402
from tests.helpers import quick_params  # noqa: E402
from tests.helpers import turns  # noqa: E402


quick_params.install()

jax.config.update(
  'jax_compilation_cache_dir',
  os.path.join(tempfile.gettempdir(), 'pyramid_jax_test_cache'),
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

# Markers of tests that take many minutes.
ASKED_FOR = {'hosts', 'notebooks', 'pods'}

# Compiled programs are dropped once a process has grown by so much.
GROWTH_GIB = 0.75
STATUS = pathlib.Path('/proc/self/statm')

GOLDEN = pathlib.Path(
  os.environ.get(
    'PYRAMID_JAX_GOLDEN',
    pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'golden',
  )
)


def resident_gib() -> float:
  """Returns the memory that this process holds, 0 where nothing says so."""
  if not STATUS.exists():
    return 0.0
  pages = int(STATUS.read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**30


def drop_programs() -> None:
  """Frees compiled programs and gives their memory back to the system."""
  jax.clear_caches()
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)


class Memory:
  """Keeps a process that runs many tests small.

  jax keeps every program that it has compiled. What a later test needs again
  is compiled anew, or read from the cache on the disk if it took long.
  """

  def __init__(self):
    self.allowed = resident_gib() + GROWTH_GIB

  def pytest_runtest_teardown(self, nextitem):
    del nextitem
    if resident_gib() > self.allowed:
      drop_programs()
      self.allowed = resident_gib() + GROWTH_GIB


def pytest_sessionstart():
  """Looks for garbage seldom: each look walks over all that jax remembers."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)


def pytest_configure(config):
  config.pluginmanager.register(Memory())


def pytest_collection_modifyitems(config, items):
  """Skips what needs another platform, and puts files with slow tests first.

  So no worker is left alone with a long file at the end. What has one of the
  markers `ASKED_FOR` runs only where the expression of `-m` names it, what
  takes turns (`tests.helpers.turns`) after some of the commits.
  """
  asked = re.findall(r'\w+', config.option.markexpr or '')
  for item in items:
    for marker in ASKED_FOR - set(asked):
      if item.get_closest_marker(marker):
        item.add_marker(pytest.mark.skip(reason=f'long: -m {marker}'))
    for platform in {'gpu', 'tpu'} - {jax.default_backend()}:
      if item.get_closest_marker(platform):
        item.add_marker(pytest.mark.skip(reason=f'no {platform} is here'))
  turns.skip_waiting(config, items)
  slow = collections.Counter(
    item.path
    for item in items
    if item.get_closest_marker('slow') and not item.get_closest_marker('skip')
  )
  items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def one_device(monkeypatch):
  """Lets the runs of a test see one device."""
  devices.show_one(monkeypatch)


@pytest.fixture(scope='session')
def server():
  """Starts command lines in processes of their own, quickly."""
  with fork_server.Server() as started:
    yield started


@pytest.fixture
def golden():
  """Returns a function from a recorded case's name to its path, or skips.

  A folder of cases that is there must be whole. Without it, the cases of
  tests/parity/cases are still compared (tests/parity/cases_test.py).
  """

  def path(name: str) -> pathlib.Path:
    if not GOLDEN.is_dir() and 'PYRAMID_JAX_GOLDEN' not in os.environ:
      pytest.skip(f'the folder of recorded cases, {GOLDEN}, is not here')
    file = GOLDEN / name
    assert file.exists(), f'{file} is missing'
    return file

  return path


@pytest.fixture
def t5_file(tmp_path):
  """A small tokenizer.json of the kind of T5's, with padding set."""
  import tokenizers as pieces_lib
  from tokenizers import models
  from tokenizers import pre_tokenizers

  vocabulary = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', -9.0)]
  vocabulary += [('\u2581a', -1.0), ('\u2581cat', -1.5), ('s', -2.0)]
  pieces = pieces_lib.Tokenizer(models.Unigram(vocabulary, unk_id=2))
  pieces.pre_tokenizer = pre_tokenizers.Metaspace()
  pieces.enable_padding(length=7)
  pieces.enable_truncation(2)
  path = tmp_path / 'tokenizer.json'
  pieces.save(str(path))
  return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  """Escapes half characters in what a test wrote; workers cannot send them."""
  report = yield
  report.sections = [
    (name, text.encode('utf-8', 'backslashreplace').decode())
    for name, text in report.sections
  ]
  return report
