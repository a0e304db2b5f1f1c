"""How the documentation is built: `make docs`. Its sources are the Markdown files as they stand in the repository."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

project = 'semanom_ros'
author = copyright = 'the semanom_ros contributors'
release = re.search(r"__version__ = '(.+)'", (REPOSITORY / 'semanom_ros' / '__init__.py').read_text()).group(1)

extensions = ['myst_parser']
root_doc = 'docs/index'
include_patterns = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'QUALITY_DECLARATION.md', 'THIRD_PARTY_NOTICES.md',
                    'CHANGELOG.rst', 'docs/**']
source_suffix = {'.md': 'markdown', '.rst': 'restructuredtext'}
myst_heading_anchors = 4  # links to #headings, as on a forge
nitpicky = True

html_theme = 'furo'
html_title = f'semanom_ros {release}'
html_copy_source = False
