"""Why a test may be skipped in CI; any other skip fails there, so that no test is lost without a word."""

import os
import re
from typing import Any

import pytest

# Reason, as a regular expression, and what a machine lacks that has a right to lack it.
ALLOWED = {
    r"needs CUDA": "a GPU",
    r"needs two GPUs": "a second GPU",
    r"needs a GPU of a server since Hopper": "a GPU of that kind",
    r"on a GPU, kernels take half precision: see tests/gpu": "a test of the interpreter, where a GPU runs kernels",
    r"ranks are forked, which CUDA does not allow once it is in use": "a GPU that other tests have used",
    r"no --real FOLDER": "weights that cannot be published",
    r"no --chatglm FOLDER": "vocabularies that cannot be published",
    r"needs (MKL|oneDNN)": "an x86 processor with AVX-512",
    r"needs g\+\+": "a compiler",
    r"this kernel cannot be asked": "a Linux that tells its state of pages",
    r"asks (the Linux kernel|Linux)": "Linux",
}


def is_allowed(reason: str) -> bool:
    """Whether a test may be skipped for a reason."""
    return any(re.fullmatch(pattern, reason.removeprefix("Skipped: ")) for pattern in ALLOWED)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Any:
    """Of a test that skips itself, or is marked."""
    return _checked((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Any:
    """Of a file that is skipped as a whole, as by ``importorskip``."""
    return _checked((yield))


def _checked(report: Any) -> Any:
    expected_to_fail = hasattr(report, "wasxfail")
    if os.environ.get("CI") and report.outcome == "skipped" and not expected_to_fail:
        *_, reason = report.longrepr
        if not is_allowed(reason):
            report.outcome = "failed"
            report.longrepr = f"{reason}\nCI skips a test only for a reason in tests/skips.py."
    return report
