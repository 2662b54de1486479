"""A server of objects on this machine that speaks what Cloud Storage speaks.

gcsfs and TensorStore find it by their environment variables, so that a command
with `--workdir=gs://BUCKET/NAME` runs as a whole and without a network. Objects
have generations, and writes and removals have preconditions. What a store does
not do, or does by copying all bytes, is refused and noted: copies, renames,
composed objects, changes of buckets.
"""

import base64
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import hashlib
from http import server
import importlib.util
import json
import re
import threading
from typing import Any
from urllib import parse

import pytest


# A mark of tests with the client of the service.
needs_client = pytest.mark.skipif(
  importlib.util.find_spec('gcsfs') is None,
  reason="no gcsfs is here: pip install 'pyramid_jax[gcs]'",
)
BUCKET = 'bucket'
_METADATA = re.compile(r'/storage/v1/b/([^/]+)/o/([^/]+)')
_DOWNLOAD = re.compile(r'/download/storage/v1/b/([^/]+)/o/([^/]+)')
_LIST = re.compile(r'/storage/v1/b/([^/]+)/o/?')
_UPLOAD = re.compile(r'/(?:resumable/)?upload/storage/v1/b/([^/]+)/o')
_RANGE = re.compile(r'bytes=(\d+)-(\d*)')
_PAGE = 1000  # objects of an answer


@dataclasses.dataclass(frozen=True)
class Object:
  """What is stored under a name."""

  data: bytes
  generation: int
  time: float  # s


class Failure(Exception):
  """An answer that is no success."""

  def __init__(self, status: int, words: str):
    super().__init__(words)
    self.status = status


class Objects:
  """The objects of one bucket, by name."""

  def __init__(self) -> None:
    self.found: dict[str, Object] = {}
    self.refused: list[str] = []  # requests that no store of objects takes
    self.count = 0  # of requests
    # (method, path) of a request that may raise a Failure
    self.fault: Callable[[str, str], None] = lambda method, path: None
    self.lock = threading.RLock()
    self._generation = 1000
    self._uploads: dict[str, tuple[str, str | None, bytearray]] = {}

  def names(self, folder: str = '') -> list[str]:
    """Returns the names of all objects below one."""
    with self.lock:
      return sorted(name for name in self.found if name.startswith(folder))

  def get(self, name: str) -> Object:
    with self.lock:
      if name not in self.found:
        raise Failure(404, f'No such object: {BUCKET}/{name}')
      return self.found[name]

  def check(self, name: str, wanted: str | None) -> None:
    """Raises unless an object has the generation that is wanted, 0 for none."""
    now = self.found.get(name)
    if wanted is not None and int(wanted) != (now.generation if now else 0):
      raise Failure(412, 'At least one of the pre-conditions did not hold.')

  def put(self, name: str, data: bytes, wanted: str | None) -> dict[str, Any]:
    with self.lock:
      self.check(name, wanted)
      self._generation += 1
      moment = datetime.datetime.now(datetime.UTC).timestamp()
      self.found[name] = Object(bytes(data), self._generation, moment)
      return self.described(name)

  def remove(self, name: str, wanted: str | None) -> None:
    with self.lock:
      self.get(name)
      self.check(name, wanted)
      del self.found[name]

  def described(self, name: str) -> dict[str, Any]:
    """Returns the metadata of an object, as the service gives them."""
    found = self.get(name)
    moment = datetime.datetime.fromtimestamp(found.time, datetime.UTC)
    text = moment.strftime('%Y-%m-%dT%H:%M:%S.%fZ')
    md5 = base64.b64encode(hashlib.md5(found.data).digest()).decode()
    return {
      'kind': 'storage#object',
      'name': name,
      'bucket': BUCKET,
      'generation': str(found.generation),
      'metageneration': '1',
      'size': str(len(found.data)),
      'updated': text,
      'timeCreated': text,
      'md5Hash': md5,
      'contentType': 'application/octet-stream',
    }

  def listed(self, query: dict[str, str]) -> dict[str, Any]:
    """Returns a page of a list."""
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
    first, last = query.get('startOffset', ''), query.get('endOffset', '')
    after = query.get('pageToken', '')
    most = min(int(query.get('maxResults') or _PAGE), _PAGE)
    items: list[dict[str, Any]] = []
    folders: list[str] = []
    with self.lock:
      for name in self.names(prefix):
        folder, mark, _ = name[len(prefix) :].partition(delimiter or '\0')
        shown = prefix + folder + delimiter if delimiter and mark else name
        is_out = name < first or (last and name >= last) or shown <= after
        if is_out or shown in folders:
          continue
        if len(items) + len(folders) == most:
          seen = [item['name'] for item in items] + folders
          token = {'nextPageToken': max(seen)}
          break
        if shown == name:
          items.append(self.described(name))
        else:
          folders.append(shown)
      else:
        token = {}
    found = {'kind': 'storage#objects', 'items': items, 'prefixes': folders}
    return {**{k: x for k, x in found.items() if x}, **token}

  def begun(self, name: str, wanted: str | None) -> str:
    """Returns the id of an upload that comes in parts."""
    with self.lock:
      self.check(name, wanted)
      number = f'upload{len(self._uploads)}'
      self._uploads[number] = name, wanted, bytearray()
      return number

  def part(
    self, number: str, data: bytes, span: str
  ) -> tuple[int, dict[str, Any] | None]:
    """Takes a part; returns the bytes so far, and the object once it is one."""
    with self.lock:
      name, wanted, parts = self._uploads[number]
      parts += data
      if span.rpartition('/')[2] != str(len(parts)):
        return len(parts), None
      return len(parts), self.put(name, parts, wanted)


