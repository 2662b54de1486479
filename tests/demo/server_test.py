"""The server is for this machine alone; gradio is not needed for these."""

import asyncio
import os
import sys
import types

import pytest

from pyramid_jax import errors
from pyramid_jax.commands import demo
from pyramid_jax.demo import server


def ask(headers, bodies=(b'',), most=100, kind='http'):
  """Returns what a gate before an application that reads everything sends."""
  sent, read = [], []

  async def app(scope, receive, send):
    while True:
      message = await receive()
      read.append(message)
      if not message.get('more_body'):
        break
    await send({'type': 'http.response.start', 'status': 200})

  messages = [
    {'type': 'http.request', 'body': x, 'more_body': i < len(bodies) - 1}
    for i, x in enumerate(bodies)
  ]
  left = iter(messages)

  async def receive():
    return next(left)

  async def send(message):
    sent.append(message)

  gate = server.Gate(app, most=most)
  scope = {'type': kind, 'headers': [*headers.items()]}
  asyncio.run(gate(scope, receive, send))
  return sent, read


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    (b'127.0.0.1:7860', 200),
    (b'localhost:7860', 200),
    (b'LOCALHOST', 200),
    (b'evil.example', 421),
    (b'127.0.0.1.evil.example:7860', 421),
    (b'localhost@evil.example', 421),
    (b'', 421),
  ],
)
def test_only_known_names_of_the_host_are_answered(host, status):
  sent, read = ask({b'host': host})
  assert sent[0]['status'] == status
  assert bool(read) == (status == 200)


@pytest.mark.parametrize('length', [b'101', b'9' * 5000, b'-1', b'many'])
def test_long_messages_are_refused_unread(length):
  sent, read = ask({b'host': b'localhost', b'content-length': length})
  assert sent[0]['status'] == 413
  assert b'At most 100 bytes' in sent[1]['body']
  assert read == []


def test_messages_without_a_length_end_at_the_limit():
  _, read = ask({b'host': b'localhost'}, [b'x' * 60] * 3)
  assert [x['type'] for x in read] == ['http.request', 'http.disconnect']
  _, read = ask({b'host': b'localhost'}, [b'x' * 50] * 2)
  assert [x['type'] for x in read] == ['http.request'] * 2


def test_other_events_pass():
  assert ask({}, kind='lifespan')[0][0]['status'] == 200


def test_settings_are_safe(monkeypatch):
  monkeypatch.setattr(server, '_middleware', lambda names: names)
  found = server.settings(0, server.NAMES)
  assert found['server_name'] == '127.0.0.1'
  assert found['share'] is False
  assert found['strict_cors'] is True
  assert found['show_error'] is False
  assert found['ssr_mode'] is False
  assert found['mcp_server'] is False
  assert found['enable_monitoring'] is False
  assert found['allowed_paths'] == []
  assert found['blocked_paths'] == [os.getcwd()]
  assert found['max_file_size'] <= 5_000_000
  assert found['app_kwargs']['middleware'] == [server.NAMES]


def test_the_folder_of_uploads_is_private_and_removed(monkeypatch):
  monkeypatch.setenv('GRADIO_SHARE', 'True')
  with server.folder() as path:
    assert path.stat().st_mode & 0o777 == 0o700
    assert os.environ['GRADIO_TEMP_DIR'] == str(path)
    assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'
    assert os.environ['GRADIO_SHARE'] == 'False'
    (path / 'a').write_text('b')
  assert not path.exists()
  assert os.environ['GRADIO_SHARE'] == 'True'
  assert 'GRADIO_TEMP_DIR' not in os.environ


@pytest.mark.parametrize('version', ['5.50.0', '6.24.9', 'dev'])
def test_old_versions_of_gradio_are_refused(monkeypatch, version):
  monkeypatch.setitem(
    sys.modules, 'gradio', types.SimpleNamespace(__version__=version)
  )
  with pytest.raises(errors.UserError, match=f'gradio {version} is too old'):
    server.check_gradio()


def test_a_new_version_of_gradio_is_taken(monkeypatch):
  monkeypatch.setitem(
    sys.modules, 'gradio', types.SimpleNamespace(__version__='6.25.0')
  )
  server.check_gradio()


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  assert demo.main(['--workdir=shapes']) == errors.MISSING
  assert "pip install 'pyramid_jax[demo]'" in capsys.readouterr().err


def test_options_of_one_run_are_refused_for_several(capsys):
  arguments = ['--workdir=a,b', '--sketch=c']
  assert demo.main(arguments) == errors.USAGE
  assert '--sketch is for one --workdir, got 2' in capsys.readouterr().err


def test_tabs_have_names_of_their_own():
  assert demo.titles(['runs/a', 'runs/b', 'other/a', 'shapes']) == [
    *('a', 'b', 'other/a', 'shapes'),
  ]
