"""``python -m camkit.integrations.pytorch_grad_cam script.py ...`` runs a script whose grad-cam is camkit."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from camkit.errors import CamkitError
from camkit.integrations.pytorch_grad_cam.installing import install

USAGE = "usage: python -m camkit.integrations.pytorch_grad_cam SCRIPT [ARGUMENTS ...]"


def main() -> int:
    """Run the script named on the command line, with the arguments behind it, as Python would."""
    script, *_ = sys.argv[1:] or [""]
    if script in ("", "-h", "--help"):
        print(USAGE, file=sys.stdout if script else sys.stderr)
        return 0 if script else 2
    if not Path(script).is_file():
        print(f"no script {script!r}; {USAGE}", file=sys.stderr)
        return 2
    try:
        install()
        sys.argv = sys.argv[1:]
        sys.path[0] = str(Path(script).resolve().parent)
        runpy.run_path(script, run_name="__main__")
    except CamkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