class _Handler(server.BaseHTTPRequestHandler):
  """One connection."""

  protocol_version = 'HTTP/1.1'
  objects: Objects
  wbufsize = -1  # one packet an answer
  disable_nagle_algorithm = True

  def log_message(self, *args: Any) -> None:
    """Is silent."""

  def _handle(self) -> None:
    body = self._body()
    url = parse.urlsplit(self.path)
    self.query = dict(parse.parse_qsl(url.query))
    with self.objects.lock:
      self.objects.count += 1
    try:
      self.objects.fault(self.command, parse.unquote(url.path))
      self._answer(url.path, body)
    except Failure as error:
      answer = {'error': {'code': error.status, 'message': str(error)}}
      self._send(error.status, json.dumps(answer).encode())

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

  def _body(self) -> bytes:
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    body = b''
    while size := int(self.rfile.readline(), 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return body

  def _answer(self, path: str, body: bytes) -> None:
    matches = {
      self._of_object: _METADATA.fullmatch(path) or _DOWNLOAD.fullmatch(path),
      self._of_list: _LIST.fullmatch(path),
      self._of_upload: _UPLOAD.fullmatch(path),
    }
    for answer, match in matches.items():
      if match is None:
        continue
      bucket, *names = map(parse.unquote, match.groups())
      if bucket != BUCKET:
        raise Failure(404, 'The specified bucket does not exist.')
      if answer(*names, body=body):
        return
    self.objects.refused.append(f'{self.command} {self.path}')
    raise Failure(400, f'{self.command} {self.path} is not served')

  def _of_object(self, name: str, body: bytes) -> bool:
    wanted = self.query.get('ifGenerationMatch')
    if self.command == 'DELETE':
      self.objects.remove(name, wanted)
      self._send(204)
    elif (
      self.command == 'GET'
      and self.query.get('alt') == 'media'
      or self.command == 'GET'
      and self.path.startswith('/download')
    ):
      self._send_data(name)
    elif self.command == 'GET':
      self._send_json(self.objects.described(name))
    else:
      return False
    return True

  def _of_list(self, body: bytes) -> bool:
    if self.command == 'GET':
      self._send_json(self.objects.listed(self.query))
    return self.command == 'GET'

  def _of_upload(self, body: bytes) -> bool:
    query, kind = self.query, self.query.get('uploadType')
    wanted = query.get('ifGenerationMatch')
    if 'upload_id' in query:
      self._take_part(query['upload_id'], body)
    elif kind == 'media':
      self._send_json(self.objects.put(query['name'], body, wanted))
    elif kind == 'multipart':
      self._send_json(self.objects.put(*_parts(body), wanted))
    elif kind == 'resumable':
      number = self.objects.begun(query['name'], wanted)
      host = self.headers['Host']
      place = f'http://{host}/upload/storage/v1/b/{BUCKET}/o?upload_id={number}'
      self._send(200, b'{}', Location=place)
    else:
      return False
    return True

  def _take_part(self, number: str, body: bytes) -> None:
    if self.command == 'DELETE':
      self._send(499)
      return
    done, found = self.objects.part(number, body, self.headers['Content-Range'])
    if found is None:
      self._send(308, Range=f'bytes=0-{done - 1}')
    else:
      self._send_json(found)

  def _send_data(self, name: str) -> None:
    found = self.objects.get(name)
    same = self.query.get('ifGenerationNotMatch')
    if same is not None and int(same) == found.generation:
      self._send(304)
      return
    self.objects.check(name, self.query.get('ifGenerationMatch'))
    headers = {
      'x-goog-generation': str(found.generation),
      'x-goog-metageneration': '1',
    }
    match = _RANGE.fullmatch(self.headers.get('Range') or '')
    if match is None:
      self._send(200, found.data, **headers)
      return
    size, first = len(found.data), int(match[1])
    last = min(int(match[2] or size - 1), size - 1)
    if first >= size:
      raise Failure(416, 'The requested range cannot be satisfied.')
    headers['Content-Range'] = f'bytes {first}-{last}/{size}'
    self._send(206, found.data[first : last + 1], **headers)

  def _send_json(self, value: Any) -> None:
    self._send(200, json.dumps(value).encode())

  def _send(self, status: int, body: bytes = b'', **headers: str) -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    if status not in (204, 304):
      self.send_header('Content-Length', str(len(body)))
      self.send_header('Content-Type', 'application/json')
    self.end_headers()
    if status not in (204, 304):
      self.wfile.write(body)


def _parts(body: bytes) -> tuple[str, bytes]:
  """Returns name and data of an upload in two parts."""
  mark = body.split(b'\n', 1)[0].strip()
  _, about, data, _ = re.split(rb'\r?\n?' + re.escape(mark), body, maxsplit=3)
  values = json.loads(re.split(rb'\r?\n\r?\n', about, maxsplit=1)[1])
  return values['name'], re.split(rb'\r?\n\r?\n', data, maxsplit=1)[1]


class _Server(server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Is silent about clients that were killed."""


@contextlib.contextmanager
def serving() -> Iterator[tuple[Objects, dict[str, str]]]:
  """Gives a bucket, and the variables of processes that are to find it."""
  objects = Objects()
  handler = type('Handler', (_Handler,), {'objects': objects})
  with _Server(('127.0.0.1', 0), handler) as found:
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    address = f'http://127.0.0.1:{found.server_address[1]}'
    try:
      yield objects, environment(address)
    finally:
      found.shutdown()


def environment(address: str) -> dict[str, str]:
  """Returns the variables by which libraries find a server."""
  return {
    'STORAGE_EMULATOR_HOST': address,
    'TENSORSTORE_GCS_HTTP_URL': address,
    # It asks Google which kind a bucket is, by gRPC.
    'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    # Nobody looks for credentials.
    'FSSPEC_GCS_TOKEN': 'anon',
    'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'anybody',
  }
