"""The documentation: it builds without a warning, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from semanom_ros import cli
from tools import reference

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [*sorted(REPOSITORY.glob('*.md')), *sorted((REPOSITORY / 'docs').glob('*.md'))]


def test_the_reference_is_up_to_date() -> None:
    assert reference.PAGE.read_text() == reference.page(), 'run python -m tools.reference'


@pytest.mark.slow
def test_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    """Missing pages, files and headings are warnings, and so are pages that no list of contents has."""
    pytest.importorskip('sphinx', reason='Sphinx is not installed: pip install -e .[docs]')
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '--fail-on-warning', '--keep-going', '--quiet', '--conf-dir', 'docs', '.',
         str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path).with_suffix('.md') for path in tmp_path.rglob('*.html')}
    assert {page.relative_to(REPOSITORY) for page in PAGES} <= built


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_on_pages_are_there(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every `semanom COMMAND --option` in a block of commands is one that the command line takes."""
    for block in re.findall(r'```bash\n(.*?)```', page.read_text(), re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            found = re.match(r'(?:ros2 run semanom_ros )?semanom (?!\.)(.*)', line.strip())
            if found:
                words = shlex.split(re.sub(r'\$\w+', '1', found[1]), comments=True)  # a variable of the shell
                parser, _ = cli.parser_for(words[0])
                try:
                    parser.parse_args(words)
                except SystemExit:
                    pytest.fail(f'{page.name}: {line}: {capsys.readouterr().err}')
