"""The other methods of the table: colour and DCT features, and a vision-language model over HTTP."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.cli import main
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.results import Verdict
from semanom_ros.errors import SemanomError, without_secrets
from semanom_ros.evaluation import baselines
from semanom_ros.evaluation.baselines.dct_baseline import DctEncoder
from semanom_ros.evaluation.baselines.patchcore_baseline import CORESET_SHARE, PatchCoreMethod
from semanom_ros.evaluation.baselines.vlm_baseline import LARGEST_REPLY, MOST_BOXES, THRESHOLD, VlmMethod, parse
from semanom_ros.parameter_files import read_yaml
from semanom_ros.settings import Settings

from .conftest import START_NS, road, write_drive

SECRET = 'sk-not-to-be-written-anywhere'


@contextmanager
def server(respond, raw=False):
    """An OpenAI-compatible server; `respond(request, count)` gives (status, headers, text of the answer).

    With `raw` it gives the whole body, bytes or a function that writes it, in place of the text.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            requests.append((self.path, dict(self.headers), body))
            status, headers, text = respond(body, len(requests))
            content = text if raw else json.dumps({'choices': [{'message': {'content': text}}],
                                  'usage': {'prompt_tokens': 1000, 'completion_tokens': 50}}).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if callable(content):
                self.end_headers()
                content(self.wfile)
                return
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    running = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f'http://127.0.0.1:{running.server_port}/v1', requests
    finally:
        running.shutdown()
        running.server_close()


