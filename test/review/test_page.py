"""The review page: its API, what it keeps out, and the page itself in a browser."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('flask', reason="Flask is not installed: pip install -e '.[review]'")

from semanom_ros.cli import main
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import SemanomError
from semanom_ros.review.cases import Cases
from semanom_ros.review.page import HEADER, review_page
from semanom_ros.review.serving import bound, read_token
from semanom_ros.review.verdict_files import Opinion, VerdictFolder, standing

TOKEN = '0123456789abcdef'


@pytest.fixture(scope='module')
def cases(drive: Any, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases([drive.results], tmp_path_factory.mktemp('pictures'), SILENT)


@pytest.fixture
def verdicts(tmp_path: Path) -> VerdictFolder:
    return VerdictFolder(tmp_path / 'verdicts', 'anna', 'desk')


@pytest.fixture
def client(cases: Cases, verdicts: VerdictFolder) -> Any:
    return review_page(cases, verdicts).test_client()


def post(client: Any, address: str, content: Any, **headers: str) -> Any:
    return client.post(address, json=content, headers={HEADER: '1', **headers})


def test_one_case_for_a_thing_that_is_tracked(cases: Cases, client: Any) -> None:
    listing = client.get('/api/cases').get_json()
    assert len(listing['cases']) == 1
    case = listing['cases'][0]
    assert case['frames'] >= 3
    assert case['score'] > 1
    x, y, width, height = case['box']
    assert x <= 64 < x + width
    assert y <= 80 < y + height
    source = listing['sources'][0]
    assert (source['topic'], source['frames']) == ('/camera/image_raw/compressed', 20)
    details = client.get('/api/cases/0').get_json()
    assert Path(details['nearest']['source']).name == 'plain'
    assert client.get('/nearest/0.jpg').data[:2] == b'\xff\xd8'
    picture = client.get(f'/pictures/0/{case["frame"]}.jpg').data
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert pixels[80, 64, 2] > 200 > 60 > pixels[80, 64, 0]  # red: it shows what it says


def test_verdicts_and_undo(cases: Cases, client: Any, verdicts: VerdictFolder) -> None:
    given = post(client, '/api/cases/0/verdict', {'verdict': 'nominal'}).get_json()
    post(client, '/api/cases/0/verdict', {'verdict': 'anomaly', 'kind': ' red  box '})
    read = verdicts.read()
    assert [one.opinion for one in read] == [Opinion.NOMINAL, Opinion.ANOMALY]
    assert (read[1].kind, read[1].author, read[1].thing) == ('red box', 'anna', cases.thing(cases.cases[0]))
    assert client.get('/api/cases').get_json()['cases'][0]['opinion'] == 'anomaly'
    assert post(client, '/api/undo', {}).get_json()['case'] == 0
    assert client.get('/api/cases').get_json()['cases'][0]['opinion'] == 'nominal'
    assert len(client.get('/api/cases/0').get_json()['history']) == 3
    post(client, '/api/undo', {})
    assert post(client, '/api/undo', {}).get_json() == {'revoked': None}
    assert not standing(verdicts.read())
    assert given['id'] in {one.revokes for one in verdicts.read()}


def test_what_was_missed_is_drawn(client: Any, verdicts: VerdictFolder) -> None:
    assert post(client, '/api/sources/0/frames/2/missed', {'box': [5, 6, 20, 10], 'kind': 'dog'}).status_code == 200
    assert verdicts.read()[0].thing.box == (5, 6, 20, 10)
    assert client.get('/api/sources/0/frames/2').get_json()['missed'] == [[5, 6, 20, 10]]
    for box in ([120, 0, 20, 10], [0, 0, 0, 5], [-1, 0, 5, 5], [1, 2, 3], 'all', [0.5, 0, 5, 5]):
        assert post(client, '/api/sources/0/frames/2/missed', {'box': box}).status_code == 400
    assert len(verdicts.read()) == 1


def test_authors_who_differ_are_shown(cases: Cases, client: Any, verdicts: VerdictFolder) -> None:
    post(client, '/api/cases/0/verdict', {'verdict': 'nominal'})
    VerdictFolder(verdicts.path, 'ben', 'desk').add(Opinion.ANOMALY, cases.thing(cases.cases[0]), 'x')
    assert client.get('/api/cases').get_json()['cases'][0]['disagree'] is True


@pytest.mark.parametrize(('address', 'content', 'status'), [
    ('/api/cases/9/verdict', {'verdict': 'nominal'}, 404), ('/api/cases/0/verdict', {'verdict': 'missed'}, 400),
    ('/api/cases/0/verdict', {'verdict': 'revoked'}, 400), ('/api/cases/0/verdict', [], 400),
    ('/api/cases/0/verdict', {'verdict': 'anomaly', 'kind': 'x' * 1000}, 400)])
def test_bad_requests_add_nothing(client: Any, verdicts: VerdictFolder, address: str, content: Any, status: int
                                  ) -> None:
    assert post(client, address, content).status_code == status
    assert not verdicts.read()


def test_strangers_are_kept_out(client: Any, verdicts: VerdictFolder) -> None:
    assert client.get('/', base_url='http://evil.example:8765').status_code == 403  # DNS rebinding
    assert client.get('/', headers={'Host': '[::1'}).status_code in (400, 403)
    assert client.get('/', base_url='http://127.0.0.1:8765').status_code == 200
    nominal = {'verdict': 'nominal'}
    assert client.post('/api/cases/0/verdict', json=nominal).status_code == 403  # a form of another page
    assert post(client, '/api/cases/0/verdict', nominal, Origin='http://localhost:9').status_code == 403
    assert post(client, '/api/cases/0/verdict', nominal, Origin='null').status_code == 403
    assert not verdicts.read()
    assert post(client, '/api/cases/0/verdict', nominal, Origin='http://localhost').status_code == 200
    assert "default-src 'none'" in client.get('/').headers['Content-Security-Policy']


def test_a_token_is_required_on_every_request(cases: Cases, verdicts: VerdictFolder) -> None:
    app = review_page(cases, verdicts, TOKEN)
    stranger, known = app.test_client(), app.test_client()
    for address in ('/', '/api/cases', '/pictures/0/0.jpg', '/static/review.js', '/?token=wrong', '/nowhere'):
        assert stranger.get(address).status_code == 401, address
    assert post(stranger, f'/api/undo?token={TOKEN}', {}).status_code == 401
    answer = known.get(f'/?token={TOKEN}')
    assert (answer.status_code, answer.headers['Location']) == (302, '/')
    assert known.get('/').status_code == known.get('/static/review.js').status_code == 200
    assert stranger.get('/api/cases', headers={'Authorization': f'Bearer {TOKEN}'}).status_code == 200


def test_no_one_listens_to_the_network_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(SemanomError, match=r'found 0\.0\.0\.0 without a token'):
        bound('0.0.0.0', 0, '')
    with socket.create_server(('127.0.0.1', 0)) as taken, pytest.raises(SemanomError, match='is in use; give another'):
        bound('127.0.0.1', taken.getsockname()[1], '')
    (tmp_path / 'token').write_text('short\n')
    with pytest.raises(SemanomError, match='found 5 characters, expected 16'):
        read_token(tmp_path / 'token')
    (tmp_path / 'token').write_text(TOKEN + '\n')
    assert read_token(tmp_path / 'token') == TOKEN


def test_folders_without_results_are_said(drive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'empty').mkdir()
    for folder, said in ((tmp_path / 'empty', 'found nothing to review'), (drive.drive, 'no results of a detector'),
                         (tmp_path / 'nowhere', 'found nothing there')):
        assert main(['review', str(folder), '--verdicts', str(tmp_path / 'verdicts'), '--port', '0']) == 2
        assert said in capsys.readouterr().err
    assert main(['review', '--verdicts', str(tmp_path / 'verdicts')]) == 2
    assert not (tmp_path / 'verdicts').exists()


def test_folders_of_recordings_and_mined_frames(drive: Any, tmp_path: Path) -> None:
    shutil.copytree(drive.results, tmp_path / 'all' / 'evaluated' / 'results')
    assert main(['mine', str(drive.drive), '--database', str(drive.database), '--output',
                 str(tmp_path / 'all' / 'mined'), '--budget', '1']) == 0
    (tmp_path / 'pictures').mkdir()
    found = Cases([tmp_path / 'all'], tmp_path / 'pictures', SILENT)
    assert sorted(Path(one.path).name for one in found.sources) == ['drive', 'results']
    mined = next(source for source in found.sources if Path(source.path).name == 'drive')
    assert cv2.imread(str(mined.frames[0].picture))[80, 64, 2] > 200
    assert len(found.cases) == 2
    nearest = mined.frames[0].outlines[0].nearest
    assert nearest is not None
    assert Path(nearest.source).name == 'plain'
    assert nearest.picture[:2] == b'\xff\xd8'
    content = json.loads((tmp_path / 'all' / 'mined' / '001' / 'mined.json').read_text())
    content['mined'][0]['image'] = '../../../../../etc/hostname'  # a run that somebody sent
    (tmp_path / 'all' / 'mined' / '001' / 'mined.json').write_text(json.dumps(content))
    with pytest.raises(SemanomError, match=r'etc/hostname is not there'):
        Cases([tmp_path / 'all' / 'mined'], tmp_path / 'pictures', SILENT)


def test_figures_on_the_command_line(cases: Cases, verdicts: VerdictFolder, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts.add(Opinion.ANOMALY, cases.thing(cases.cases[0]), 'x', kind='box')
    assert main(['review', '--stats', '--verdicts', str(verdicts.path)]) == 0
    said = capsys.readouterr().out
    assert 'all                            1       0       100%       0' in said
    assert main(['review', '--stats', '--json', '--verdicts', str(verdicts.path)]) == 0
    assert '"precision": 1.0' in capsys.readouterr().out
