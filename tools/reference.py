"""docs/reference.md: the detector's outputs and the messages, from the table and the files that they are made from.

    python -m tools.reference
"""

from __future__ import annotations

from pathlib import Path

from semanom_ros.ros.outputs import OUTPUTS, Needs, When

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / 'docs' / 'reference.md'

TIMES = {When.AT_ONCE: 'first', When.NEXT: 'then', When.DRAWN: 'last, in a thread of its own'}
FRAMES = {Needs.NOTHING: 'all', Needs.PICTURE: 'all that hold a picture', Needs.VERDICT: 'all but unknown ones',
          Needs.GROUND: 'all but unknown ones, where the ground is known'}
MESSAGES = ('AnomalyScore', 'AnomalyArray', 'Anomaly', 'NominalMatch', 'Drift', 'DatabaseInfo')
OPTIONAL = ('vision_msgs/', 'foxglove_msgs/')
HEAD = """# Outputs and messages

Written by `python -m tools.reference` from what the code itself uses. What comes in, services and diagnostics:
[Topics](../README.md#topics). [Parameters](../README.md#parameters).

## Outputs

Of `/semanom_detector/NAME/` for each camera NAME; reliable, and with the header of the source image. `detections`
(vision_msgs/Detection2DArray) and `annotations` (foxglove_msgs/ImageAnnotations) join them where those are installed.

| topic | type | of frames | published | in result bags |
|---|---|---|---|---|
"""


def page() -> str:
    """The page as it should be."""
    rows = [f'| `{output.name}` | {output.type_name} | {FRAMES[output.needs]} | {TIMES[output.when]} | '
            f'{"yes" if output.recorded else "no"} |'
            for output in OUTPUTS if not output.type_name.startswith(OPTIONAL)]
    messages = [f'### semanom_ros/{name}\n\n```text\n{(REPOSITORY / "msg" / f"{name}.msg").read_text().rstrip()}\n```\n'
                for name in MESSAGES]
    return HEAD + '\n'.join(rows) + '\n\n## Messages\n\n' + '\n'.join(messages)


if __name__ == '__main__':
    PAGE.write_text(page())