def picture_of(body):
    """What the model was shown, RGB."""
    uri = body['messages'][0]['content'][1]['image_url']['url']
    data = np.frombuffer(base64.b64decode(uri.removeprefix('data:image/jpeg;base64,')), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def looks(body, count):
    """A model that sees red things."""
    image = picture_of(body).astype(int)
    red = (image[..., 0] > 150) & (image[..., 1] < 90)
    if not red.any():
        return 200, {}, '{"anomalous": false, "score": 0.1, "boxes": []}'
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    height, width = red.shape
    box = [columns[0] / width, rows[0] / height, np.ptp(columns + 1) / width, np.ptp(rows + 1) / height]
    answer = {'anomalous': True, 'score': 0.9, 'boxes': [{'box': box, 'score': 0.9, 'label': 'red thing'}]}
    return 200, {}, f'```json\n{json.dumps(answer)}\n```'


def test_vision_language_model_joins_the_table(town, tmp_path, monkeypatch):
    monkeypatch.setenv('SEMANOM_VLM_API_KEY', SECRET)
    drive = write_drive(tmp_path / 'drive', 20, anomalies=((8, 13),))
    with server(looks) as (address, requests):
        def run(name):
            assert main(['evaluate', str(drive), '--output', str(tmp_path / name), '--filter', 'off',
                         '--baseline', 'vlm', '--endpoint', address, '--model', 'eye-1', '--vlm-period', '0',
                         '--vlm-rate', '100000', '--vlm-prices', '2.5', '10', '--vlm-cache', str(tmp_path / 'cache'),
                         *town.arguments('grid')]) == 0
            return json.loads((tmp_path / name / 'metrics.json').read_text())

        first = run('one')
        assert len(requests) == 20
        second = run('two')
        assert len(requests) == 20  # a rerun costs nothing
    assert all(path == '/v1/chat/completions' and headers['Authorization'] == f'Bearer {SECRET}' and
               body['model'] == 'eye-1' for path, headers, body in requests)
    (row,) = first['baselines']
    assert first['baselines'] == second['baselines']
    assert row['name'] == 'VLM eye-1'
    assert row['frame'] == {'auroc': 1.0, 'ap': 1.0, 'fpr95': 0.0, 'f1': 1.0}
    assert row['component']['f1'] > 0.8
    assert (row['questions'], row['malformed_answers'], row['prompt_tokens']) == (20, 0, 20_000)
    assert row['cost'] == pytest.approx((20_000 * 2.5 + 1000 * 10) / 1e6)
    written = b''.join(file.read_bytes() for file in tmp_path.rglob('*') if file.is_file())
    assert SECRET.encode() not in written
    assert 'VLM eye-1' in (tmp_path / 'one' / 'report.html').read_text()


def frame(number):
    return Frame(np.full((24, 32, 3), number, np.uint8), number * 100_000_000)


def test_busy_server_is_asked_again(tmp_path):
    def respond(body, count):
        return (429, {'Retry-After': '0'}, '') if count == 1 else (503, {'Retry-After': '0'}, '') if count == 2 else \
            (200, {}, '{"anomalous": true, "score": 0.2, "boxes": []}')

    with server(respond) as (address, requests):
        baseline = VlmMethod(address, 'm', tmp_path, per_minute=1e6)
        (verdict,) = baseline.process(frame(1))
    assert len(requests) == 3
    assert verdict.result.anomalous
    assert verdict.score >= THRESHOLD  # the verdict wins over a score that contradicts it


def test_refusal_and_silence_are_one_line(tmp_path):
    with server(lambda body, count: (401, {}, '')) as (address, requests):
        with pytest.raises(SemanomError, match=r'refuses with status 401; check --endpoint'):
            VlmMethod(address, 'm', tmp_path).process(frame(1))
        assert len(requests) == 1
    with server(lambda body, count: (500, {'Retry-After': '0'}, '')) as (address, requests):
        with pytest.raises(SemanomError, match=r'no answer after 3 tries \(status 500\)'):
            VlmMethod(address, 'm', tmp_path, per_minute=1e6, retries=2).process(frame(1))
        assert len(requests) == 3
    with pytest.raises(SemanomError, match='http'):
        VlmMethod('file:///etc/passwd', 'm', tmp_path)


GOOD = '{"anomalous": false, "score": 0.1, "boxes": []}'
REPLY = json.dumps({'choices': [{'message': {'content': GOOD}}], 'usage': {'prompt_tokens': 'many'}})


@pytest.mark.parametrize('reply', [
    b'', b'I see a road.', b'<html>please log in</html>', b'null', b'[]', b'5', b'\xff\xfe', b'{"choices": []}',
    b'{"choices": {}}', b'{"choices": [{"message": {"content": null}}]}', b'[' * 100_000, b'x' * (LARGEST_REPLY + 1),
    json.dumps({'choices': [{'message': {'content': '{"anomalous": true, "score": 1' + '0' * 400 + '}'}}]}).encode(),
    json.dumps({'choices': [{'message': {'content': '{"a":' * 100_000 + '}'}}]}).encode(),
], ids=lambda reply: repr(reply[:20]))
def test_malformed_answers_are_counted_and_their_frames_unknown(tmp_path, caplog, trial, reply):
    with trial('Network', 'an answer of the vision-language model that is none'):
        with server(lambda body, count: (200, {}, reply if count == 2 else REPLY.encode()), raw=True) as (address, _):
            baseline = VlmMethod(address, 'm', tmp_path, period_s=0, per_minute=1e6)
            verdicts = [baseline.process(frame(number))[0] for number in range(3)]
        assert [verdict.result.verdict for verdict in verdicts] == [Verdict.NOMINAL, Verdict.UNKNOWN, Verdict.NOMINAL]
        assert np.isnan(verdicts[1].score)
        assert verdicts[1].pixel_scores is None
        assert 'malformed answer of m: found' in verdicts[1].result.explanation
        details = baseline.details()
        assert (details['questions'], details['malformed_answers'], details['prompt_tokens']) == (3, 1, 0)
        assert caplog.text.count('malformed answer') == 1


def test_a_picture_that_is_refused_is_unknown_and_the_others_go_on(tmp_path):
    with server(lambda body, count: (400 if count == 2 else 200, {}, GOOD)) as (address, _):
        baseline = VlmMethod(address, 'm', tmp_path, period_s=0, per_minute=1e6)
        known = [baseline.process(frame(number))[0].result.verdict is not Verdict.UNKNOWN for number in range(3)]
    assert known == [True, False, True]


@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
def test_the_key_follows_no_redirect(tmp_path, monkeypatch, trial, status):
    monkeypatch.setenv('SEMANOM_VLM_API_KEY', SECRET)
    with trial('Network', 'a server that redirects to another'), server(
            lambda *_: (200, {}, GOOD)) as (other, stolen), server(
            lambda *_: (status, {'Location': f'{other}/?token=hidden'}, '')) as (address, requests):
        with pytest.raises(SemanomError, match=r'redirects to 127.0.0.1, where neither picture nor key') as caught:
            VlmMethod(address, 'm', tmp_path).process(frame(1))
        assert len(requests) == 1
        assert not stolen
        assert 'hidden' not in str(caught.value)


@pytest.mark.parametrize('endpoint', [
    'http://me:pa55word@127.0.0.1:9/v1', 'https://:pa55word@host/v1', 'ftp://me:pa55word@host', 'http://a:pa55word@',
    'me:pa55word@host'])
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path, trial, endpoint):
    with trial('Network', 'a password in an address'):
        with pytest.raises(SemanomError, match='--endpoint') as caught:
            VlmMethod(endpoint, 'm', tmp_path)
        assert 'pa55word' not in str(caught.value)


