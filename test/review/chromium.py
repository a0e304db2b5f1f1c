"""Headless Chromium on a pipe: keys in, what the page shows out."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

KEYS = {'ArrowRight': 39, 'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowDown': 40, 'Enter': 13, 'Escape': 27}


class Chromium:
    """One tab, by the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()

        def connect() -> None:  # it reads from descriptor 3 and writes to 4
            os.setsid()
            first, second = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [program, '--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--disable-gpu',
             '--disable-dev-shm-usage', '--no-first-run', '--window-size=1280,800', f'--user-data-dir={profile}',
             '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1', 'about:blank'],
            close_fds=False, preexec_fn=connect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = ours[1], theirs[0]
        self._number, self._session, self._left = 0, '', b''
        self.errors: list[str] = []
        target = next(one for one in self._ask('Target.getTargets')['targetInfos'] if one['type'] == 'page')
        attached = self._ask('Target.attachToTarget', targetId=target['targetId'], flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self._ask(f'{domain}.enable')

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._to)
        os.close(self._from)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, method: str, **given: Any) -> Any:
        self._number += 1
        content = {'id': self._number, 'method': method, 'params': given}
        if self._session:
            content['sessionId'] = self._session
        os.write(self._to, json.dumps(content).encode() + b'\0')
        while True:
            message = self._next()
            if message.get('id') == self._number:
                assert 'error' not in message, message
                return message['result']
            if message.get('method') == 'Runtime.exceptionThrown' or (
                    message.get('method') == 'Log.entryAdded' and message['params']['entry']['level'] == 'error'):
                self.errors.append(json.dumps(message['params']))

    def _next(self) -> Any:
        while b'\0' not in self._left:
            ready, _, _ = select.select([self._from], [], [], 60)
            assert ready, 'Chromium does not answer'
            content = os.read(self._from, 1 << 20)
            assert content, 'Chromium ended'
            self._left += content
        message, _, self._left = self._left.partition(b'\0')
        return json.loads(message)

    def open(self, address: str) -> None:
        """Goes there."""
        self._ask('Page.navigate', url=address)

    def press(self, key: str, shift: bool = False) -> None:
        """A key, as a person presses it."""
        code = KEYS.get(key, ord(key[0].upper()))
        text = {'text': key} if len(key) == 1 else {'text': '\r'} if key == 'Enter' else {}
        pressed = {'key': key, 'windowsVirtualKeyCode': code, 'modifiers': 8 if shift else 0}
        self._ask('Input.dispatchKeyEvent', type='keyDown', **pressed, **text)
        self._ask('Input.dispatchKeyEvent', type='keyUp', **pressed)

    def type(self, text: str) -> None:
        """Letters, one by one."""
        for letter in text:
            self.press(letter)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self._ask('Runtime.evaluate', expression=expression, returnByValue=True)['result'].get('value')

    def wait(self, expression: str) -> None:
        """Until an expression holds."""
        end = time.monotonic() + 60
        while not self._ask('Runtime.evaluate', awaitPromise=True, returnByValue=True, expression=(
                f'new Promise(done => requestAnimationFrame(() => done(Boolean({expression}))))'))['result']['value']:
            assert time.monotonic() < end, f'{expression} has not come about: {self.errors}'

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self._ask('Page.captureScreenshot')['data'])
