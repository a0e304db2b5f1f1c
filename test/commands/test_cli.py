"""`semanom`, whatever the machine refuses: one line, and a status that says whose fault it is."""

from __future__ import annotations

import errno
import getpass
import os
import pwd
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from semanom_ros import cli
from semanom_ros.core.curation.publishing import IndexSettings, Recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.errors import DatabaseError
from semanom_ros.home import expanded
from semanom_ros.settings import SearchSettings


class OutOfMemoryError(RuntimeError):
    """As PyTorch calls its own."""


@pytest.fixture
def command(monkeypatch, capsys):
    """A command that does as it is told: its status, and its lines on stderr."""

    def run(does) -> tuple[int, list[str]]:
        module = SimpleNamespace(configure=lambda parser: None, run=lambda arguments: does())
        monkeypatch.setattr(cli.importlib, 'import_module', lambda name: module)
        capsys.readouterr()
        return cli.main(['doctor']), capsys.readouterr().err.splitlines()

    return run


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(('error', 'line'), [
    (OSError(errno.ENOSPC, 'No space left on device', '/x/y'), '/x/y: No space left on device; make room'),
    (OSError(errno.EDQUOT, 'Disk quota exceeded'), 'Disk quota exceeded; make room'),
    (OSError(errno.EROFS, 'Read-only file system', '/x'), '/x: Read-only file system; give another folder'),
    (PermissionError(errno.EACCES, 'Permission denied', '/x', None, '/z'), '/x to /z: Permission denied; give another'),
    (FileNotFoundError(errno.ENOENT, 'No such file or directory', '/x'), '/x: No such file or directory; correct'),
    (OSError(errno.ENAMETOOLONG, 'File name too long', 'x\ny\x1b'), 'x y\\x1b: File name too long; correct the path'),
    (OSError(errno.EMFILE, 'Too many open files'), 'Too many open files; allow more'),
    (OSError('cannot send'), 'cannot send; '),
    (ConnectionRefusedError(errno.ECONNREFUSED, 'Connection refused'), 'Connection refused; try again'),
    (sqlite3.OperationalError('database or disk is full'), 'database or disk is full; make room'),
    (MemoryError(), 'the memory is full (MemoryError); '),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 'the memory is full'),
    (OutOfMemoryError('CUDA out of memory'), 'the memory of the GPU is full; take device=cpu'),
    (ImportError('libGL.so.1: cannot open shared object file', name='cv2'), 'cv2: cannot be imported (libGL.so.1: '),
    (RecursionError('maximum recursion depth exceeded'), 'nested too deep'),
    (DatabaseError('/x: two\nlines \udcff'), '/x: two lines \\udcff'),
])
def test_what_the_machine_or_the_input_lacks_is_one_line(command, trial, error, line):
    with trial('Command line', 'what the machine or the input lacks'):
        status, lines = command(raising(error))
        assert (status, len(lines)) == (2, 1)
        assert lines[0].startswith('semanom doctor: ')
        assert line in lines[0]


def test_a_fault_of_ours_shows_where(command):
    status, lines = command(raising(ZeroDivisionError('ours')))
    assert status == 1
    assert lines[0].startswith('Traceback')


def test_interrupted(command, trial):
    """Extension modules make other errors of it: PyTorch's raise ImportError and SystemError."""
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 0)  # the interpreter looks for signals
        except KeyboardInterrupt as error:
            raise ImportError('numpy.core.multiarray failed to import') from error

    with trial('Command line', 'Ctrl-C, in imports too', times=2):
        assert command(work) == (130, ['semanom doctor: interrupted'])
        assert command(raising(KeyboardInterrupt())) == (130, ['semanom doctor: interrupted'])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def semanom(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-m', 'semanom_ros.cli', *arguments], capture_output=True, text=True,
                          **options)


@pytest.fixture(scope='module')
def database(tmp_path_factory) -> Path:
    """A small one, calibrated, with an index."""
    path = tmp_path_factory.mktemp('light') / 'database'
    description = EmbeddingDescription('timm:small', 'random:0', 'a' * 64, 'b' * 64, (64, 96), (4, 6), 4, 'grid')
    with DatabaseWriter.begin(path, description) as writer:
        for stamp in range(24):
            record = FrameRecord('/drive', 'c' * 64, '/camera', stamp * 10**9, (64, 96))
            writer.add(NominalAddition(record, np.eye(4, dtype=np.float32), np.ones((4, 4)), np.full((4, 2), 0.5)))
        writer.commit(Recipe(SearchSettings(), index=IndexSettings('IVF2,Flat', 2)))
    return path