def test_a_key_in_an_address_is_not_repeated(tmp_path, trial, caplog):
    with trial('Network', 'a password in an address'), server(
            lambda *_: (500, {'Retry-After': '0'}, '')) as (address, _):
        with pytest.raises(SemanomError, match='no answer') as caught:
            VlmMethod(f'{address}?api_key=pa55word', 'm', tmp_path, per_minute=1e6, retries=1).process(frame(1))
        assert 'pa55word' not in str(caught.value) + caplog.text
        assert 'api_key=***' in str(caught.value)


def test_a_key_that_cannot_be_sent_is_not_repeated(tmp_path, monkeypatch, trial):
    monkeypatch.setenv('SEMANOM_VLM_API_KEY', f'{SECRET}\nX-Other: 1')
    with trial('Network', 'a key that is none'):
        with pytest.raises(SemanomError, match='SEMANOM_VLM_API_KEY: found a key with line breaks') as caught:
            VlmMethod('http://127.0.0.1:9', 'm', tmp_path)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(('text', 'clean'), [
    ('http://u:p@h:1/x', 'http://***@h:1/x'), ('proxy socks5://p@h refused', 'proxy socks5://***@h refused'),
    ('https://h/?a=1&access_token=zz&b=2', 'https://h/?a=1&access_token=***&b=2'),
    ('https://h/?X-Amz-Signature=zz', 'https://h/?X-Amz-Signature=***'), ('Bearer sk-123456', 'Bearer ***'),
    ('me@example.org', 'me@example.org'), ('/data/a@b/c', '/data/a@b/c'), ('key=5', 'key=5'),
    ("('https://u:p@h/', 5)", "('https://***@h/', 5)"), ('http://u:p@ss@h:1/', 'http://***@h:1/'),
    ('http://u:p/s@h/', 'http://***@h/'), ('http://h:80/a@b', 'http://h:80/a@b'), ('npm://h/@a/b', 'npm://h/@a/b'),
    ('https://h/#access_token=zz', 'https://h/#access_token=***'), ('x-api-key: zz', 'x-api-key: ***'),
    ('{"api_key": "zz", "a": 1}', '{"api_key": "***", "a": 1}')])
def test_secrets_are_struck_out(text, clean):
    assert str(SemanomError(text)) == without_secrets(text) == clean


