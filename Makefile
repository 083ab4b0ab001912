# make serve [DIR=/path] [PORT=n] [TO=network] [WORKERS=n]   run the server here, in the foreground; Ctrl-C ends it
# make test [T=tests/...]                                    everything the tests need, then the tests
# make build | lib | lint | man | wheel | deb | install [DESTDIR= PREFIX=] | uninstall | clean
#
# On Debian, missing packages are installed when make runs as root; otherwise it says which are missing and stops.

PYTHON ?= $(shell for p in /usr/bin/python3 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo /usr/bin/python3)
CC ?= cc
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
VENV = .venv
BUILD ?= build
BIN = $(VENV)/bin
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
EXTENSIONS = oncrpc/_rpc.abi3.so nfsserver/_vnode.abi3.so nfssvc_shim/_nfssvc.abi3.so
# Two cores are what most build machines have; more processes than that only make the timed tests wait for one another.
JOBS ?= 2
T ?= tests

.PHONY: all build lib serve test lint man install install-lib install-programs uninstall wheel deb clean
all: build lib

build: $(VENV)/.stamp $(EXTENSIONS)

$(VENV)/.stamp: pyproject.toml setup.py tools/deps.sh
	@PYTHON="$(PYTHON)" sh tools/deps.sh build
	@echo "setting up $(VENV) and building: a minute or two, the first time"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check 'setuptools>=68' wheel 'cffi>=1.16'
	@# compat: a plain path in a .pth file, which `python -I -m nfsserver` reads too, and faster than an import hook
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation \
		--config-settings editable_mode=compat -e '.[screen,prometheus]'
	@touch $@

# What only the tests need: whoever wants to serve a directory does not wait for it.
EXTRA = import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
$(VENV)/.stamp-test: $(VENV)/.stamp
	@$(BIN)/python -c '$(EXTRA)' test > $(VENV)/test.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r $(VENV)/test.txt
	@touch $@

