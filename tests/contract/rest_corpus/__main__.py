"""`python -m tests.contract.rest_corpus --record` records the responses of the present services."""

import os
import subprocess
import sys

from tests.contract.rest_corpus.recording import COMMAND

if sys.argv[1:] != ["--record"]:
    sys.exit(f"usage: {COMMAND}")
command = [sys.executable, "-m", "pytest", "-q", "tests/e2e/test_rest_corpus.py"]
sys.exit(subprocess.call(command, env=os.environ | {"PIEPOWDER_TEST_RECORD_CORPUS": "1"}))