@pytest.mark.parametrize('part', ['x', '?key', 'a://b:', 'a://b@', 'Bearer ', 'password ', '&keykey', 'a:', '=key'])
def test_striking_out_takes_no_longer_for_a_text_that_is_made_for_it(trial, part):
    with trial('Network', 'a text that costs much to search for secrets'):
        begun = time.monotonic()
        without_secrets(part * (100_000 // len(part)))
        assert time.monotonic() - begun < 2


def test_a_server_that_repeats_the_key_is_not_quoted(tmp_path, monkeypatch, trial, caplog):
    monkeypatch.setenv('SEMANOM_VLM_API_KEY', SECRET)
    with trial('Network', 'an answer of the vision-language model that is none'):
        with server(lambda *_: (200, {}, f'Incorrect key: {SECRET} \ud800'.encode(errors='surrogatepass')),
                    raw=True) as (address, _):
            verdict = VlmMethod(address, 'm', tmp_path).process(frame(1))[0]
        assert 'Incorrect key: ***' in verdict.result.explanation
        assert SECRET not in verdict.result.explanation + caplog.text


def test_an_endpoint_may_have_a_query(tmp_path):
    with server(lambda *_: (200, {}, GOOD)) as (address, requests):
        VlmMethod(f'{address}/?api-version=1', 'm', tmp_path).process(frame(1))
    assert requests[0][0] == '/v1/chat/completions?api-version=1'


def test_an_answer_without_end_is_given_up(tmp_path, trial):
    def drip(file):
        with suppress(OSError):
            while True:
                file.write(b' ')
                time.sleep(0.01)

    with trial('Network', 'a server whose answer does not end'), server(
            lambda *_: (200, {}, drip), raw=True) as (address, _):
        begun = time.monotonic()
        with pytest.raises(SemanomError, match=r'no answer after 1 tries .the answer does not end'):
            VlmMethod(address, 'm', tmp_path, retries=0, timeout_s=0.5).process(frame(1))
        assert time.monotonic() - begun < 10


def test_boxes_and_labels_are_bounded():
    box = {'box': [0, 0, 1, 1], 'label': 'a\ud800\x1b' * 100}
    answer = parse(json.dumps({'anomalous': True, 'score': 1, 'boxes': [box] * MOST_BOXES}))
    assert answer.labels[0].isprintable()
    assert len(answer.labels[0]) < 1000
    answer.labels[0].encode()
    assert parse(json.dumps({'anomalous': True, 'score': 1, 'boxes': [box] * (MOST_BOXES + 1)})) is None
    assert parse('{"anomalous": false, "score": 0, "boxes": null}').boxes == ()


def test_answer_holds_until_the_next_question(tmp_path):
    with server(looks) as (address, requests):
        baseline = VlmMethod(address, 'm', tmp_path, period_s=0.5, per_minute=1e6)
        for number in range(11):
            baseline.process(frame(number))
        assert len(requests) == 3  # at 0, 0.5 and 1.0 s
        baseline.reset()
        baseline.process(frame(11))
        assert len(requests) == 4


@pytest.mark.parametrize('text', [
    '', 'null', '[]', '{"anomalous": "yes", "score": 1}', '{"anomalous": true, "score": 7}', '{"score": 0.5}',
    '{"anomalous": true, "score": 1, "boxes": [{"box": [0, 0, 2, 1]}]}',
    '{"anomalous": true, "score": 1, "boxes": [{"box": [0, 0, 1]}]}', '{"anomalous": true, "score": NaN}'])
def test_what_is_no_answer(text):
    assert parse(text) is None


def test_dct_features():
    """Unit length, the same for the same patch, blind to nothing that colour or texture tells apart."""
    encoder = DctEncoder((40, 64))
    assert encoder.grid_size == (2, 4)
    random = torch.Generator().manual_seed(0)
    images = torch.rand((1, 3, *encoder.input_size), generator=random)
    images[..., 16:32, 0:16] = images[..., 0:16, 0:16]
    images[..., 0:16, 32:48] = 0.5
    features = encoder.encode(images)
    assert features.shape == (1, 2, 4, encoder.dimension)
    assert torch.allclose(features.norm(dim=-1), torch.ones(1, 2, 4))
    assert torch.allclose(features[0, 0, 0], features[0, 1, 0])
    assert features[0, 0, 0] @ features[0, 0, 2] < 0.99
    luma = np.asarray(0.299 * images[0, 0] + 0.587 * images[0, 1] + 0.114 * images[0, 2])
    reference = cv2.dct(luma[:16, 48:64] * 1.0)
    # OpenCV's transform is orthonormal: the factor of a coefficient is sqrt(2) smaller for each zero frequency
    assert features[0, 0, 3, 4 + 4 + 2 - 1] / features[0, 0, 3, 4] == pytest.approx(
        abs(reference[1, 2] / reference[0, 1]) / np.sqrt(2), rel=1e-4)


def test_dct_baseline_joins_the_table(town, tmp_path):
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--filter', 'off', '--baseline', 'dct',
                 *town.arguments('grid')]) == 0
    (row,) = json.loads((tmp_path / 'out' / 'metrics.json').read_text())['baselines']
    assert row['name'] == 'colour + DCT'
    assert row['frame']['auroc'] > 0.9
    assert row['vectors'] > 0


