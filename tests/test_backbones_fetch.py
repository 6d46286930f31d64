"`faba fetch` against a small hub on this machine: revision, hash, damage, and what jobs then load offline"
import hashlib, json, os, re, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import small_weights as small

COMMIT = 'c0ffee' + '0'*34


class Hub(BaseHTTPRequestHandler):
    "As much of the hub's interface as its own library asks for"
    files, served, claims = {}, [], {}

    def log_message(self, *a): pass
    def do_HEAD(self): self.do_GET(body=False)

    def do_GET(self, body=True):
        if '/api/models/' in self.path: return self.answer(json.dumps(dict(id='x', sha=COMMIT, siblings=[dict(rfilename=n, size=len(d), lfs=dict(sha256=self.stated(n), size=len(d), pointerSize=1)) for n, d in self.files.items()])).encode(), {'Content-Type': 'application/json'}, body)
        name = self.path.split('?')[0].rpartition('/')[2]
        if name not in self.files: return self.send_error(404)
        data, start = self.files[name], int((re.match(r'bytes=(\d+)-', self.headers.get('Range') or '') or [0, 0])[1])
        if body: self.served.append((name, start))
        self.answer(data[start:], {'ETag': f'"{hashlib.sha256(data).hexdigest()}"', 'X-Repo-Commit': COMMIT}, body, 206 if start else 200, start, len(data))

    def stated(self, name): return self.claims.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def answer(self, data, headers, body, code=200, start=0, total=None):
        self.send_response(code)
        for k, v in headers.items(): self.send_header(k, v)
        if start: self.send_header('Content-Range', f'bytes {start}-{total-1}/{total}')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if body: self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    "A hub that holds small weights of BioCLIP 2, and the environment of a login node"
    files, _ = small.build('bioclip2')
    handler = type('TestHub', (Hub,), dict(files=files, served=[], claims={}))
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {k: v for k, v in os.environ.items() if not k.startswith('HF_') and not k.lower().endswith('_proxy')}
    handler.env = env | dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path/'hf'), HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1', FABA_CACHE=str(tmp_path/'cache'), NO_PROXY='*')
    yield handler
    server.shutdown()


def fetch(hub, *args, **more):
    return subprocess.run([sys.executable, '-m', 'faba_nb', 'fetch', 'bioclip2', *args], capture_output=True, text=True, env=hub.env | more, timeout=120)


def test_fetch_records_what_it_got_and_jobs_load_it_offline(hub, tmp_path):
    done = fetch(hub)
    weights = hub.files['open_clip_model.safetensors']
    digest = hashlib.sha256(weights).hexdigest()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == 'OK torch.Size([1024])' and COMMIT in done.stdout and digest in done.stdout
    record = json.loads((tmp_path/'hf'/'faba_weights'/'bioclip2.json').read_text())
    assert (record['revision'], record['sha256'], record['norm']) == (COMMIT, digest, [1024])
    code = 'from faba_nb.backbones.encoders import load_encoder; e = load_encoder("bioclip2", "cpu"); print(e.papers["revision"], e.widths["proj"])'
    job = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=hub.env | dict(HF_HUB_OFFLINE='1', HF_ENDPOINT='http://127.0.0.1:9'))
    assert job.stdout.split() == [COMMIT, '768'], job.stderr
    served = len(hub.served)
    assert fetch(hub).returncode == 0 and len(hub.served) == served, 'a second fetch downloads nothing'


def test_damage_on_the_way_is_noticed(hub):
    hub.claims['open_clip_model.safetensors'] = 'f'*64
    done = fetch(hub)
    assert done.returncode == 2 and 'arrived damaged' in done.stderr + done.stdout and 'Traceback' not in done.stderr


def test_offline_one_line_says_where_to_fetch(hub):
    done = fetch(hub, HF_HUB_OFFLINE='1')
    assert done.returncode == 2 and 'login node' in done.stderr + done.stdout and 'Traceback' not in done.stderr
