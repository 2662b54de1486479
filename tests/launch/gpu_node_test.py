"""`launch/gpu_node.sh` starts one process for all GPUs, or one for each."""

import re
import signal

import pytest

from tests.launch import shell


SCRIPT = 'gpu_node.sh'
FIELD = '--config.distributed'


@pytest.fixture
def fakes(tmp_path):
  found = shell.Fakes(tmp_path)
  found.add('nvidia-smi', 'printf "GPU 0: a\\nGPU 1: b\\nGPU 2: c\\n"')
  return found


def test_one_process_gets_the_command_as_it_is(fakes):
  code, out, _ = fakes.run(SCRIPT, 'printf', '<%s>', 'a b', '')
  assert (code, out) == (0, '<a b><>')
  _, out, _ = fakes.run(SCRIPT, 'printenv', 'JAX_PLATFORMS', JAX_PLATFORMS='')
  assert out == 'cuda,cpu\n'  # so that jax does not fall back to the CPU


def test_a_process_for_each_gpu_knows_its_place(fakes):
  code, out, _ = fakes.run(SCRIPT, '--per-gpu', 'echo', 'x y')
  assert code == 0
  lines = sorted(out.splitlines())
  ports = {re.search(r'127\.0\.0\.1:(\d+)', line)[1] for line in lines}
  assert len(ports) == 1
  assert 1024 < int(*ports) < 32768
  assert lines == [
    f'[{n}] x y {FIELD}.mode=explicit'
    f' {FIELD}.coordinator=127.0.0.1:{min(ports)} {FIELD}.processes=3'
    f' {FIELD}.process_id={n} {FIELD}.local_devices={n}'
    for n in range(3)
  ]


def test_gpus_that_are_left_out_get_no_process(fakes):
  code, out, _ = fakes.run(
    SCRIPT, '--per-gpu', 'echo', CUDA_VISIBLE_DEVICES='2,5'
  )
  assert code == 0
  assert len(out.splitlines()) == 2


@pytest.mark.parametrize('code', shell.CODES)
@pytest.mark.parametrize('option', [(), ('--per-gpu', '--gpus=2')])
def test_which_codes_are_tried_again(fakes, code, option):
  fakes.add('work', f'exit {code}')
  found, _, text = fakes.run(SCRIPT, *option, 'work')
  again = code in shell.RESTARTED
  assert found == code
  assert len(fakes.calls('work')) == (4 if again else 1) * (len(option) or 1)
  assert ('giving up' in text) == again


@pytest.mark.parametrize(
  ('codes', 'expected', 'runs'),
  [
    ((0, 137), 137, 4),
    ((75, 134), 134, 4),
    ((137, 65), 65, 1),
    ((64, 75), 64, 1),
  ],
)
def test_a_failure_decides_over_a_death_and_a_stop(
  fakes, codes, expected, runs
):
  first, second = codes
  fakes.add(
    'work', f'[[ "$*" == *process_id=0* ]] && exit {first}; exit {second}'
  )
  found, _, _ = fakes.run(SCRIPT, '--per-gpu', '--gpus=2', 'work')
  assert found == expected
  assert len(fakes.calls('work')) == 2 * runs


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_and_is_the_last(fakes, number):
  process = fakes.start(SCRIPT, '--per-gpu', '--gpus=2', *shell.WAITS)
  try:
    found = {process.stdout.readline() for _ in range(2)}
    assert found == {'[0] ready\n', '[1] ready\n'}
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
  finally:
    shell.kill_all(process)
  assert process.returncode == 75
  assert sorted(out.splitlines()) == [f'[{n}] signal {number}' for n in (0, 1)]


@pytest.mark.parametrize(
  ('arguments', 'code', 'words'),
  [
    ((), 64, 'no command'),
    (('--per-gpus', 'x'), 64, 'unknown option --per-gpus'),
    (('--per-gpu', '--gpus=many', 'x'), 64, '--gpus=many'),
    (('--gpus=4', 'x'), 64, '--per-gpu'),
    (('--per-gpu', '--gpus=0', 'x'), 66, 'lists no GPU'),
  ],
)
def test_what_is_wrong_is_one_line(fakes, arguments, code, words):
  found, out, text = fakes.run(SCRIPT, *arguments)
  assert (found, out) == (code, '')
  assert words in text
  assert len(text.splitlines()) == 1


def test_a_dry_run_prints_the_commands_and_runs_none(fakes):
  fakes.add('work')
  code, out, _ = fakes.run(
    SCRIPT, '--dry-run', '--per-gpu', '--gpus=2', 'work', 'a b'
  )
  assert code == 0
  assert not fakes.calls()
  script = shell.ROOT / 'launch'
  environment = r'JAX_PLATFORMS=cpu'
  assert out.splitlines() == [
    f'env {environment} bash {script}/restart.sh bash {script}/gpu_node.sh'
    " --once --per-gpu --gpus=2 work 'a b'",
    *(
      f"work 'a b' {FIELD}.mode=explicit {FIELD}.coordinator=127.0.0.1:PORT"
      f' {FIELD}.processes=2 {FIELD}.process_id={n} {FIELD}.local_devices={n}'
      for n in (0, 1)
    ),
  ]