def test_patchcore_joins_the_table(town, tmp_path):
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--filter', 'off', '--baseline',
                 'patchcore', *town.arguments('grid', 'instance')]) == 0
    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    (row,) = metrics['baselines']
    assert row['name'] == 'PatchCore'
    assert row['frame']['auroc'] > 0.9
    assert row['pixel']['ap'] > 0.5
    assert row['vectors'] == round(CORESET_SHARE * metrics['databases']['grid']['vectors'])
    assert 'PatchCore' in (tmp_path / 'out' / 'report.html').read_text()


def test_patchcore_scores_as_the_paper_says(town, tmp_path):
    """Distance and re-weighting computed anew from the coreset, with Euclidean distances written out."""
    settings = Settings.of(read_yaml(town.config)).method
    embedder = Embedder.load(settings)
    baseline = PatchCoreMethod(settings, [town.databases['grid']], embedder.encoder, tmp_path / 'coreset')
    frame = Frame(road(3, seed=5), START_NS)
    (verdict,) = baseline.process(frame)

    database = NominalDatabase.open(tmp_path / 'coreset')
    bank = np.concatenate([np.asarray(recorded.vectors) for recorded in database.frames()])
    patches = embedder.embed([frame])[0].patches.reshape(-1, bank.shape[1]).numpy()
    expected = []
    for patch in patches:
        distances = np.linalg.norm(bank - patch, axis=1)
        nearest = int(distances.argmin())
        support = np.argsort(np.linalg.norm(bank - bank[nearest], axis=1), kind='stable')[:9]
        weight = 1 - np.exp(distances[nearest]) / np.exp(distances[support]).sum()
        expected.append(weight * distances[nearest] ** 2 / 2)
    assert verdict.result.raw_score == pytest.approx(max(expected), rel=1e-3)


def test_patchcore_needs_a_grid_database(town, tmp_path, capsys):
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--baseline', 'patchcore',
                 *town.arguments('instance')]) == 2
    assert 'expected a database of the variant grid' in capsys.readouterr().err


NEW_BASELINE = '''
from semanom_ros.core.results import FrameResult, ScoreMap, Verdict
from semanom_ros.evaluation.detectors import Row, ranked


class Grey:
    name = 'grey'
    help = 'how dark a picture is'

    def add_arguments(self, group):
        group.add_argument('--darkest', type=float, default=0.0, help='grey: subtracted')

    def make(self, context):
        assert not context.scratch.exists()
        return Method(context.arguments.darkest)


class Method:
    rows = (Row('', baseline='grey'),)
    false_alarm_rate = None

    def __init__(self, darkest):
        self.darkest = darkest

    def process(self, frame):
        pixels = 256 - frame.image.mean(axis=2, dtype='float32')
        score = float(pixels.mean()) - self.darkest
        result = FrameResult(frame.stamp_ns, frame.camera, pixels.shape, score, score, 1.0, 500.0, Verdict.NOMINAL,
                             ScoreMap.of_pixels(pixels), 500.0)
        return [ranked(result, False, 1.0)]

    def reset(self):
        pass

    def details(self):
        return {'darkest': self.darkest}


BASELINE = Grey()
'''


def test_another_baseline_is_another_file(town, tmp_path, monkeypatch, capsys):
    (tmp_path / 'grey_baseline.py').write_text(NEW_BASELINE)
    monkeypatch.setattr(baselines, '__path__', [*baselines.__path__, str(tmp_path)])
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--filter', 'off', '--baseline',
                 'grey', '--darkest', '7', *town.arguments('grid')]) == 0
    (row,) = json.loads((tmp_path / 'out' / 'metrics.json').read_text())['baselines']
    assert (row['name'], row['darkest']) == ('grey', 7)
    assert 'grey ' in capsys.readouterr().out
