"""A vision-language model as a baseline, asked over an OpenAI-compatible HTTP interface.

The paper compares with GPT-4o. Any server that speaks `POST /chat/completions` with
images will do, a local one (vLLM, Ollama, llama.cpp) included.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.frames import Frame
from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.results import Anomaly, FrameResult, Reason, ScoreMap, Verdict
from semanom_ros.errors import SemanomError, printable, without_secrets
from semanom_ros.evaluation.baselines import Baseline, BaselineContext
from semanom_ros.evaluation.detectors import Method, Ranked, Row, ranked
from semanom_ros.home import expanded
from semanom_ros.recordings.images import compress_pixels

log = logging.getLogger(__name__)

KEY_VARIABLES = ('SEMANOM_VLM_API_KEY', 'OPENAI_API_KEY')
"""Environment variables that may hold the key, the first that is set; it is sent, and written nowhere."""

THRESHOLD = 0.5
"""Score from which a frame counts as anomalous."""

PROMPT = '''You watch the front camera of an autonomous vehicle. A semantic anomaly is a familiar thing in an invalid \
or unusual combination with its surroundings (a stop sign printed on a billboard, a traffic light carried on a truck, \
a person lying on the lane, a car on its side), or a thing that does not belong on a road at all. Ordinary traffic, \
pedestrians, weather and buildings are not anomalies.
Answer with one JSON object and nothing else: {"anomalous": true or false, "score": a number from 0 (certainly \
ordinary) to 1 (certainly anomalous), "boxes": [{"box": [left, top, width, height], "score": 0 to 1, \
"label": "what it is"}]}. Box coordinates are shares of the image's width and height, 0 to 1. "boxes" is empty when \
nothing is anomalous.'''

LARGEST_REPLY = 4_000_000
"""Bytes; no answer is longer."""

MOST_BOXES = 100
"""In an answer; each costs a mask."""

LONGEST_LABEL = 100
"""Characters of a box's label that are kept."""

_LONGEST_SIDE = 1024  # pixels of the picture that is sent
_PATIENCE_S = 60.0  # longest pause before another try


@dataclass(frozen=True)
class Answer:
    """What the model says about a picture.

    Attributes:
        score: 0 to 1.
        boxes: (x, y, width, height, score), shares of the image.
        labels: of the boxes.
    """

    score: float
    boxes: tuple[tuple[float, float, float, float, float], ...]
    labels: tuple[str, ...]


class _MalformedError(Exception):
    """There is an answer, and it is none."""


