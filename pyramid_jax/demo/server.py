"""Serves the page to this machine alone, with settings that expose nothing.

The server listens on 127.0.0.1, answers only to the names that it is given,
reads no more of a message than a request needs, serves no file of the machine,
and sends nothing about its use to anybody.
"""

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import re
import tempfile
from typing import Any

from pyramid_jax import errors
from pyramid_jax.demo import form
from pyramid_jax.demo import page as page_lib


ADDRESS = '127.0.0.1'
NAMES = (ADDRESS, 'localhost')
OLDEST = (6, 25)  # of gradio: older ones have known holes
# Of a message: an upload with its frame, and the values of a form.
MESSAGE_BYTES = form.UPLOAD_BYTES + (1 << 16)
_WAITING = 16  # requests in the queue, at most
# Read by gradio when it is imported; and not to be taken from the environment.
_ENVIRONMENT: Mapping[str, str] = {
  'GRADIO_ANALYTICS_ENABLED': 'False',
  'HF_HUB_DISABLE_TELEMETRY': '1',
  'GRADIO_ALLOWED_PATHS': '',
  'GRADIO_SHARE': 'False',
}

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def check_gradio() -> None:
  """Raises a UserError if gradio is not there, or too old to be safe."""
  try:
    import gradio
  except ImportError as error:
    raise errors.UserError(
      "the demo needs gradio: pip install 'pyramid_jax[demo]'.", errors.MISSING
    ) from error
  version = str(gradio.__version__)
  numbers = re.match(r'(\d+)\.(\d+)', version)
  if numbers is None or tuple(map(int, numbers.groups())) < OLDEST:
    least = '.'.join(map(str, OLDEST))
    raise errors.UserError(
      f'gradio {version} is too old, the demo needs {least} or newer: pip'
      " install -U 'pyramid_jax[demo]'.",
      errors.MISSING,
    )


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
  """Yields a private folder for uploads, which is removed in the end.

  It must be entered before gradio is imported.
  """
  with tempfile.TemporaryDirectory(prefix='pyramid_jax_demo_') as name:
    path = pathlib.Path(name).resolve()
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=str(path))
    try:
      yield path
    finally:
      os.environ.clear()
      os.environ.update(before)


def launch(
  tabs: Sequence[page_lib.Tab], port: int, names: Sequence[str] = NAMES
) -> Any:
  """Starts the server in threads of its own; returns the page.

  Args:
    tabs: of the page.
    port: 0 for any that is free.
    names: under which a browser may ask for the page.

  Returns:
    The page, a `gradio.Blocks`, with `local_url` and `close()`.

  Raises:
    UserError: the port is taken.
  """
  import gradio as gr

  page = page_lib.build(tabs)
  page.queue(max_size=_WAITING, default_concurrency_limit=1, api_open=False)
  try:
    page.launch(
      **settings(port, names),
      theme=gr.themes.Soft(
        font=['system-ui', 'sans-serif'], font_mono=['monospace']
      ),
      css=(page_lib.HERE / 'page.css').read_text(),
    )
  except OSError as error:
    raise errors.UserError(f'port {port}: {error}.') from error
  return page


def settings(port: int, names: Sequence[str]) -> dict[str, Any]:
  """Returns the settings of `gradio.Blocks.launch` that decide who sees what.

  Args:
    port: 0 for any that is free.
    names: under which a browser may ask for the page.
  """
  return {
    'server_name': ADDRESS,
    'server_port': port or None,
    'share': False,
    'inbrowser': False,
    'quiet': True,
    'prevent_thread_lock': True,
    'max_file_size': form.UPLOAD_BYTES,
    'allowed_paths': [],
    'blocked_paths': [os.getcwd()],
    'show_error': False,
    'enable_monitoring': False,
    'ssr_mode': False,
    'strict_cors': True,
    'mcp_server': False,
    'pwa': False,
    'footer_links': [],
    'state_session_capacity': 100,
    'app_kwargs': {'middleware': [_middleware(names)]},
  }


def _middleware(names: Sequence[str]) -> Any:
  from starlette.middleware import Middleware

  return Middleware(Gate, names=tuple(names))


class Gate:
  """Refuses foreign names of the host, and messages that are too large.

  It is a layer of the server, an ASGI application around another one. A page
  elsewhere cannot reach this one by a name that it has pointed to this machine.
  """

  def __init__(
    self,
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    names: Sequence[str] = NAMES,
    most: int = MESSAGE_BYTES,
  ):
    self._app, self._names, self._most = app, frozenset(names), most

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] not in ('http', 'websocket'):
      await self._app(scope, receive, send)
      return
    headers = {k.lower(): v.decode('latin-1') for k, v in scope['headers']}
    host = headers.get(b'host', '').rpartition('@')[2]
    name = re.sub(r':\d*$', '', host).lower()
    if name not in self._names:
      await _refuse(send, 421, f'{name[:80]!r} is no name of this server.')
      return
    length = headers.get(b'content-length', '0')
    if not length.isdecimal() or len(length) > 15 or int(length) > self._most:
      await _refuse(send, 413, f'At most {self._most} bytes are read.')
      return
    await self._app(scope, self._bounded(receive), send)

  def _bounded(self, receive: Receive) -> Receive:
    """Returns a reader of a message without a length, which may be long."""
    left = self._most

    async def bounded() -> Any:
      nonlocal left
      message = await receive()
      left -= len(message.get('body', b''))
      if left < 0:
        return {'type': 'http.disconnect'}
      return message

    return bounded


async def _refuse(send: Send, status: int, text: str) -> None:
  body = json.dumps({'detail': text}).encode()
  headers = [(b'content-type', b'application/json')]
  start = {'type': 'http.response.start', 'status': status, 'headers': headers}
  await send(start)
  await send({'type': 'http.response.body', 'body': body})
