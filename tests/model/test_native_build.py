"""Compiling for this machine: once, and only where it can be done."""

import logging
import os
from pathlib import Path

import pytest

from model import native_build

SOURCE = Path(native_build.__file__).with_name("attention.cpp")
needs_compiler = pytest.mark.skipif(native_build.library(SOURCE, "a test") is None, reason="no g++ here")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine that has compiled nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("QWENFORGE_NATIVE", raising=False)
    native_build.library.cache_clear()
    yield tmp_path
    native_build.library.cache_clear()


@needs_compiler
def test_it_is_compiled_once(fresh, monkeypatch):
    assert native_build.library(SOURCE, "a test") is not None
    (built,) = (fresh / "cache/qwenforge").iterdir()
    assert built.name.startswith("attention-")
    assert built.suffix == ".so"
    native_build.library.cache_clear()
    monkeypatch.setattr(native_build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native_build.library(SOURCE, "a test") is not None


def test_without_a_compiler_there_is_none(fresh, monkeypatch):
    monkeypatch.setenv("PATH", str(fresh))
    assert native_build.library(SOURCE, "a test") is None


def test_a_compiler_that_fails_is_said(fresh, monkeypatch, caplog):
    broken = fresh / "g++"
    broken.write_text("#!/bin/sh\necho 'no room left' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fresh}{os.pathsep}/bin")
    with caplog.at_level(logging.WARNING):
        assert native_build.library(SOURCE, "training") is None
    assert "no room left" in caplog.text
    assert "training goes on without" in caplog.text


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("QWENFORGE_NATIVE", "0")
    assert native_build.library(SOURCE, "a test") is None
