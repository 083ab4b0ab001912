"""Tests; a package, so that tests/oncrpc is never taken for oncrpc itself."""