def parse(text: str) -> Answer | None:
    """Reads an answer; a JSON object inside other text or a code fence is found. None: it is none."""
    start, stop = text.find('{'), text.rfind('}')
    try:
        content = json.loads(text[start:stop + 1])
        anomalous, score = content['anomalous'], float(content['score'])
        if not isinstance(anomalous, bool) or not 0 <= score <= 1:
            raise ValueError('anomalous or score')
        boxes, labels = [], []
        items = content.get('boxes') or []
        if len(items) > MOST_BOXES:
            raise ValueError('boxes')
        for item in items:
            x, y, width, height = (float(v) for v in item['box'])
            own = float(item.get('score', score))
            if not all(0 <= v <= 1 for v in (x, y, width, height, own)):
                raise ValueError('box')
            boxes.append((x, y, width, height, own))
            labels.append(printable(str(item.get('label') or '')[:LONGEST_LABEL]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    # the verdict is one bit and the score another: where they disagree, the verdict wins
    score = max(score, THRESHOLD) if anomalous else min(score, THRESHOLD - 1e-6)
    return Answer(score, tuple(boxes), tuple(labels))


class VlmMethod:
    """Asks the model about the frames.

    Attributes:
        rows: one.
        false_alarm_rate: none.
    """

    def __init__(self, endpoint: str, model: str, cache: Path, *, period_s: float = 1.0, per_minute: float = 60.0,
                 prices: tuple[float, float] = (0.0, 0.0), retries: int = 5, timeout_s: float = 120.0) -> None:
        """
        Args:
            endpoint: base address, e.g. `https://api.openai.com/v1`.
            model: its name there.
            cache: folder where answers are kept, so that another run costs nothing.
            period_s: seconds of the recording between questions; the last answer holds in between. 0: every frame.
            per_minute: most requests a minute.
            prices: for a million prompt and completion tokens, in whatever currency.
            retries: further tries after a busy or failing server.
            timeout_s: for one request.

        Raises:
            SemanomError: the endpoint is no HTTP address.
        """
        address = urllib.parse.urlsplit(endpoint)
        if '@' in endpoint:
            raise SemanomError('--endpoint: found a user or password in the address, expected none; the key comes from '
                               f'the environment variable {KEY_VARIABLES[0]}')
        if address.scheme not in ('http', 'https') or not address.netloc:
            raise SemanomError(f'--endpoint {endpoint}: expected an address that begins with http:// or https://')
        self.false_alarm_rate: float | None = None  # it says itself what it takes for anomalous
        self.rows: tuple[Row, ...] = (Row('', baseline=f'VLM {model}'),)
        self._url = address._replace(path=f'{address.path.rstrip("/")}/chat/completions', fragment='').geturl()
        self._model, self._cache = model, cache
        self._period_ns, self._interval_s = round(period_s * 1e9), 60 / per_minute
        self._prices, self._retries, self._timeout_s = prices, retries, timeout_s
        self._last: tuple[int, Answer | str, float] | None = None
        self._next_time = 0.0
        self._asked: dict[str, dict[str, Any]] = {}  # usage of each answer, for the sums
        self._malformed: dict[str, str] = {}  # what was found instead of each answer
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._secret = _secret()
        if self._secret and address.scheme == 'http' and address.hostname not in ('localhost', '127.0.0.1', '::1'):
            log.warning('%s: the key goes there without encryption; use https:// or a server on this machine', endpoint)
        cache.mkdir(parents=True, exist_ok=True)

    def process(self, frame: Frame) -> list[Ranked]:
        """The verdict on the next frame; unknown where the answer is malformed.

        Raises:
            SemanomError: the server refuses, or does not answer in spite of all tries.
        """
        if self._last is None or not 0 <= frame.stamp_ns - self._last[0] < max(self._period_ns, 1):
            self._last = (frame.stamp_ns, *self._ask(frame.image))
        _, answer, milliseconds = self._last
        if isinstance(answer, str):
            height, width = frame.image.shape[:2]
            result = FrameResult.unknown(frame.stamp_ns, frame.camera, Reason.FAILED, answer, (height, width))
        else:
            result = _result(frame, answer)
        return [ranked(result, False, milliseconds)]

    def reset(self) -> None:
        """Forgets the last answer."""
        self._last = None

    def details(self) -> dict[str, Any]:
        """Questions, malformed answers, tokens and cost; the same whether answers came from the cache or not."""
        prompt, completion = (sum(_count(usage.get(name)) for usage in self._asked.values())
                              for name in ('prompt_tokens', 'completion_tokens'))
        return {'questions': len(self._asked.keys() | self._malformed.keys()),
                'malformed_answers': len(self._malformed), 'prompt_tokens': prompt, 'completion_tokens': completion,
                'cost': (prompt * self._prices[0] + completion * self._prices[1]) / 1e6,
                'period_s': self._period_ns / 1e9}

    def _ask(self, image: npt.NDArray[np.uint8]) -> tuple[Answer | str, float]:
        """The answer for a picture, or what was found instead, and the milliseconds that it took when it was asked."""
        scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
        if scale < 1:
            image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        picture = compress_pixels(image, quality=88).tobytes()
        key = hashlib.sha256('\0'.join([self._url, self._model, PROMPT]).encode() + picture).hexdigest()
        file = self._cache / f'{key}.json'
        stored = _stored(file)
        answer = parse(stored['text']) if stored else None
        if stored is None or answer is None:
            begun = time.monotonic()
            try:
                reply = self._post(picture)
                text = _text_of(reply)
                answer = parse(text)
                if answer is None:
                    raise _MalformedError(f'{text:.120}' or f'no text in {json.dumps(reply):.120}')
            except _MalformedError as error:
                found = self._clean(f'malformed answer of {self._model}: found {str(error)!r}, expected what was asked '
                                    'for')
                if key not in self._malformed:
                    log.warning('%s; its frames are unknown', found)
                self._malformed[key] = found
                return found, 1e3 * (time.monotonic() - begun)
            usage = reply.get('usage')
            stored = {'model': self._model, 'text': text, 'usage': usage if isinstance(usage, dict) else {},
                      'milliseconds': round(1e3 * (time.monotonic() - begun), 1)}
            beside = file.with_suffix('.partial')
            beside.write_text(json.dumps(stored))
            beside.rename(file)
        self._asked[key] = stored['usage']
        return answer, float(stored['milliseconds'])

    def _clean(self, text: str) -> str:
        """A text of the server's, which may repeat the key, as something to print."""
        if self._secret:
            text = text.replace(self._secret, '***')
        return printable(without_secrets(text))

    def _post(self, picture: bytes) -> dict[str, Any]:
        """The server's reply.

        Raises:
            SemanomError: the server refuses, or does not answer in spite of all tries.
            _MalformedError: it answers, and not in JSON, or will not have this picture.
        """
        body = json.dumps({
            'model': self._model, 'temperature': 0, 'response_format': {'type': 'json_object'},
            'messages': [{'role': 'user', 'content': [
                {'type': 'text', 'text': PROMPT},
                {'type': 'image_url', 'image_url': {
                    'url': 'data:image/jpeg;base64,' + base64.b64encode(picture).decode()}}]}]}).encode()
        headers = {'Content-Type': 'application/json'}
        if self._secret:
            headers['Authorization'] = f'Bearer {self._secret}'
        reason = ''
        for attempt in range(self._retries + 1):
            time.sleep(max(0.0, self._next_time - time.monotonic()))
            self._next_time = time.monotonic() + self._interval_s
            try:
                with self._opener.open(urllib.request.Request(self._url, body, headers),
                                       timeout=self._timeout_s) as response:
                    return _json_of(_content(response, time.monotonic() + self._timeout_s))
            except urllib.error.HTTPError as error:
                reason = f'status {error.code}'
                if error.code in (400, 413, 422) and self._asked:  # of this picture: others were answered
                    raise _MalformedError(f'{reason} {error.reason}') from None
                if 300 <= error.code < 400:
                    host = urllib.parse.urlsplit(error.headers.get('Location') or '').hostname or 'another address'
                    raise SemanomError(f'{self._url}: the server redirects to {host}, where neither picture nor key is '
                                       'sent; if you trust it, give its address as --endpoint') from None
                if error.code not in (408, 409, 429) and error.code < 500:
                    raise SemanomError(f'{self._url}: the server refuses with {reason}; check --endpoint, --model and '
                                       f'the key in {KEY_VARIABLES[0]}') from None
                wait = _seconds(error.headers.get('Retry-After'), 2.0 ** attempt)
            except (OSError, http.client.HTTPException) as error:  # no connection, a timeout, one that breaks off
                reason, wait = self._clean(str(error)) or type(error).__name__, 2.0 ** attempt
            if attempt < self._retries:
                log.warning('%s: %s, trying again', without_secrets(self._url), reason)
                self._next_time = max(self._next_time, time.monotonic() + min(wait, _PATIENCE_S))
        raise SemanomError(f'{self._url}: no answer after {self._retries + 1} tries ({reason}); run the same command '
                           'later, answers so far are kept')


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the key would go along, to whomever the server names."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _secret() -> str:
    """The key; '' where there is none.

    Raises:
        SemanomError: it is none that can be sent.
    """
    name = next((name for name in KEY_VARIABLES if os.environ.get(name)), '')
    secret = os.environ.get(name, '').strip()
    if not (secret.isascii() and secret.isprintable()):
        raise SemanomError(f'{name}: found a key with line breaks or letters that are not ASCII, expected one word; '
                           'set it anew')
    return secret


def _content(response: http.client.HTTPResponse, end: float) -> bytes:
    """What a server sends until a time (monotonic, seconds), and no more than LARGEST_REPLY and a byte.

    Raises:
        TimeoutError: it is not done by then, as one that sends a byte now and then.
    """
    content = b''
    while len(content) <= LARGEST_REPLY and (part := response.read1(LARGEST_REPLY + 1 - len(content))):
        content += part
        if time.monotonic() > end:
            raise TimeoutError('the answer does not end')
    if response.length and len(content) <= LARGEST_REPLY:
        raise http.client.IncompleteRead(content, response.length)
    return content


def _json_of(content: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(content) if len(content) <= LARGEST_REPLY else None
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise _MalformedError(content[:120].decode(errors='replace') or 'nothing')
    return reply


def _stored(file: Path) -> dict[str, Any] | None:
    """An answer as it was kept; None where there is none, or the file is damaged."""
    try:
        stored = json.loads(file.read_text())
        kept = isinstance(stored['text'], str) and isinstance(stored['usage'], dict)
        return stored if kept and float(stored['milliseconds']) >= 0 else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _count(tokens: Any) -> int:
    """A number of tokens; 0 for anything else."""
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens < 1e15 else 0


def _seconds(text: str | None, otherwise: float) -> float:
    try:
        return float(text) if text else otherwise
    except ValueError:  # a date
        return otherwise


def _text_of(reply: Any) -> str:
    try:
        return str(reply['choices'][0]['message']['content'])
    except (KeyError, IndexError, TypeError):
        return ''


def _result(frame: Frame, answer: Answer) -> FrameResult:
    """The answer in the detector's terms; a pixel scores as the highest box over it."""
    height, width = frame.image.shape[:2]
    pixels = np.zeros((height, width), np.float32)
    anomalies, regions = [], []
    anomalous = answer.score >= THRESHOLD
    for (x, y, w, h, score), label in zip(answer.boxes, answer.labels, strict=True):
        left, top = min(int(x * width), width - 1), min(int(y * height), height - 1)
        right = max(left + 1, min(round((x + w) * width), width))
        bottom = max(top + 1, min(round((y + h) * height), height))
        part = pixels[top:bottom, left:right]
        np.maximum(part, np.float32(score), out=part)
        if anomalous:
            box, area = (left, top, right - left, bottom - top), part.size
            corners = np.array([[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]], np.int32)
            anomalies.append(Anomaly(0, score, score, 1.0, box, corners, area, label=label))
            regions.append(Region(box, np.ones(part.shape, bool), area, (left, top)))
    return FrameResult(frame.stamp_ns, frame.camera, (height, width), answer.score, answer.score, 1.0, THRESHOLD,
                       Verdict.of(anomalous), ScoreMap.of_pixels(pixels), THRESHOLD, tuple(anomalies), tuple(regions))


class _Vlm:
    name = 'vlm'
    help = 'a vision-language model'

    def add_arguments(self, group: Any) -> None:
        group.add_argument('--endpoint', default='', metavar='URL',
                           help='vlm: base address of an OpenAI-compatible server, e.g. https://api.openai.com/v1; its '
                                'key comes from the environment variable SEMANOM_VLM_API_KEY or OPENAI_API_KEY')
        group.add_argument('--model', default='', metavar='NAME', help='vlm: the model\'s name there')
        group.add_argument('--vlm-period', type=float, default=1.0, metavar='S',
                           help='vlm: seconds of the recording between questions (default 1; 0: every frame)')
        group.add_argument('--vlm-rate', type=float, default=60.0, metavar='N', help='vlm: most requests a minute')
        group.add_argument('--vlm-prices', type=float, nargs=2, default=(0.0, 0.0), metavar=('IN', 'OUT'),
                           help='vlm: price of a million prompt and completion tokens, to add up the cost')
        group.add_argument('--vlm-cache', type=Path, default=_cache(), metavar='DIR',
                           help='vlm: where answers are kept, so that another run costs nothing (default %(default)s)')

    def make(self, context: BaselineContext) -> Method:
        given = context.arguments
        if not given.endpoint or not given.model:
            raise SemanomError('--baseline vlm: expected --endpoint URL and --model NAME beside it')
        return VlmMethod(given.endpoint, given.model, given.vlm_cache, period_s=given.vlm_period,
                         per_minute=given.vlm_rate, prices=tuple(given.vlm_prices))


def _cache() -> Path:
    return expanded(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'semanom_ros' / 'vlm'


BASELINE: Baseline = _Vlm()
