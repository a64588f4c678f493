"""The recorded defaults of all stages' settings, by version: `tests/stage_defaults.json`.

Keys leave out settings that equal their default, so a default must not change under its version.

    python scripts/stage_defaults.py           # say what is not as recorded
    python scripts/stage_defaults.py --write   # record new stages, new fields and new versions
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ovsslib  # noqa: F401 - registers the stages
from ovsslib import paths
from ovsslib.identity import defaults_of, version_of
from ovsslib.recipe import stages

FILE = Path(__file__).resolve().parents[1] / "tests/stage_defaults.json"
_COMMAND = "record it: python scripts/stage_defaults.py --write"
Recorded = Mapping[str, Mapping[str, Mapping[str, Any]]]
Now = Mapping[str, tuple[int, Mapping[str, Any]]]


def recorded() -> dict[str, dict[str, dict[str, Any]]]:
    """Recorded defaults: stage -> version -> field -> value."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def now() -> dict[str, tuple[int, dict[str, Any]]]:
    """Declared version and defaults of every registered stage."""
    return {
        name: (version_of(info.settings), defaults_of(info.settings))
        for name, info in sorted(stages().items())
    }


def changed(before: Recorded, after: Now) -> list[str]:
    """Defaults that are others than those recorded for their version, a line each."""
    lines = []
    for stage, (version, defaults) in after.items():
        entry = before.get(stage, {}).get(str(version), {})
        for field, value in defaults.items():
            if field in entry and entry[field] != value:
                lines.append(
                    f"the default of {stage}.{field} was {entry[field]!r} in version {version} and is {value!r}: "
                    f"raise `version` to {version + 1} in its settings class, or take the change back"
                )
    return lines


def problems(before: Recorded, after: Now) -> list[str]:
    """What is changed, and what is not recorded yet, a line each with the remedy."""
    lines = changed(before, after)
    for stage, (version, defaults) in after.items():
        entry = before.get(stage, {}).get(str(version))
        if entry is None:
            lines.append(f"version {version} of stage {stage} is new; {_COMMAND}")
            continue
        lines += [f"the field {stage}.{f} is new; {_COMMAND}" for f in defaults if f not in entry]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="record what is new")
    options = parser.parse_args()
    before, after = recorded(), now()
    lines = changed(before, after) if options.write else problems(before, after)
    if lines:
        print("\n".join(lines))
        return 1
    if options.write:
        for stage, (version, defaults) in after.items():
            kept = before.setdefault(stage, {}).setdefault(str(version), {})
            kept.update(
                defaults
            )  # a field that is gone stays, so that it does not come back as another
        text = json.dumps(before, indent=1, sort_keys=True) + "\n"
        paths.write_file(FILE, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
