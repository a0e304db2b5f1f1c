"""The local page on which people review: a small API round the cases and the verdicts, and what keeps strangers out."""

from __future__ import annotations

import hmac
import math
import threading
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, redirect, render_template, request, send_file
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, Unauthorized

from semanom_ros import __version__
from semanom_ros.errors import SemanomError
from semanom_ros.review.cases import Case, Cases, Outline
from semanom_ros.review.precision import precision
from semanom_ros.review.verdict_files import (
    LONGEST_WORD,
    Opinion,
    ReviewVerdict,
    Thing,
    VerdictFolder,
    disagree,
    standing,
)

LOCAL = ('localhost', '127.0.0.1', '::1')
"""Names of this machine that a browser on it may use."""
COOKIE, HEADER = 'semanom_review', 'X-Semanom-Review'
"""HEADER: a page of another origin cannot send it without being asked first, which is never answered."""
_LARGEST_REQUEST = 65536


def review_page(cases: Cases, verdicts: VerdictFolder, token: str = '') -> Flask:
    """The application.

    Args:
        cases: to be reviewed.
        verdicts: where they go.
        token: that every request has to bring; '': none, and only names of this machine are answered.
    """
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=_LARGEST_REQUEST)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    lock = threading.Lock()
    mine: list[ReviewVerdict] = []  # of this session, what undo takes back

    @app.before_request
    def admit() -> Any:
        host = _name(request.host)
        if not token and host not in LOCAL:  # a name that an attacker lets point here: DNS rebinding
            raise Forbidden(f'found host {host}, expected {" or ".join(LOCAL)}')
        if token:
            given = request.args.get('token', '')
            if hmac.compare_digest(given.encode(), token.encode()) and request.method == 'GET':
                answer = redirect(request.path)  # so that it stands in no history
                answer.set_cookie(COOKIE, token, httponly=True, samesite='Strict', secure=request.is_secure)
                return answer
            shown = _bearer() or _cookie()
            if not hmac.compare_digest(shown.encode(), token.encode()):
                raise Unauthorized('open the address with ?token=... that semanom review was given')
        if request.method not in ('GET', 'HEAD'):
            origin = request.headers.get('Origin')
            if request.headers.get(HEADER) != '1' or (origin is not None and urlsplit(origin).netloc != request.host):
                raise Forbidden('found a request of another page')
        return None

    @app.after_request
    def guard(answer: Response) -> Response:
        answer.headers['Content-Security-Policy'] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        answer.headers['X-Content-Type-Options'] = 'nosniff'
        answer.headers['Referrer-Policy'] = 'no-referrer'
        answer.headers['Cross-Origin-Resource-Policy'] = 'same-origin'
        answer.headers.setdefault('Cache-Control', 'no-store')
        return answer

    @app.errorhandler(SemanomError)
    def refused(error: SemanomError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 500

    @app.get('/')
    def index() -> str:
        return render_template('review.html', version=__version__, author=verdicts.author)

    @app.get('/api/cases')
    def listed() -> Response:
        with lock:
            given = verdicts.read()
        counts = standing(given)
        return jsonify(
            author=verdicts.author, notes=cases.notes, longest_kind=LONGEST_WORD,
            sources=[{'path': one.path, 'topic': one.topic, 'frames': len(one.frames)} for one in cases.sources],
            cases=[_case(cases, case, counts.get(cases.thing(case), {})) for case in cases.cases],
            kinds=sorted({one.kind for one in given if one.kind}), summary=precision(given))

    @app.get('/api/cases/<int:number>')
    def one_case(number: int) -> Response:
        case = _at(cases.cases, number)
        near = case.outline.nearest
        with lock:
            history = [one for one in verdicts.read() if one.thing == cases.thing(case)]
        return jsonify(
            history=[_verdict(one) for one in history], disagree=disagree(standing(history).get(cases.thing(case), {})),
            nearest=None if near is None else {
                'source': near.source, 'topic': near.topic, 'stamp_ns': str(near.stamp_ns), 'box': near.box,
                'distance': near.distance, 'picture': bool(near.picture)})

    @app.get('/api/sources/<int:source>/frames/<int:frame>')
    def one_frame(source: int, frame: int) -> Response:
        recording = _at(cases.sources, source)
        shown = _at(recording.frames, frame)
        with lock:
            counts = standing(verdicts.read())
        missed = [list(thing.box) for thing, by_author in counts.items()
                  if (thing.recording_sha256, thing.topic, thing.stamp_ns) == (
                      recording.sha256, recording.topic, shown.stamp_ns)
                  and any(one.opinion is Opinion.MISSED for one in by_author.values())]
        return jsonify(stamp_ns=str(shown.stamp_ns), verdict=shown.verdict, score=_number(shown.score), said=shown.said,
                       outlines=[_outline(one) for one in shown.outlines], missed=missed)

    @app.get('/pictures/<int:source>/<int:frame>.jpg')
    def picture(source: int, frame: int) -> Response:
        path = _at(_at(cases.sources, source).frames, frame).picture
        if not path.is_file():
            raise NotFound('the picture is gone')
        return send_file(path, mimetype='image/jpeg', max_age=3600)

    @app.get('/nearest/<int:number>.jpg')
    def nearest(number: int) -> Response:
        near = _at(cases.cases, number).outline.nearest
        if near is None or not near.picture:
            raise NotFound('the database keeps no picture of it')
        return Response(near.picture, mimetype='image/jpeg')

    @app.post('/api/cases/<int:number>/verdict')
    def judge(number: int) -> Response:
        case, content = _at(cases.cases, number), _content()
        opinion, kind = _opinion(content), _kind(content)
        if opinion not in (Opinion.NOMINAL, Opinion.ANOMALY, Opinion.SKIP):
            raise BadRequest(f'found verdict {opinion.value}, expected nominal, anomaly or skip')
        with lock:
            added = verdicts.add(opinion, cases.thing(case), cases.sources[case.source].path,
                                 score=case.outline.score if math.isfinite(case.outline.score) else None,
                                 kind=kind or case.outline.label[:LONGEST_WORD])
            mine.append(added)
        return jsonify(_verdict(added))

    @app.post('/api/sources/<int:source>/frames/<int:frame>/missed')
    def missed(source: int, frame: int) -> Response:
        recording = _at(cases.sources, source)
        shown, content = _at(recording.frames, frame), _content()
        box = content.get('box')
        if not isinstance(box, list) or len(box) != 4 or not all(type(one) is int for one in box):
            raise BadRequest('box: expected four whole numbers')
        x, y, width, height = box
        inside = x >= 0 and y >= 0 and width >= 1 and height >= 1
        if not inside or (shown.size[0] and (x + width > shown.size[1] or y + height > shown.size[0])):
            raise BadRequest(f'found box {box}, expected one inside the picture')
        thing = Thing(recording.sha256, recording.topic, shown.stamp_ns, (x, y, width, height))
        with lock:
            mine.append(verdicts.add(Opinion.MISSED, thing, recording.path, kind=_kind(content)))
        return jsonify(_verdict(mine[-1]))

    @app.post('/api/undo')
    def undo() -> Response:
        with lock:
            if not mine:
                return jsonify(revoked=None)
            last = mine[-1]
            verdicts.revoke(last)
            mine.pop()
        number = next((number for number, case in enumerate(cases.cases) if cases.thing(case) == last.thing), None)
        return jsonify(revoked=_verdict(last), case=number)

    return app


def _name(host: str) -> str:
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _bearer() -> str:
    kind, _, given = request.headers.get('Authorization', '').partition(' ')
    return given.strip() if kind == 'Bearer' else ''


def _cookie() -> str:
    return request.cookies.get(COOKIE, '')


def _at(sequence: Any, number: int) -> Any:
    if number >= len(sequence):
        raise NotFound('there is none of this number')
    return sequence[number]


def _content() -> dict[str, Any]:
    content = request.get_json()
    if not isinstance(content, dict):
        raise BadRequest('expected an object')
    return content


def _opinion(content: dict[str, Any]) -> Opinion:
    try:
        return Opinion(content.get('verdict'))
    except ValueError as error:
        raise BadRequest('verdict: expected nominal, anomaly or skip') from error


def _kind(content: dict[str, Any]) -> str:
    kind = content.get('kind', '')
    if not isinstance(kind, str) or len(kind) > LONGEST_WORD:
        raise BadRequest(f'kind: expected a text of at most {LONGEST_WORD} characters')
    return ' '.join(kind.split())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _outline(one: Outline) -> dict[str, Any]:
    return {'track': one.track, 'score': _number(one.score), 'p_value': _number(one.p_value), 'box': one.box,
            'contour': one.contour, 'label': one.label}


def _case(cases: Cases, case: Case, by_author: dict[str, ReviewVerdict]) -> dict[str, Any]:
    latest = max(by_author.values(), key=lambda one: one.order, default=None)
    return {
        'source': case.source, 'frame': case.frame, 'frames': case.frames, **_outline(case.outline),
        'stamp_ns': str(cases.thing(case).stamp_ns),  # more digits than numbers have in JavaScript
        'opinion': None if latest is None else latest.opinion.value, 'kind': latest.kind if latest else '',
        'disagree': disagree(by_author)}


def _verdict(one: ReviewVerdict) -> dict[str, Any]:
    return {'id': one.id, 'time': one.time, 'author': one.author, 'machine': one.machine, 'opinion': one.opinion.value,
            'kind': one.kind, 'revokes': one.revokes}
