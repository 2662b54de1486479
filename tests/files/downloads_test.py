"""Downloads from a server of the test's own, which does as it likes."""

import http.server
import socketserver
import threading
import time
import urllib.request

import pytest

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax import limits
from pyramid_jax.files import downloads
from pyramid_jax.files import known


GOOD = b'good' * 1000


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers by the name of the file that is asked for."""

  def do_GET(self):
    getattr(self, self.path.strip('/'))()

  def log_message(self, *_):
    pass

  def answer(self, code=200, **headers):
    self.send_response(code)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), value)
    self.end_headers()

  def good(self):
    self.answer(Content_Length=len(GOOD))
    self.wfile.write(GOOD)

  def unsaid(self):
    self.answer()
    self.wfile.write(GOOD)

  def cut(self):
    self.answer(Content_Length=len(GOOD))
    self.wfile.write(GOOD[:100])

  def huge(self):
    self.answer(Content_Length=10**13)

  def odd(self):
    self.answer(Content_Length='9' * 5000)
    self.wfile.write(GOOD)

  def endless(self):
    self.answer()
    while True:
      self.wfile.write(GOOD)

  def slow(self):
    self.answer()
    while True:
      self.wfile.write(b'a')
      time.sleep(0.02)

  def silent(self):
    time.sleep(3)

  def gone(self):
    self.answer(404)

  def nothing(self):
    self.close_connection = True

  def moved(self):
    self.answer(302, Location='/good')

  def round(self):
    self.answer(302, Location='/round')

  def to_file(self):
    self.answer(302, Location='file:///etc/passwd')

  def to_ftp(self):
    self.answer(302, Location='ftp://127.0.0.1/good')


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
  daemon_threads = True

  def handle_error(self, *_):
    pass  # the other side has left


@pytest.fixture(scope='module')
def site():
  with Server(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture
def fetch(site, tmp_path, monkeypatch):
  """Returns a function that fetches a file of the site by a known name."""
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)

  def fetch_it(path, **fields):
    entry = {'s': {'weights': (known.File(site=site, path=path, **fields),)}}
    monkeypatch.setattr(known, 'KNOWN', entry)
    return files.local('s', 'weights')

  return fetch_it


@pytest.mark.parametrize('path', ['good', 'unsaid', 'moved', 'odd'])
@pytest.mark.parametrize('size', [None, len(GOOD)])
def test_whole_files_come(fetch, path, size):
  assert fetch(path, size=size).read_bytes() == GOOD


# name of the file -> what is known of it, what the error says
BAD = {
  'cut': ({}, '100 of 4,000 bytes came'),
  'huge': ({}, r'it has 10,000,000,000,000 bytes; limit: 68,719,476,736'),
  'endless': ({'size': len(GOOD)}, 'more than 4,000 bytes came'),
  'good': ({'size': 3999}, 'it has 4,000 bytes; limit: 3,999'),
  'unsaid': ({'size': 4001}, 'what came has 4000 bytes|needed 4,001'),
  'moved': (
    {'sha256': 'a' * 64},
    'came has the SHA-256 .*, needed aaaaaa',
  ),
  'gone': ({}, 'HTTP Error 404'),
  'nothing': ({}, 'closed connection'),
  'round': ({}, 'infinite loop'),
  'to_file': ({}, 'file:///etc/passwd. is not allowed'),
  'to_ftp': ({}, 'without https: ftp://'),
}


@pytest.mark.parametrize('path', BAD)
def test_others_leave_nothing(fetch, tmp_path, path):
  fields, message = BAD[path]
  with pytest.raises(errors.UserError, match=message) as caught:
    fetch(path, **fields)
  assert caught.value.code == errors.MISSING
  assert 'Put it at ' in str(caught.value)
  assert [x for x in tmp_path.rglob('*') if x.is_file()] == []


def test_without_a_size_there_is_a_limit(fetch, tmp_path, monkeypatch):
  monkeypatch.setattr(limits, 'FETCH_BYTES', 1 << 20)
  with pytest.raises(errors.UserError, match='more than 1,048,576 bytes came'):
    fetch('endless')
  assert [x for x in tmp_path.rglob('*') if x.is_file()] == []


def test_slow_sites_are_left(fetch, tmp_path, monkeypatch):
  monkeypatch.setattr(limits, 'FETCH_PATIENCE_SECS', 0.3)
  with pytest.raises(errors.UserError, match=r' bytes in \d+ s'):
    fetch('slow')
  monkeypatch.setattr(limits, 'FETCH_WAIT_SECS', 0.2)
  with pytest.raises(errors.UserError, match='timed out'):
    fetch('silent')
  assert [x for x in tmp_path.rglob('*') if x.is_file()] == []


def test_secure_addresses_stay_secure():
  def follow(old, new):
    request = urllib.request.Request(old)
    return downloads._Redirects().redirect_request(
      request, None, 302, '', {}, new
    )

  assert follow('https://a/x', 'https://b/y').full_url == 'https://b/y'
  assert follow('http://a/x', 'https://b/y').full_url == 'https://b/y'
  with pytest.raises(OSError, match='without https: http://b/y'):
    follow('https://a/x', 'http://b/y')


def test_the_hub_is_asked_for_the_size_first(tmp_path, monkeypatch):
  import huggingface_hub

  monkeypatch.setenv('HOME', str(tmp_path))
  blob, link = tmp_path / 'blob', tmp_path / 'link'
  said = huggingface_hub.HfFileMetadata.__new__(huggingface_hub.HfFileMetadata)
  object.__setattr__(said, 'size', 10**13)

  def download(*_, **__):
    blob.write_bytes(GOOD)
    link.symlink_to(blob)
    return str(link)

  monkeypatch.setattr(huggingface_hub, 'get_hf_file_metadata', lambda _: said)
  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
  monkeypatch.setattr(
    huggingface_hub, 'try_to_load_from_cache', lambda *_, **__: None
  )
  name = 'hf://o/w/x.bin'
  with pytest.raises(errors.UserError, match='it has 10,000,000,000,000 bytes'):
    files.local(name, 'weights')
  object.__setattr__(said, 'size', len(GOOD))
  assert files.local(name, 'weights') == link
  link.unlink()
  file = known.File(repository='o/w', path='x.bin', sha256='a' * 64)
  monkeypatch.setattr(known, 'KNOWN', {'w': {'weights': (file,)}})
  with pytest.raises(errors.UserError, match='what came has the SHA-256'):
    files.local('w', 'weights')
  assert not link.is_symlink()
  assert not blob.exists()
  file = known.File(repository='o/w', path='x.bin', size=3)
  monkeypatch.setattr(known, 'KNOWN', {'w': {'weights': (file,)}})
  with pytest.raises(errors.UserError, match='it has 4,000 bytes; needed: 3'):
    files.local('w', 'weights')
