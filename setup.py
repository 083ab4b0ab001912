"""Only what pyproject.toml has no place for: the C extensions."""
from setuptools import setup

setup(cffi_modules=["oncrpc/_build.py:ffi", "nfsserver/_build.py:ffi", "nfssvc_shim/_build.py:ffi"])