@pytest.mark.parametrize('arguments', [
    ['--help'], ['--version'], ['db', '--help'], ['db', 'merge', '--help'], ['db', 'info', 'DIR'],
    ['db', 'verify', 'DIR'], ['models', 'list'], ['models', '--help'], ['record', '--help'], ['demo', '--help']])
def test_light_commands_import_nothing_heavy(database, arguments):
    """PyTorch takes seconds. Modules are counted and no seconds: those depend on the machine."""
    code = ('import sys\nfrom semanom_ros import cli\n'
            'try:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n'
            'print("heavy:", *({"torch", "scipy.stats", "timm", "open_clip", "transformers", "lightgbm"} '
            '& set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code, *(str(database) if one == 'DIR' else one for one in arguments)],
                          capture_output=True, text=True, check=True)
    assert not done.stderr
    assert len(done.stdout.splitlines()) > 1, 'it was run'
    assert done.stdout.splitlines()[-1].strip() == 'heavy:'


@pytest.mark.parametrize(('option', 'value'), [
    ('--size', 'x'), ('--size', '0'), ('--size', '1.5'), ('--share', 'nan'), ('--share', '2'), ('--distance', 'inf')])
def test_numbers_that_do_not_fit(option, value, capsys, trial):
    with trial('Command line', 'numbers that do not fit'):
        with pytest.raises(SystemExit):
            cli.main(['db', 'compact', 'x', option, value])
        said, = capsys.readouterr().err.splitlines()
        assert f'argument {option}: found {value}, expected ' in said


def test_output_that_nobody_reads_or_that_has_no_room(database, trial):
    with trial('Command line', 'output that has no room', times=2):
        with open('/dev/full', 'w') as full:
            done = subprocess.run([sys.executable, '-m', 'semanom_ros.cli', 'db', 'info', str(database)], stdout=full,
                                  stderr=subprocess.PIPE, text=True)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert 'No space left on device' in done.stderr
        reading, writing = os.pipe()
        os.close(reading)
        gone = subprocess.run([sys.executable, '-m', 'semanom_ros.cli', 'db', 'info', str(database)], stdout=writing,
                              stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert (gone.returncode, gone.stderr) == (0, '')


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-'])
def test_closed_streams(database, closed, trial):
    with trial('Command line', 'closed output'):
        done = subprocess.run(['sh', '-c', f'"$0" -m semanom_ros.cli db info "$1" {closed}', sys.executable, database],
                              capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, '')
        assert bool(done.stdout) == ('2' in closed and '>&- ' not in closed)


def test_users_that_the_machine_does_not_know(command, monkeypatch, trial):
    """`docker run --user 12345`, and a home folder that is nobody's."""
    def unknown(*_: object) -> None:
        raise KeyError('getpwuid(): uid not found: 12345')

    for name in ('HOME', 'LOGNAME', 'USER', 'LNAME', 'USERNAME', 'SEMANOM_MODELS'):
        monkeypatch.delenv(name, raising=False)
    for name in ('getpwuid', 'getpwnam'):
        monkeypatch.setattr(pwd, name, unknown)
    with trial('Command line', 'a user without a name or a home', times=3):
        assert command(lambda: print(getpass.getuser()))[0] == 0, 'PyTorch asks for it'
        for path, user in (('~bob/x', '~bob'), ('~/x', '~')):
            status, lines = command(lambda path=path: expanded(path))
            assert (status, len(lines)) == (2, 1)
            assert f'{path}: found no home folder for {user}, expected one; give the whole path' in lines[0]


def test_names_of_files_may_be_anything(tmp_path, trial):
    path = os.fsdecode(os.fsencode(tmp_path) + b'/\xff\n\x1b[31m')
    with trial('Command line', 'names of files with any bytes', times=2):
        for name in (path, 'x' * 5000):
            done = semanom('db', 'info', name)
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
            assert '\x1b' not in done.stderr


def test_no_permission_is_one_line(tmp_path: Path, trial):
    """A folder that is a file stands for one without the rights: root has all of them."""
    (tmp_path / 'file').write_text('')
    with trial('Command line', 'a path that cannot be used'):
        done = semanom('db', 'info', str(tmp_path / 'file' / 'database'))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
