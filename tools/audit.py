"""Known vulnerabilities of what is installed: `make audit`, with pip-audit, which asks a service in the internet.

Exit status: 0: none is known; 1: some are; 2: nothing was audited, since the service was not reached.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Audits a folder of packages with the pip-audit of this Python."""
    parser = argparse.ArgumentParser(description='Known vulnerabilities of the packages in a folder.')
    parser.add_argument('folder', type=Path, help='site-packages of the environment')
    parser.add_argument('--service', default='pypi', choices=('pypi', 'osv'), help='which pip-audit asks')
    arguments = parser.parse_args(argv)
    done = subprocess.run(
        [sys.executable, '-m', 'pip_audit', '--path', str(arguments.folder), '--skip-editable', '--format', 'json',
         '--progress-spinner', 'off', '--vulnerability-service', arguments.service], capture_output=True, text=True)
    try:
        return report(json.loads(done.stdout)['dependencies'])
    except (ValueError, KeyError, TypeError):
        said = next(iter(reversed(done.stderr.strip().splitlines())), 'no answer')
        return not_audited(said)


def report(dependencies: Sequence[dict]) -> int:
    """Says what pip-audit found, by package."""
    audited = [one for one in dependencies if 'vulns' in one]
    if not audited:
        return not_audited(f'{len(dependencies)} packages are unknown to it')
    for one in audited:
        for fault in one['vulns']:
            mended = ', '.join(fault['fix_versions']) or 'no version yet'
            print(f'{one["name"]} {one["version"]}: {fault["id"]}, mended in {mended}')
    faulty = sum(bool(one['vulns']) for one in audited)
    print(f'{len(audited)} packages audited, {faulty} with known vulnerabilities; {len(dependencies) - len(audited)} '
          'unknown to the service (those of ROS, and local builds)')
    return 1 if faulty else 0


def not_audited(why: str) -> int:
    """Says that nothing is known, which is not the same as that nothing was found."""
    print(f'audit: the service was not reached, or knows nothing ({why:.200}); run it where there is internet: nothing '
          'was audited', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
