"""`make audit` never says that all is well when nothing was audited."""

from __future__ import annotations

from tools.audit import report

FAULT = {'id': 'PYSEC-2024-1', 'fix_versions': ['1.2'], 'aliases': [], 'description': ''}


def test_what_is_said(capsys):
    sound = {'name': 'a', 'version': '1.0', 'vulns': []}
    faulty = {'name': 'b', 'version': '1.1', 'vulns': [FAULT, {**FAULT, 'id': 'X', 'fix_versions': []}]}
    unknown = {'name': 'ros-thing', 'skip_reason': 'not found on PyPI'}
    assert report([sound, unknown]) == 0
    assert '1 packages audited, 0 with known vulnerabilities; 1 unknown' in capsys.readouterr().out
    assert report([sound, faulty, unknown]) == 1
    assert 'b 1.1: PYSEC-2024-1, mended in 1.2\nb 1.1: X, mended in no version yet\n' in capsys.readouterr().out
    assert report([unknown]) == 2
    assert 'nothing was audited' in capsys.readouterr().err
