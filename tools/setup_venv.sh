# Shared by tools/quickstart and tools/test: makes a virtual environment with the project in it.
#
#   setup_venv EXTRAS     installs ".EXTRAS" (for example "[dev]" or "") and sets $VENV_PYTHON
#
# FTKERAS_TENSORFLOW is the TensorFlow version to install instead of the newest release, for example
# 2.22.0rc0. Each version has an environment of its own: .venv-tf2.22.0rc0 in the repository.
# FTKERAS_VENV says where the environment goes; .venv in the repository by default.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
TENSORFLOW="${FTKERAS_TENSORFLOW:-}"
VENV="${FTKERAS_VENV:-$ROOT/.venv${TENSORFLOW:+-tf$TENSORFLOW}}"
VENV_PYTHON="$VENV/bin/python"

say() { printf '==> %s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Runs each candidate, since a name on the path may lead nowhere or to another version.
find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3.10 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
      >/dev/null 2>&1; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

# Changes when the interpreter, the extras, TensorFlow's version, or what the package declares to
# need change.
stamp_of() {
  "$VENV_PYTHON" - "$ROOT" "$1" "$TENSORFLOW" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
parts = [sys.version, *sys.argv[1:]]
parts += [(root / name).read_text() for name in ("setup.cfg", "pyproject.toml")]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON
}

# A release candidate of TensorFlow asks for keras-nightly, whose files go into keras's own folder:
# what is there then is a mix of both. The release of Keras stays.
keep_one_keras() {
  local release
  "$VENV_PYTHON" -m pip show --quiet keras-nightly >/dev/null 2>&1 || return 0
  release="$("$VENV_PYTHON" -c 'from importlib.metadata import version; print(version("keras"))')"
  "$VENV_PYTHON" -m pip uninstall --quiet --yes keras-nightly &&
    "$VENV_PYTHON" -m pip install --quiet --force-reinstall --no-deps "keras==$release"
}

setup_venv() {
  local extras="$1" python stamp stamp_file="$VENV/ftkeras-stamp$1"
  if ! "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)" || fail "no Python 3.10 to 3.13 found. Install one, or put it on PATH."
    say "Making a virtual environment in $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV" ||
      fail "$python cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv"
  fi
  stamp="$(stamp_of "$extras")"
  if [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ]; then
    say "Installed already in $VENV"
    return
  fi
  say "Installing ftkeras${extras} into $VENV (TensorFlow is a download of about 600 MB)"
  "$VENV_PYTHON" -m pip install --quiet --upgrade pip || fail "pip could not update itself."
  # Named exactly, a release candidate is taken, which pip passes over otherwise.
  "$VENV_PYTHON" -m pip install --editable "$ROOT$extras" \
    ${TENSORFLOW:+"tensorflow==$TENSORFLOW"} ||
    fail "the installation failed; pip says why above. Run the same command again to retry."
  keep_one_keras || fail "keras could not be installed again. Run the same command again to retry."
  printf '%s\n' "$stamp" >"$stamp_file"
}
