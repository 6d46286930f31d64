"`faba fetch` against a small hub on this machine: revision, hash, damage, and what jobs then load offline"

import hashlib, json, os, re, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import small_weights as small

COMMIT = 'c0ffee' + '0' * 34


class Hub(BaseHTTPRequestHandler):
    "As much of the hub's interface as its own library asks for"

    files, served, claims, cut = {}, [], {}, {}

    def log_message(self, *a):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        if '/api/models/' in self.path:
            return self.answer(
                json.dumps(
                    dict(
                        id='x',
                        sha=COMMIT,
                        siblings=[
                            dict(
                                rfilename=n,
                                size=len(d),
                                lfs=dict(sha256=self.stated(n), size=len(d), pointerSize=1),
                            )
                            for n, d in self.files.items()
                        ],
                    )
                ).encode(),
                {'Content-Type': 'application/json'},
                body,
            )
        name = self.path.split('?')[0].rpartition('/')[2]
        if name not in self.files:
            return self.send_error(404)
        data, start = (
            self.files[name],
            int((re.match(r'bytes=(\d+)-', self.headers.get('Range') or '') or [0, 0])[1]),
        )
        if body:
            self.served.append((name, start))
        if body and name in self.cut:
            return self.break_off(name, data, start)
        self.answer(
            data[start:],
            {'ETag': f'"{hashlib.sha256(data).hexdigest()}"', 'X-Repo-Commit': COMMIT},
            body,
            206 if start else 200,
            start,
            len(data),
        )

    def stated(self, name):
        return self.claims.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def break_off(self, name, data, start):
        "Announce the whole, send a part, and hang up or (None) say nothing more"
        part, then = self.cut[name].pop(0)
        if not self.cut[name]:
            del self.cut[name]
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:part])
        self.wfile.flush()
        if then == 'silence':
            self.quiet.wait(60)
        self.close_connection = True

    def answer(self, data, headers, body, code=200, start=0, total=None):
        self.send_response(code)
        for k, v in headers.items():
            self.send_header(k, v)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{total - 1}/{total}')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    "A hub that holds small weights of BioCLIP 2, and the environment of a login node"
    files, _ = small.build('bioclip2')
    handler = type(
        'TestHub', (Hub,), dict(files=files, served=[], claims={}, cut={}, quiet=threading.Event())
    )
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith('HF_') and not k.lower().endswith('_proxy')
    }
    handler.env = env | dict(
        HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}',
        HF_HOME=str(tmp_path / 'hf'),
        HF_HUB_DISABLE_XET='1',
        HF_HUB_DISABLE_TELEMETRY='1',
        FABA_CACHE=str(tmp_path / 'cache'),
        NO_PROXY='*',
    )
    yield handler
    handler.quiet.set()
    server.shutdown()


def fetch(hub, *args, **more):
    return subprocess.run(
        [sys.executable, '-m', 'faba_nb', 'fetch', 'bioclip2', *args],
        capture_output=True,
        text=True,
        env=hub.env | more,
        timeout=120,
    )


def test_fetch_records_what_it_got_and_jobs_load_it_offline(hub, tmp_path):
    done = fetch(hub)
    weights = hub.files['open_clip_model.safetensors']
    digest = hashlib.sha256(weights).hexdigest()
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip().splitlines()[-1] == 'OK torch.Size([1024])'
        and COMMIT in done.stdout
        and digest in done.stdout
    )
    record = json.loads((tmp_path / 'hf' / 'faba_weights' / 'bioclip2.json').read_text())
    assert (record['revision'], record['sha256'], record['norm']) == (COMMIT, digest, [1024])
    code = (
        'from faba_nb.backbones.encoders import load_encoder; '
        'e = load_encoder("bioclip2", "cpu"); print(e.papers["revision"], e.widths["proj"])'
    )
    job = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=hub.env | dict(HF_HUB_OFFLINE='1', HF_ENDPOINT='http://127.0.0.1:9'),
    )
    assert job.stdout.split() == [COMMIT, '768'], job.stderr
    served = len(hub.served)
    assert fetch(hub).returncode == 0 and len(hub.served) == served, (
        'a second fetch downloads nothing'
    )


def test_damage_on_the_way_is_noticed(hub):
    hub.claims['open_clip_model.safetensors'] = 'f' * 64
    done = fetch(hub)
    assert (
        done.returncode == 2
        and 'arrived damaged' in done.stderr + done.stdout
        and 'Traceback' not in done.stderr
    )


def test_offline_one_line_says_where_to_fetch(hub):
    done = fetch(hub, HF_HUB_OFFLINE='1')
    assert (
        done.returncode == 2
        and 'login node' in done.stderr + done.stdout
        and 'Traceback' not in done.stderr
    )


def padded(weights, size):
    "The same weights in a larger file: the format's header may end in spaces"
    n = int.from_bytes(weights[:8], 'little')
    return (n + size).to_bytes(8, 'little') + weights[8 : 8 + n] + b' ' * size + weights[8 + n :]


@pytest.mark.parametrize('killed', [False, True], ids=['the line breaks', 'the process is killed'])
def test_a_broken_download_goes_on_where_it_ended(hub, killed):
    name, whole = (
        'open_clip_model.safetensors',
        padded(hub.files['open_clip_model.safetensors'], 24_000_000),
    )
    hub.files[name], half = whole, len(whole) // 2
    hub.cut[name] = [(half, 'silence' if killed else 'hang up')]
    if killed:
        first = subprocess.Popen(
            [sys.executable, '-m', 'faba_nb', 'fetch', 'bioclip2'],
            env=hub.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        parts, deadline = (
            lambda: [p.stat().st_size for p in Path(hub.env['HF_HOME']).rglob('*.part')],
            time.monotonic() + 60,
        )
        while max(parts(), default=0) < 5_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        first.kill()
        first.wait()
    done = fetch(hub)
    assert done.returncode == 0, done.stderr
    starts = [start for n, start in hub.served if n == name]
    assert len(starts) == 2 and starts[0] == 0 and 5_000_000 < starts[1] <= half, (
        'the second request asks for the rest'
    )
    assert hashlib.sha256(whole).hexdigest() in done.stdout and not list(
        Path(hub.env['HF_HOME']).rglob('*.part')
    )