oncrpc/_rpc.abi3.so: $(wildcard oncrpc/*.h oncrpc/engine/*) oncrpc/_build.py | $(VENV)/.stamp
	@$(BIN)/python -W ignore oncrpc/_build.py >/dev/null
	@touch $@
nfsserver/_vnode.abi3.so: $(wildcard nfsserver/*.c nfsserver/*.h oncrpc/*.h) nfssvc_shim/state.h nfsserver/_build.py | $(VENV)/.stamp
	@$(BIN)/python -W ignore nfsserver/_build.py >/dev/null
	@touch $@
nfssvc_shim/_nfssvc.abi3.so: $(wildcard nfssvc_shim/*.c nfssvc_shim/*.h) nfssvc_shim/_build.py | $(VENV)/.stamp
	@$(BIN)/python -W ignore nfssvc_shim/_build.py >/dev/null
	@touch $@

# The same call for programs in C.  SOVERSION moves when a record or a number changes its meaning.
LIBSOURCES = $(addprefix nfssvc_shim/,copy.c xdr.c records.c channel.c kept.c bsd44.c nfssvc.c)
lib: $(BUILD)/libnfssvc.so
$(BUILD)/libnfssvc.so: $(LIBSOURCES) nfssvc_shim/nfssvc.h nfssvc_shim/wire.h
	@mkdir -p $(BUILD)
	$(CC) $(CPPFLAGS) $(CFLAGS) -std=gnu11 -Wall -Wextra -fPIC -fvisibility=hidden -shared \
		-Wl,-soname,libnfssvc.so.0 -Wl,-z,defs $(LDFLAGS) -o $(BUILD)/libnfssvc.so.0 $(LIBSOURCES)
	@ln -sf libnfssvc.so.0 $@

serve: build
	@exec $(BIN)/python tools/serve.py $(if $(DIR),--dir '$(subst ','\'',$(DIR))') $(if $(PORT),--port '$(PORT)') \
		$(if $(TO),--to '$(TO)') $(if $(WORKERS),--workers '$(WORKERS)')

test: build lib $(VENV)/.stamp-test
	@PYTHON="$(PYTHON)" sh tools/deps.sh test
	@$(BIN)/python -m pytest -n $(JOBS) $(PYTESTFLAGS) $(T)

lint: build
	@$(BIN)/python -c '$(EXTRA)' lint > $(VENV)/lint.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r $(VENV)/lint.txt
	@$(BIN)/ruff check .
	@$(BIN)/mypy

man:
	@for page in man/*.[1-8]; do mandoc -T lint -W warning "$$page" || exit 1; done

# The programs live in a virtual environment of their own, with links where PATH finds them; the rest beside them.
PROGRAMS = nfsd mountd portmap unfsd nfsstat showmount rpcinfo
install: install-lib install-programs
	install -d $(DESTDIR)$(PREFIX)/etc/rc.d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/systemd/user
	install -m 755 rc.d/portmap rc.d/mountd rc.d/nfsd rc.d/statd rc.d/lockd rc.d/rcorder rc.d/rc $(DESTDIR)$(PREFIX)/etc/rc.d/
	sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(addprefix $(DESTDIR)$(PREFIX)/etc/rc.d/,portmap mountd nfsd)
	install -m 644 rc.d/rc.subr $(DESTDIR)$(PREFIX)/etc/rc.d/
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	for name in $(PROGRAMS); do install -m 644 completion/nfssvc.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$name || exit 1; done
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -m 644 completion/_nfssvc $(DESTDIR)$(PREFIX)/share/zsh/site-functions/
	for unit in nfsd.service nfsd.socket mountd.service portmap.service; do \
		sed 's|/usr/local/bin/|$(PREFIX)/bin/|' systemd/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit 1; done
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' systemd/unfsd-user.service > $(DESTDIR)$(PREFIX)/lib/systemd/user/unfsd.service
	for page in man/*.[1-8]; do d=$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}; \
		install -d $$d && install -m 644 $$page $$d/ || exit 1; done

# Not with DESTDIR: a virtual environment knows its own path.
install-programs:
	@PYTHON="$(PYTHON)" sh tools/deps.sh build
	@test -z "$(DESTDIR)" || { echo "make install: programs cannot be installed with DESTDIR; use make deb"; exit 1; }
	"$(PYTHON)" -m venv $(PREFIX)/lib/nfssvc
	$(PREFIX)/lib/nfssvc/bin/python -m pip install -qq --disable-pip-version-check '.[screen,prometheus]'
	install -d $(PREFIX)/bin
	for name in $(PROGRAMS); do ln -sf $(PREFIX)/lib/nfssvc/bin/$$name $(PREFIX)/bin/$$name || exit 1; done

install-lib: lib
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m 755 $(BUILD)/libnfssvc.so.0 $(DESTDIR)$(PREFIX)/lib/
	ln -sf libnfssvc.so.0 $(DESTDIR)$(PREFIX)/lib/libnfssvc.so
	install -m 644 nfssvc_shim/nfssvc.h $(DESTDIR)$(PREFIX)/include/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' nfssvc_shim/libnfssvc.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/libnfssvc.pc

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/lib/libnfssvc.so $(DESTDIR)$(PREFIX)/lib/libnfssvc.so.0 \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig/libnfssvc.pc $(DESTDIR)$(PREFIX)/include/nfssvc.h
	rm -rf $(DESTDIR)$(PREFIX)/lib/nfssvc
	for f in $(PROGRAMS); do rm -f $(DESTDIR)$(PREFIX)/bin/$$f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$f; done
	for f in portmap mountd nfsd statd lockd rc.subr rcorder rc; do rm -f $(DESTDIR)$(PREFIX)/etc/rc.d/$$f; done
	for f in nfsd.service nfsd.socket mountd.service portmap.service; do rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/$$f; done
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/user/unfsd.service $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_nfssvc
	for page in man/*.[1-8]; do rm -f $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page#man/}; done
	@for dir in etc/rc.d lib/pkgconfig lib/systemd/system lib/systemd/user lib/systemd share/bash-completion/completions \
		share/bash-completion share/man/man1 share/man/man2 share/man/man5 share/man/man8 share/zsh/site-functions share/zsh; do \
		test ! -d $(DESTDIR)$(PREFIX)/$$dir || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/$$dir || exit 1; done

# One for Python 3.11 and later, in dist/; what it needs of others (a compiler for python-prctl) pip gets when it is installed.
wheel: build
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@ls dist/*.whl

# A Debian package beside this directory; needs debhelper dh-python pybuild-plugin-pyproject python3-cffi.
deb:
	dpkg-buildpackage -b -us -uc

clean:
	rm -rf build dist $(VENV) *.egg-info $(EXTENSIONS)
