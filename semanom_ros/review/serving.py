"""Serves the review page until it is interrupted."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from pathlib import Path

from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

from semanom_ros.errors import ParameterError, SemanomError
from semanom_ros.small_files import read_small

SHORTEST_TOKEN = 16
"""Characters."""


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ParameterError: it cannot be read, or is too short to keep anybody out.
    """
    try:
        token = read_small(path).decode('ascii').strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f'--token-file: {path} is unreadable ({error}); give a file with a token') from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or ' ' in token:
        raise ParameterError(f'--token-file: {path}: found {len(token)} characters, expected {SHORTEST_TOKEN} or more '
                             'without spaces; make one with: openssl rand -hex 16')
    return token


def bound(host: str, port: int, token: str) -> socket.socket:
    """A socket that listens.

    Args:
        host: address of this machine to listen on.
        port: 0: any that is free.
        token: that every request has to bring; '': none.

    Raises:
        SemanomError: the port is in use, the address is none of this machine, or others could reach it without a token.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ParameterError(f'--host: found {host}, expected an address of this machine ({error.strerror})') from error
    if not token and not ipaddress.ip_address(address[0]).is_loopback:
        raise ParameterError(f'--host: found {host} without a token, expected this machine alone (127.0.0.1); give '
                             '--token-file FILE, so that not everybody on the network can judge')
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        why = 'is in use' if error.errno == errno.EADDRINUSE else f'cannot be used ({error.strerror})'
        raise SemanomError(f'--port: {host}:{port} {why}; give another --port (0: any that is free)') from error
    return listener


def server_on(listener: socket.socket, app: Flask) -> BaseWSGIServer:
    """What answers on a socket, which it takes over: `serve_forever`, then `server_close`."""
    logging.getLogger('werkzeug').setLevel(logging.WARNING)  # not every picture
    with listener:  # the server has a copy
        host, port = listener.getsockname()[:2]
        return make_server(host, port, app, threaded=True, fd=listener.fileno())
